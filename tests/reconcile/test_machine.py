"""Two replicas that both think they lead, on caches that lag and cross, crash at any call, while pods fail, vanish and
hang and people suspend, resume, cancel and delete: what holds all the same.

A fixpoint has no actions; no attempt begins while anything of another one lives, or after a fault that another one
cannot mend; disruptions are not counted; nothing leaves a final phase; every trace ends; and the end is told as it was,
whatever a cache said. What must hold at a single call is checked by ``FakeCluster``.
"""

import copy
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api import names
from finetune_api.conditions import Phase
from finetune_api.run import Report
from finetune_operator.connection import ApiError
from finetune_operator.finetunejobs import slim
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.reconcile import Reconciler
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.times import format_time
from finetune_operator.world import World
from tests import builders as b
from tests.reconcile.fake import KEY, Crash, FakeCluster, Stream, now

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
POLICY = {"maxRetries": 1, "stallTimeout": "2m"}
SETTINGS = Settings(retry_backoff=10, longest_retry_backoff=40, give_up_after=100)
REPORTING = Reporting("https://operator.ft.svc/v1/reports", "PEM")
REPLICAS = st.integers(0, 1)
KINDS = st.sampled_from(["finetunejobs", "jobs", "pods"])
ENDS = st.sampled_from(
    [
        b.ended_pod(0, b.result()),
        b.ended_pod(0, "unreadable"),
        b.ended_pod(11, b.error("DataInvalid", "line 3")),
        b.ended_pod(16),
        b.ended_pod(20),
        b.ended_pod(21),
        b.ended_pod(137),
        b.ended_pod(137, reason="OOMKilled"),
        b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "Evicted", "away"),)),
    ]
)
EVICTED = b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "EvictionByEvictionAPI", "away"),))
WAITS = st.sampled_from([b.waiting_pod("ContainerCreating"), b.waiting_pod("ImagePullBackOff", "no such image")])
REFUSAL = {"message": 'Error creating: pods "x" is forbidden: exceeded quota: q', "lastTimestamp": b.CREATED}


class Replica:
    """One operator process: its caches, and how far it has been told."""

    def __init__(self, cluster: FakeCluster, clock) -> None:
        self.cluster = cluster
        self.stream = Stream()
        cluster.streams.append(self.stream)
        self.world = World(lambda key: None, clock=lambda: clock().timestamp())
        self.reconciler = Reconciler(cluster, self.world, SETTINGS, lambda: REPORTING, clock)
        self._list()

    def _list(self) -> None:
        """What a start reads."""
        there = [self.cluster.finetunejob] if self.cluster.finetunejob else []
        self.world.finetunejobs.listed([slim(copy.deepcopy(raw)) for raw in there], None)
        self.world.jobs.listed([JobState.of(raw) for raw in self.cluster.jobs.values()], None)
        self.world.pods.listed([PodState.of(raw) for raw in self.cluster.pods.values()], None)

    def stop(self) -> None:
        self.cluster.streams.remove(self.stream)

    def hear(self, kind: str) -> None:
        """One more event of a kind."""
        waiting = getattr(self.stream, kind)
        if not waiting:
            return
        event, raw = waiting.popleft()
        if kind == "finetunejobs":
            self.world.finetunejobs.event(event, slim(raw))
        elif kind == "jobs":
            self.world.jobs.event(event, JobState.of(raw))
        else:
            self.world.pods.event(event, PodState.of(raw))

    def hear_all(self) -> None:
        for kind in ("pods", "jobs", "finetunejobs"):
            while getattr(self.stream, kind):
                self.hear(kind)

    def turn(self) -> float | None:
        try:
            return now(self.reconciler(KEY))
        except ApiError:
            return 0.0


class Machine(RuleBasedStateMachine):
    """Everything that can happen to one FineTuneJob."""

    @initialize(
        deadline=st.sampled_from([{}, {}, {"deadline": "90m"}]),
        ttl=st.sampled_from([{}, {"ttlAfterFinished": "1m"}]),
        preflight=st.sampled_from(["Never", "Always"]),
    )
    def begin(self, deadline, ttl, preflight) -> None:
        self.time = START
        self.cluster = FakeCluster()
        self.pods_made = 0
        self.deleted_by_hand = 0
        self.cluster.store("finetunejobs", b.finetunejob(runPolicy=POLICY | deadline | ttl, preflight=preflight))
        self.replicas = [Replica(self.cluster, lambda: self.time) for _ in range(2)]

    # the operator

    @rule(who=REPLICAS, kind=KINDS)
    def an_event_arrives(self, who, kind):
        self.replicas[who].hear(kind)

    @rule(who=REPLICAS)
    def a_replica_works(self, who):
        self.cluster.arm(None, "before")
        self.replicas[who].turn()

    @rule(who=REPLICAS)
    def a_replica_catches_up(self, who):
        self.cluster.arm(None, "before")
        self.replicas[who].hear_all()
        self.replicas[who].turn()

    @rule(who=REPLICAS, end=ENDS, over=st.booleans())
    def an_attempt_takes_its_way(self, who, end, over):
        """As far as it can from where it is: after its wait, to the end of its pod, and perhaps of its Job."""
        for step in (
            lambda: self.a_replica_catches_up(who),
            lambda: self.time_passes(61),
            lambda: self.a_replica_catches_up(who),
            self._make_pod,
            lambda: self._play(b.running_pod()),
            lambda: self.a_replica_catches_up(who),
            lambda: self._play(end),
        ):
            step()
        if over:
            self._make_pod()

    @rule(who=REPLICAS, state=st.one_of(WAITS, st.just(b.running_pod())))
    def nothing_happens_for_long(self, who, state):
        self._make_pod()
        self._play(state)
        for _ in range(4):
            self.a_replica_catches_up(who)
            self.time_passes(61)

    @rule(who=REPLICAS, at=st.integers(1, 10), when=st.sampled_from(["before", "after"]))
    def a_replica_dies_at_work_and_starts_again(self, who, at, when):
        self.cluster.arm(at, when)
        try:
            self.replicas[who].turn()
        except Crash:
            self.replicas[who].stop()
            self.cluster.arm(None, "before")
            self.replicas[who] = Replica(self.cluster, lambda: self.time)

    @rule(who=REPLICAS, percent=st.integers(0, 100), phase=st.sampled_from(["Running", "Evaluating", "Publishing"]))
    def a_pod_reports(self, who, percent, phase):
        for name in self.cluster.pods:
            status = Report.model_validate(b.report(percent, phase=phase)).trainer_status
            self.replicas[who].world.reported(ReceivedReport(f"uid-of-{name}", status, self.time))

    @rule(seconds=st.sampled_from([1, 11, 61]))
    def time_passes(self, seconds):
        self.time += timedelta(seconds=seconds)

    # the Job controller, the kubelet and people

    def _job(self):
        """The one that has not ended."""
        return next((job for job in self.cluster.jobs.values() if not JobState.of(job).ended), None)

    def _living(self):
        return next((pod for pod in self.cluster.pods.values() if not PodState.of(pod).ended), None)

    def _working(self):
        """A pod that lives and is not being deleted."""
        pod = self._living()
        return pod if pod and "deletionTimestamp" not in pod["metadata"] else None

    def _decided(self):
        """Of the live Job, the pod that has ended it."""
        job = self._job()
        return next((p for p in map(PodState.of, self.cluster.pods_of(job)) if p.ended), None) if job else None

    @rule()
    def the_job_controller_works(self):
        self._make_pod()

    def _make_pod(self) -> None:
        """Or end the Job whose pod has ended."""
        if not self._job() or self._living() or self._job()["spec"].get("suspend"):
            return
        job, pod = copy.deepcopy(self._job()), self._decided()
        if pod is None:
            self.pods_made += 1
            created = f"2026-11-21T10:{self.pods_made // 60:02}:{self.pods_made % 60:02}Z"
            attempt = int(job["metadata"]["labels"][names.LABEL_ATTEMPT])
            pod = b.pod(name=f"pod-{self.pods_made}", created=created, attempt=attempt)
            pod["metadata"]["labels"] = copy.deepcopy(job["metadata"]["labels"])
            self.cluster.store("pods", pod)
        else:
            self._end(job, "Failed" if pod.failed else "Complete")

    def _end(self, job, kind) -> None:
        ending = b.condition(kind, "BackoffLimitExceeded" if kind == "Failed" else "CompletionsReached")
        job["status"]["conditions"] = [ending | {"lastTransitionTime": format_time(self.time)}]
        self.cluster.store("jobs", job)

    @rule(state=st.one_of(WAITS, st.just(b.running_pod()), ENDS))
    def the_kubelet_works(self, state):
        self._play(state)

    def _of(self, pod, state) -> dict:
        """The state of a pod, of which one that checks leaves other words where it ends well."""
        content = json.dumps(state["status"])
        if pod["metadata"]["labels"].get(names.LABEL_CHECK):
            content = content.replace(json.dumps(b.result()), json.dumps(b.checked()))
        return json.loads(content)

    def _play(self, state) -> None:
        if not self._working():
            return
        pod = copy.deepcopy(self._working())
        pod["status"] = self._of(pod, state)
        self.cluster.store("pods", pod)

    @precondition(lambda self: self._living() and not self._working())
    @rule(state=ENDS, told=st.booleans())
    def a_pod_that_is_being_deleted_ends(self, state, told):
        """And whoever has not heard how, will not."""
        pod = copy.deepcopy(self._living())
        if told:
            pod["status"] = self._of(pod, state)
            self.cluster.store("pods", pod)
        self.cluster.store("pods", None, pod)

    @precondition(lambda self: self._job() and self._working())
    @rule(told=st.booleans())
    def a_node_takes_its_pod_along(self, told):
        job, pod = copy.deepcopy(self._job()), copy.deepcopy(self._working())
        if told:
            pod["status"] = copy.deepcopy(EVICTED["status"])
            self.cluster.store("pods", pod)
        self.cluster.store("pods", None, pod)
        self._end(job, "Failed")

    @precondition(lambda self: self._job() and not self._decided())
    @rule(suspend=st.booleans())
    def a_queue_suspends_or_admits_the_job(self, suspend):
        """Its pods are deleted, and the Job has not failed."""
        job = copy.deepcopy(self._job())
        job["spec"]["suspend"] = suspend
        if suspend:
            for pod in self.cluster.pods_of(job):
                self.cluster.store("pods", None, pod)
        self.cluster.store("jobs", job)

    @rule(refuses=st.booleans())
    def a_quota_refuses_pods(self, refuses):
        self.cluster.complaints = [REFUSAL] if refuses else []

    @precondition(lambda self: self.cluster.jobs and self.cluster.version > 12)
    @rule(data=st.data())
    def somebody_deletes_a_job(self, data):
        self.deleted_by_hand += 1
        name = data.draw(st.sampled_from(sorted(self.cluster.jobs)))
        self.cluster.background_delete(self.cluster.jobs[name])

    @precondition(lambda self: self.cluster.finetunejob)
    @rule(wish=st.sampled_from([{"suspend": True}, {"suspend": False}]))
    def the_user_changes_their_mind(self, wish):
        self._wish(wish)

    @precondition(lambda self: self.cluster.finetunejob and self.cluster.version > 20)
    @rule()
    def the_user_cancels_the_job(self):
        self._wish({"cancel": True})

    def _wish(self, wish) -> None:
        raw = copy.deepcopy(self.cluster.finetunejob)
        raw["spec"] |= wish
        raw["metadata"]["generation"] += 1
        self.cluster.store("finetunejobs", raw)

    @precondition(lambda self: self.cluster.finetunejob)
    @rule()
    def somebody_labels_the_finetunejob(self):
        raw = copy.deepcopy(self.cluster.finetunejob)
        raw["metadata"]["labels"] = {"n": str(self.cluster.version)}
        self.cluster.store("finetunejobs", raw)

    @precondition(lambda self: self.cluster.finetunejob and self.cluster.version > 20)
    @rule()
    def somebody_deletes_the_finetunejob(self):
        self.cluster.store("finetunejobs", None, self.cluster.finetunejob)
        for kind in ("pods", "jobs"):
            for raw in list(getattr(self.cluster, kind).values()):
                self.cluster.store(kind, None, raw)

    # what holds

    @invariant()
    def at_most_one_job_lives_and_each_attempt_has_one(self):
        assert sum(not JobState.of(job).ended for job in self.cluster.jobs.values()) <= 1
        assert len(self.cluster.created) <= len(set(self.cluster.created)) + self.deleted_by_hand

    @invariant()
    def nothing_leaves_a_final_phase(self):
        finals = [phase for phase in self.cluster.phases if Phase(phase).terminal]
        assert finals in ([], self.cluster.phases[-len(finals) :])
        assert len(set(finals)) <= 1

    @invariant()
    def nothing_is_called_deleted_that_is_not(self):
        assert self.deleted_by_hand or "JobDeleted" not in self.cluster.reasons

    def teardown(self):
        """However it came here: told everything, the replicas come to rest, and what ended is final."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.arm(None, "before")
        for _ in range(12):
            self.time += timedelta(seconds=600)
            for pod in [pod for pod in self.cluster.pods.values() if "deletionTimestamp" in pod["metadata"]]:
                self.cluster.store("pods", None, pod)
            for replica in self.replicas:
                replica.hear_all()
                replica.turn()
        before = self.cluster.version
        for replica in self.replicas:
            replica.hear_all()
            replica.turn()
        assert self.cluster.version == before, "a fixpoint has no actions"
        if self.cluster.finetunejob is None:
            assert all(len(replica.world.finetunejobs) == 0 for replica in self.replicas)
            return
        self._ended_as_it_should()

    def _ended_as_it_should(self) -> None:
        raw, last = self.cluster.finetunejob, Phase(self.cluster.phases[-1])
        if last.terminal:
            assert self._job() is None
            if raw["spec"]["runPolicy"].get("ttlAfterFinished"):
                assert self.cluster.jobs == {}
        elif raw["spec"].get("suspend"):
            assert (last, self._job(), self._living()) == (Phase.SUSPENDED, None, None)
        else:
            assert self._job() is not None
            assert not raw["spec"].get("cancel")
        if any(self._succeeded(job) for job in self.cluster.jobs.values()):
            assert last is Phase.SUCCEEDED

    def _succeeded(self, job) -> bool:
        """Whether a Job is complete and left what can be read."""
        pods = [PodState.of(pod) for pod in self.cluster.pods_of(job)]
        return JobState.of(job).complete and any(pod.ended_message == b.result() for pod in pods)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)


class LongMachine(Machine):
    """The same for many more examples."""


TestLongMachine = pytest.mark.timeout(900)(pytest.mark.long(LongMachine.TestCase))
TestLongMachine.settings = settings(max_examples=1000, stateful_step_count=50, deadline=None)
