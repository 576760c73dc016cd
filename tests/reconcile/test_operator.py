"""The operator against an API server, with the rights it declares: what it does, what it writes, how jobs end."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from finetune_api import names
from finetune_local.apiserver import ApiError
from finetune_local.operator_process import free_port
from finetune_operator.permissions import PERMISSIONS
from tests import builders as b
from tests.reconcile.plane import (
    DEADLINE,
    OPERATOR,
    RUNS,
    SUCCEEDS,
    Plane,
    add_crd,
    asynchronous,
    plane,
    until,
)


async def settled(p: Plane, operator) -> None:
    """The operator has seen all there is and has nothing to do."""
    await until(lambda: operator.health.ready and operator.queue.idle(), "the operator is idle")
    await asyncio.sleep(0.2)
    await until(lambda: operator.queue.idle(), "the operator is idle")


@asynchronous
async def test_a_job_succeeds_in_at_most_four_writes_and_each_step_is_an_event(tmp_path):
    """Three of them are steps; the middle one is missed where the pod ends before it was seen to run."""
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply()
        status = await p.phase("Succeeded")
        job, *statuses = p.writes()
        assert (job, set(statuses)) == ("create jobs", {"patch finetunejobs/status"})
        steps = ["JobCreated", "Training", "Succeeded"] if len(statuses) == 3 else ["JobCreated", "Succeeded"]
        await until(lambda: p.events() == steps, "an Event for each step")
        assert status["result"]["adapterURI"].startswith("s3://team-a/adapters/support-bot/")
        assert status["headline"] == {"progress": "100%", "metric": "eval_loss", "baseToTuned": "1.83→1.21"}
        assert {c["type"]: c["status"] for c in status["conditions"]} == {
            "Ready": "True",
            "Reconciling": "False",
            "Stalled": "False",
            "Validated": "True",
            "Trained": "True",
            "Evaluated": "True",
            "Published": "True",
        }


@asynchronous
async def test_nothing_is_written_while_nothing_changes(tmp_path):
    async with plane(tmp_path) as p, p.operator(progress_interval=0.05) as operator:
        p.script["support-bot"] = [RUNS]
        await p.apply()
        await p.phase("Running")
        await settled(p, operator)
        before = len(p.server.requests)
        p.server.end_watches()
        await until(lambda: p.server.open_watches >= 4, "the watches are back")
        await settled(p, operator)
        assert p.writes(before) == []


@asynchronous
async def test_a_restart_over_finished_jobs_writes_nothing(tmp_path):
    async with plane(tmp_path) as p:
        p.script |= {f"job-{n}": [SUCCEEDS] for n in range(5)}
        async with p.operator():
            for name in p.script:
                await p.apply(name=name)
            for name in p.script:
                await p.phase("Succeeded", name)
        before = len(p.server.requests)
        async with p.operator() as operator:
            await settled(p, operator)
            assert len(operator.world.finetunejobs) == 5
        assert p.writes(before) == []
        assert [call for call in p.calls(before) if call.verb == "get" and call.name] == []


@asynchronous
async def test_a_job_that_was_deleted_before_the_operator_saw_it_leaves_nothing(tmp_path):
    async with plane(tmp_path) as p:
        await p.apply()
        await p.delete()
        async with p.operator() as operator:
            await settled(p, operator)
        assert p.writes() == []


@asynchronous
async def test_a_job_that_is_deleted_as_its_job_is_being_created_leaves_nothing(tmp_path):
    async with plane(tmp_path) as p:

        async def delete_first(call, when):
            if when == "before" and call.resource == "jobs" and call.verb == "create":
                p.server.interceptor = None
                await p.delete()

        p.server.interceptor = delete_first
        async with p.operator() as operator:
            await p.apply()
            await until(lambda: "create jobs" in p.writes(), "the Job is created")
            await until(lambda: not p.jobs(), "the garbage collector takes the Job")
            await settled(p, operator)
            assert len(operator.world.finetunejobs) == 0


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
@asynchronous
async def test_a_job_that_is_deleted_takes_its_job_along_and_is_forgotten(tmp_path, phase):
    async with plane(tmp_path) as p, p.operator() as operator:
        p.script["support-bot"] = [RUNS if phase == "Running" else SUCCEEDS]
        await p.apply()
        await p.phase(phase)
        before = len(p.server.requests)
        await p.delete()
        await until(lambda: not p.jobs() and not len(operator.world.finetunejobs), "all is gone")
        await settled(p, operator)
        assert [write for write in p.writes(before) if "jobs" in write and "status" not in write] == []


@asynchronous
async def test_a_job_applied_again_under_its_old_name_is_another_one(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [SUCCEEDS]
        first = await p.apply()
        await p.phase("Succeeded")
        await p.delete()
        second = await p.apply()
        await p.phase("Succeeded")
        await until(lambda: len(p.jobs()) == 1, "only the second Job is left")
        assert p.jobs()[0]["metadata"]["name"] == names.child_name("support-bot", second["metadata"]["uid"], 0)
        assert first["metadata"]["uid"] != second["metadata"]["uid"]


@asynchronous
async def test_a_job_whose_job_was_deleted_by_hand_goes_on_in_another_attempt_and_says_why(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [RUNS, SUCCEEDS]
        await p.apply()
        name = (await p.phase("Running"))["jobRef"]["name"]
        await p.delete_job(name)
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["JobDeleted", "Succeeded"]
        assert f"Job {name} was deleted before it had finished" in status["attempts"][0]["message"]
        assert "failures" not in status
        assert "JobDeleted" in p.events()


async def deleted_by_hand(p: Plane, pod: str) -> None:
    await p.client.delete(f"/api/v1/namespaces/{b.NAMESPACE}/pods/{pod}")


async def evicted(p: Plane, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    await p.client.create(f"/api/v1/namespaces/{b.NAMESPACE}/pods/{pod}/eviction", eviction)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("taken", [deleted_by_hand, evicted])
@asynchronous
async def test_a_pod_that_is_taken_away_does_not_count(tmp_path, taken, nodes):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [RUNS, RUNS, SUCCEEDS]
        await p.apply(runPolicy={"maxRetries": 0}, resources={"nodes": nodes})
        for _ in range(2):
            job = (await p.phase("Running"))["jobRef"]["name"]
            *_, pod = [pod["metadata"]["name"] for pod in p.pods() if pod["metadata"]["name"].startswith(job)]
            await taken(p, pod)
            await until(lambda job=job: p.status()["jobRef"]["name"] != job, "the next attempt")
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Disrupted", "Disrupted", "Succeeded"]
        assert "failures" not in status


@asynchronous
async def test_a_suspended_job_has_no_job_and_no_pod_and_goes_on_when_it_may(tmp_path):
    async with plane(tmp_path) as p, p.operator() as operator:
        p.script["support-bot"] = [RUNS, SUCCEEDS]
        await p.apply()
        await p.phase("Running")
        await p.change(suspend=True)
        status = await p.phase("Suspended")
        assert (p.jobs(), p.pods()) == ([], [])
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Suspended"]
        await settled(p, operator)
        before = len(p.server.requests)
        await settled(p, operator)
        assert p.writes(before) == []
        await p.change(suspend=False)
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Suspended", "Succeeded"]
        assert "failures" not in status


@asynchronous
async def test_a_job_that_is_applied_suspended_waits_for_its_word(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply(suspend=True)
        await p.phase("Suspended")
        assert p.jobs() == []
        await p.change(suspend=False)
        await p.phase("Succeeded")


@asynchronous
async def test_a_cancelled_job_ends_and_its_record_stays(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [RUNS]
        await p.apply()
        await p.phase("Running")
        await p.change(cancel=True)
        status = await p.phase("Cancelled")
        assert (p.jobs(), p.pods()) == ([], [])
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Cancelled"]
        await until(lambda: p.events()[-2:] == ["Stopping", "Cancelled"], "the Events")
        await p.change(cancel=False)
        await until(lambda: p.status()["observedGeneration"] == 3, "the change is seen")
        assert p.status()["phase"] == "Cancelled"


@asynchronous
async def test_a_job_past_its_deadline_fails_and_frees_what_it_held(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [RUNS]
        await p.apply(runPolicy={"deadline": "1s"})
        status = await p.phase("Failed")
        assert "was not done within 1s (spec.runPolicy.deadline)" in status["message"]
        assert (p.jobs(), p.pods()) == ([], [])


@asynchronous
async def test_a_trainer_that_reports_no_progress_is_stopped_and_tried_again(tmp_path):
    async with plane(tmp_path) as p:
        port = free_port()
        reporting = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port}
        p.script["support-bot"] = [RUNS, SUCCEEDS]
        async with p.operator(**reporting):
            await p.apply(runPolicy={"stallTimeout": "1s"})
            status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Stalled", "Succeeded"]
        assert status["failures"] == 1


@asynchronous
async def test_a_pod_that_cannot_start_is_given_up_in_time_and_one_that_finds_no_node_is_not(tmp_path):
    async with plane(tmp_path) as p, p.operator(give_up_after=1.0) as operator:
        unschedulable = b.pod(conditions=(b.condition("PodScheduled", "Unschedulable", "0/1 nodes", "False"),))
        p.script |= {"waits": [[unschedulable]], "support-bot": [[b.waiting_pod("ImagePullBackOff", "no such image")]]}
        await p.apply(name="waits")
        await p.apply()
        status = await p.phase("Failed")
        assert "no such image; given up after 1 s" in status["message"]
        await until(lambda: [job["metadata"]["name"][:5] for job in p.jobs()] == ["waits"], "its Job is gone")
        await settled(p, operator)
        assert "0/1 nodes" in p.status("waits")["message"]


@asynchronous
async def test_a_queue_lets_the_job_go_and_takes_it_back(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        await p.apply(scheduling={"queue": "team-a"})
        name = (await p.phase("Queued"))["jobRef"]["name"]
        (job,) = p.jobs()
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
        path = f"/apis/batch/v1/namespaces/{b.NAMESPACE}/jobs/{name}"
        for suspend, life, phase in ((False, RUNS, "Running"), (True, RUNS, "Queued"), (False, SUCCEEDS, "Succeeded")):
            p.script["support-bot"] = [life]
            await p.client.patch(path, {"spec": {"suspend": suspend}})
            status = await p.phase(phase)
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Succeeded"]
        assert "failures" not in status


@asynchronous
async def test_after_its_time_a_finished_job_leaves_its_finetunejob_alone(tmp_path):
    async with plane(tmp_path) as p, p.operator() as operator:
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(1)], SUCCEEDS]
        await p.apply(runPolicy={"ttlAfterFinished": "1s"})
        await p.phase("Succeeded")
        await until(lambda: not p.jobs() and not p.pods(), "the Jobs are gone")
        await settled(p, operator)
        assert p.status()["phase"] == "Succeeded"
        assert p.jobs() == []


@asynchronous
async def test_a_foreign_job_under_our_name_is_left_untouched(tmp_path):
    async with plane(tmp_path) as p:
        created = await p.apply()
        manifest = b.job(name=names.child_name("support-bot", created["metadata"]["uid"], 0))
        manifest["metadata"] = {"name": manifest["metadata"]["name"], "namespace": b.NAMESPACE}
        container = {"name": "main", "image": "busybox"}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        manifest |= {"spec": {"template": template, "suspend": True}}
        del manifest["status"]
        await p.client.create(f"/apis/batch/v1/namespaces/{b.NAMESPACE}/jobs", manifest)
        await until(lambda: p.jobs()[0].get("status", {}).get("conditions"), "the Job controller is done with it")
        version = p.jobs()[0]["metadata"]["resourceVersion"]
        async with p.operator():
            status = await p.phase("Failed")
            await until(lambda: p.events() == ["NameConflict"], "the Event")
        assert "is not controlled by this FineTuneJob; it is left untouched" in status["message"]
        assert [job["metadata"]["resourceVersion"] for job in p.jobs()] == [version]
        assert "jobRef" not in status


NODES = {"nodes": 2, "gpusPerNode": 1}


@asynchronous
async def test_a_job_on_two_nodes_has_one_service_for_all_attempts_and_a_pod_for_each_node(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [{0: [b.running_pod(), b.ended_pod(137)], 1: RUNS}, SUCCEEDS]
        created = await p.apply(resources=NODES)
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["TrainerKilled", "Succeeded"]
        (service,) = p.objects("", "services")
        assert service["metadata"]["name"] == names.service_name("support-bot", created["metadata"]["uid"])
        assert service["metadata"]["ownerReferences"][0]["uid"] == created["metadata"]["uid"]
        assert {pod["spec"]["subdomain"] for pod in p.pods()} == {service["metadata"]["name"]}
        present = [pod for pod in p.pods() if pod["metadata"]["labels"][names.LABEL_ATTEMPT] == "1"]
        assert len(present) == 2
        assert len({pod["spec"]["hostname"] for pod in p.pods()}) == len(p.pods())
        await p.delete()
        await until(lambda: not p.objects("", "services") and not p.pods(), "all is gone with the FineTuneJob")


@asynchronous
async def test_a_foreign_service_under_our_name_is_left_untouched(tmp_path):
    async with plane(tmp_path) as p:
        created = await p.apply(resources=NODES)
        name = names.service_name("support-bot", created["metadata"]["uid"])
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": "None"}}
        await p.client.create(f"/api/v1/namespaces/{b.NAMESPACE}/services", service)
        (before,) = p.objects("", "services")
        async with p.operator():
            status = await p.phase("Failed")
        assert f"Service {b.NAMESPACE}/{name} exists and is not controlled by this FineTuneJob" in status["message"]
        assert p.objects("", "services") == [before]
        assert p.jobs() == []


@asynchronous
async def test_names_of_any_legal_length_and_names_that_cut_to_the_same_words_all_get_their_own_job(tmp_path):
    longest, cut = "a" * 253, "b" * 60
    applied = [longest, f"{cut}-one", f"{cut}-two", "1.2-dots"]
    async with plane(tmp_path) as p, p.operator():
        p.script |= {name: [SUCCEEDS] for name in applied}
        for name in applied:
            await p.apply(name=name)
        for name in applied:
            await p.phase("Succeeded", name)
            await until(lambda name=name: {"JobCreated", "Succeeded"} <= set(p.events(name)), "its Events")
        assert len({job["metadata"]["name"] for job in p.jobs()}) == len(applied)


@asynchronous
async def test_a_model_that_another_job_published_is_what_the_next_job_starts_from(tmp_path):
    published = {"modelURI": "s3://team-a/models/base/0/", "digest": "sha256:d"}
    async with plane(tmp_path) as p, p.operator():
        p.script |= {"base": [[b.running_pod(), b.ended_pod(0, b.result(result=published))]], "tuned": [SUCCEEDS]}
        early = await p.apply(name="early", model={"uri": "job://base"})
        assert "there is no FineTuneJob base" in (await p.phase("Failed", "early"))["message"]
        await p.apply(name="base", method={"adapter": "none"})
        await p.phase("Succeeded", "base")
        await p.apply(name="tuned", model={"uri": "job://base"})
        await p.phase("Succeeded", "tuned")
        run = next(job for job in p.jobs() if job["metadata"]["name"].startswith("tuned"))
        annotation = run["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN]
        assert json.loads(annotation)["model"] == {
            "uri": "s3://team-a/models/base/0/",
            "origin": "job://base",
            "digest": "sha256:d",
            "stack": [],
            "adapters": [],
        }
        assert len(p.jobs()) == 2
        assert early["metadata"]["uid"]


@asynchronous
async def test_a_trainer_that_is_killed_is_tried_again_and_the_retry_is_told(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(137)], SUCCEEDS]
        await p.apply()
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["TrainerKilled", "Succeeded"]
        assert status["failures"] == 1
        assert "Retrying" in p.events()


@asynchronous
async def test_memory_that_runs_out_halves_what_the_next_attempt_lets_through(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(137, reason="OOMKilled")], [b.ended_pod(16)], SUCCEEDS]
        await p.apply()
        status = await p.phase("Succeeded")
        assert [attempt.get("microBatchDivisor", 1) for attempt in status["attempts"]] == [1, 2, 4]
        assert [attempt["reason"] for attempt in status["attempts"]] == ["OutOfMemory", "OutOfMemory", "Succeeded"]
        runs = [job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN] for job in p.jobs()]
        assert sorted(json.loads(run)["microBatchDivisor"] for run in runs) == [1, 2, 4]
        assert len({json.loads(run)["outputPrefix"] for run in runs}) == 1


@asynchronous
async def test_a_trainer_that_is_killed_every_time_fails_when_the_retries_are_used_up(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(137)]]
        await p.apply(runPolicy={"maxRetries": 1})
        status = await p.phase("Failed")
        assert "SIGKILL" in status["message"]
        assert "It failed 2 times" in status["message"]
        assert [attempt["reason"] for attempt in status["attempts"]] == ["TrainerKilled", "TrainerKilled"]
        assert status["failures"] == 2


@asynchronous
async def test_a_users_fault_is_not_retried_and_is_told_in_the_trainers_words_with_the_way_out(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        words = "s3://team-a/train.jsonl line 3: not JSON. Correct the line."
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(11, b.error("DataInvalid", words))]]
        await p.apply()
        status = await p.phase("Failed")
        assert status["message"] == f"{words} After the mend delete the FineTuneJob and apply it again."
        assert len(p.pods()) == 1
        conditions = {c["type"]: c for c in status["conditions"]}
        assert conditions["Stalled"]["status"] == "True"
        assert conditions["Ready"]["reason"] == "DataInvalid"


@asynchronous
async def test_a_pod_that_cannot_start_is_told_and_goes_on_when_the_cause_is_mended(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        p.script["support-bot"] = [[b.waiting_pod("CreateContainerConfigError", 'secret "hf" not found')]]
        await p.apply()
        await until(lambda: 'secret "hf" not found' in p.status().get("message", ""), "the cause is told")
        assert p.status()["phase"] == "Starting"
        for state in SUCCEEDS:
            await p.play(p.pods()[0], state)
        await p.phase("Succeeded")


@asynchronous
async def test_a_job_that_the_api_server_refuses_fails_with_its_words(tmp_path):
    async with plane(tmp_path) as p:

        async def quota(call, when):
            if when == "before" and call.resource == "jobs" and call.verb == "create":
                raise ApiError(403, "Forbidden", 'jobs.batch "x" is forbidden: denied by policy q')

        p.server.interceptor = quota
        async with p.operator():
            await p.apply()
            status = await p.phase("Failed")
            await until(lambda: p.events() == ["JobRefused"], "the Event")
        assert "denied by policy q" in status["message"]


@asynchronous
async def test_an_api_server_that_fails_now_and_then_is_asked_again(tmp_path):
    async with plane(tmp_path) as p:
        seen: set[tuple[str, str]] = set()

        async def fail_once(call, when):
            kind = (call.verb, call.resource)
            if call.user == OPERATOR and call.user_agent == names.MANAGER and when == "before" and kind not in seen:
                seen.add(kind)
                raise ApiError(500, "InternalError", "etcd is away")

        p.server.interceptor = fail_once
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator(lease_retry_period=0.1):
            await p.apply()
            await p.phase("Succeeded")
        assert {("create", "jobs"), ("patch", "finetunejobs"), ("watch", "pods"), ("watch", "jobs")} <= seen


@asynchronous
async def test_watches_whose_history_is_gone_are_listed_anew(tmp_path):
    async with plane(tmp_path) as p, p.operator() as operator:
        await p.apply()
        await p.phase("Starting")
        await settled(p, operator)
        pod = (await until(p.pods, "the pod"))[0]
        await p.play(pod, b.running_pod())
        p.server.compact()
        p.server.end_watches()
        for state in SUCCEEDS:
            await p.play(pod, state)
        await p.phase("Succeeded")


@asynchronous
async def test_a_write_that_crosses_somebody_elses_is_made_again_on_what_they_wrote(tmp_path):
    async with plane(tmp_path) as p:
        crossed = []

        async def cross(call, when):
            if when == "before" and call.subresource == "status" and call.user == OPERATOR and len(crossed) < 3:
                crossed.append(call)
                path = f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}/support-bot"
                await p.client.patch(path, {"metadata": {"labels": {"touched": str(len(crossed))}}})

        p.server.interceptor = cross
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator():
            await p.apply()
            await p.phase("Succeeded")
        assert [call.status for call in crossed] == [409, 409, 409]
        assert len(p.jobs()) == 1


@asynchronous
async def test_only_the_namespaces_to_serve_are_read_and_served(tmp_path):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator(watch_namespaces=(b.NAMESPACE, "team-b")) as operator:
            await p.apply(name="elsewhere", namespace="default")
            await p.apply()
            await p.phase("Succeeded")
            await settled(p, operator)
        assert p.status("elsewhere") == {}
        read = {
            call.namespace
            for call in p.server.requests
            if call.user == OPERATOR and call.verb in ("list", "watch") and call.resource != names.PROFILE_PLURAL
        }
        assert read == {b.NAMESPACE, "team-b"}


@asynchronous
async def test_shards_by_label_serve_their_own_and_one_that_changes_its_label_is_gone_on_with_by_the_other(tmp_path):
    async with plane(tmp_path) as p:
        p.script |= {"ours": [SUCCEEDS], "moves": [RUNS], "theirs": [SUCCEEDS]}
        async with p.operator(watch_selector="shard=a", leader_election=False) as first:
            for name, labels in (("ours", {"shard": "a"}), ("moves", {"shard": "a"}), ("theirs", {})):
                manifest = b.manifest(name)
                await p.apply(manifest | {"metadata": manifest["metadata"] | {"labels": labels}})
            await p.phase("Succeeded", "ours")
            await p.phase("Running", "moves")
            assert p.status("theirs") == {}
            async with p.operator(watch_selector="shard!=a", leader_election=False) as second:
                await p.phase("Succeeded", "theirs")
                path = f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}/moves"
                await p.client.patch(path, {"metadata": {"labels": {"shard": "b"}}})
                await until(lambda: len(second.world.finetunejobs) == 2, "the second has it")
                await until(lambda: len(first.world.finetunejobs) == 1, "the first has left it")
                pod = next(pod for pod in p.pods() if pod["metadata"]["name"].startswith("moves"))
                await p.play(pod, b.ended_pod(0, b.result()))
                await p.phase("Succeeded", "moves")
        assert [attempt["reason"] for attempt in p.status("moves")["attempts"]] == ["Succeeded"]
        assert len(p.jobs()) == 3


@asynchronous
async def test_two_replicas_that_both_lead_do_no_harm(tmp_path):
    async with plane(tmp_path) as p:
        p.script |= {f"job-{n}": [SUCCEEDS] for n in range(5)}
        alone = {"leader_election": False}
        async with p.operator(identity="one", **alone), p.operator(identity="two", **alone):
            for name in p.script:
                await p.apply(name=name)
            for name in p.script:
                assert (await p.phase("Succeeded", name))["attempts"][0]["number"] == 0
        assert len(p.jobs()) == 5
        assert len(p.pods()) == 5


@asynchronous
async def test_a_standby_does_nothing_until_the_leader_is_gone(tmp_path):
    quick = {"lease_duration": 1.0, "lease_renew_deadline": 0.8, "lease_retry_period": 0.1}
    async with plane(tmp_path) as p:
        async with p.operator(identity="one", **quick) as first:
            await until(lambda: first.elector.leading, "one leads")
            async with p.operator(identity="two", **quick) as second:
                await until(lambda: second.health.ready, "two is ready")
                await p.apply()
                await p.phase("Starting")
                assert not second.elector.leading
                p.script["support-bot"] = [SUCCEEDS]
                await p.phase("Succeeded")
        async with p.operator(identity="three", **quick) as third:
            await until(lambda: third.elector.leading, "three leads")
            p.script["next"] = [SUCCEEDS]
            await p.apply(name="next")
            await p.phase("Succeeded", "next")


@asynchronous
async def test_the_permissions_are_just_what_the_operator_uses(tmp_path):
    """No call is refused, and each permission is used, in a story with a retry on two nodes, a source, a report, a
    suspension and a Job without a pod."""
    async with plane(tmp_path) as p:
        port = free_port()
        reporting = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port}
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(137)], SUCCEEDS]

        async def older(call, when):
            """An API server that cannot stream lists, so that the permission to list is needed."""
            if "sendInitialEvents" in call.path:
                raise ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch")

        p.server.interceptor = older
        async with p.operator(**reporting, lease_retry_period=0.05):
            await p.apply(resources=NODES)
            await p.phase("Succeeded")
            await p.apply(name="early", model={"uri": "job://nothing"})
            await p.phase("Failed", "early")
            p.script["rests"] = [RUNS]
            await p.apply(name="rests")
            await p.phase("Running", "rests")
            await p.change("rests", suspend=True)
            await p.phase("Suspended", "rests")
            p.server.interceptor = no_pods
            await p.apply(name="refused")
            await until(lambda: "PodRefused" in p.events("refused"), "its Events are read")
            p.server.interceptor = None
            assert (await p.report(port, "not a token", b.report()))[0] == 401
        asked = {
            (call.group, f"{call.resource}/{call.subresource}" if call.subresource else call.resource, call.verb)
            for call in p.server.requests
            if call.user == OPERATOR and call.resource
        }
        assert [call for call in p.server.requests if call.user == OPERATOR and call.status == 403] == []
        assert asked == {(rule.group, rule.full_resource, verb) for rule in PERMISSIONS for verb in rule.verbs}


async def no_pods(call, when) -> None:
    if when == "before" and call.resource == "pods" and call.verb == "create":
        raise ApiError(403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"')


def resident_mib(pid: int) -> float:
    """Memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


@asynchronous
async def test_the_process_starts_before_the_crd_works_once_it_is_there_and_stays_small(tmp_path):
    async with plane(tmp_path, with_crd=False) as p, p.process() as process:
        await until(lambda: p.calls(), "it looks for the CRD")
        assert process.returncode is None
        await add_crd(p.client)
        p.script |= {f"job-{n}": [SUCCEEDS] for n in range(20)}
        for name in p.script:
            await p.apply(name=name)
        for name in p.script:
            await p.phase("Succeeded", name)
        assert resident_mib(process.pid) < 120
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
        lease = p.objects("coordination.k8s.io", "leases")[0]
        assert lease["spec"]["holderIdentity"] == ""
