"""Pods on the local node: real processes, statuses as a kubelet writes them."""

import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_local.client import ApiError
from tests.local.rig import PODS, Rig, eventually, running


def test_what_a_container_does_ends_in_its_status(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            good = await rig.pod("sh", "-c", "echo to the log; printf done > /dev/termination-log", name="good")
            bad = await rig.pod("sh", "-c", "exit 11", name="bad")
            killed = await rig.pod("sh", "-c", "kill -9 $$$$", name="killed")
            ended = [await rig.finished(path) for path in (good, bad, killed)]
            pod = await rig.client.get(good)

            assert [(e["exitCode"], e["reason"], e.get("message")) for e in ended] == [
                (0, "Completed", "done"),
                (11, "Error", None),
                (137, "Error", None),
            ]
            assert pod["status"]["phase"] == "Succeeded"
            assert rig.log(pod) == "to the log\n"
            assert await rig.client.text(f"{good}/log") == "to the log\n"
            assert await rig.reasons("good") == ["Scheduled", "Pulled", "Created", "Started"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/no/such/binary"], 'exec: "/no/such/binary": stat /no/such/binary: no such file or directory'),
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
        (["/etc/passwd"], '"/etc/passwd": permission denied'),
        ([], "the container has no command"),
    ],
)
def test_a_command_that_cannot_start_fails_the_pod(tmp_path: Path, command: list[str], message: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            ended = await rig.finished(await rig.pod(*command))

            assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
            assert message in ended["message"]

    asyncio.run(scenario())


def test_python_is_this_interpreter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            script = "import sys; open('/dev/termination-log', 'w').write(sys.executable)"
            ended = await rig.finished(await rig.pod("python", "-c", script))

            assert ended["message"] == sys.executable

    asyncio.run(scenario())


def test_volumes_and_environment_reach_the_process(tmp_path: Path) -> None:
    volumes = [
        {
            "name": "config",
            "projected": {
                "sources": [
                    {"downwardAPI": {"items": [_item("note", "metadata.annotations['note']")]}},
                    {"serviceAccountToken": {"path": "token", "audience": "reports", "expirationSeconds": 600}},
                    {"secret": {"name": "s", "items": [{"key": "user", "path": "in/user"}]}},
                ]
            },
        },
        {"name": "scratch", "emptyDir": {}},
    ]
    env = [
        {"name": "USER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "user"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PLACE", "value": "/scratch/out"},
    ]
    script = "cat /etc/c/note /etc/c/in/user; echo; echo $USER $POD $(WHO); cp /etc/c/token $PLACE; cat /scratch/out"

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            await _secret(rig, "s", user="ann")
            path = await rig.pod(
                "sh",
                "-c",
                script,
                env=[*env, {"name": "WHO", "value": "$(USER)!"}],
                volumes=volumes,
                volumeMounts=[
                    {"name": "config", "mountPath": "/etc/c"},
                    {"name": "scratch", "mountPath": "/scratch"},
                ],
            )
            assert (await rig.finished(path))["exitCode"] == 0
            pod = await rig.client.get(path)
            first, second, token = rig.log(pod).splitlines()

            assert (first, second) == ("helloann", "ann p ann!")
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            assert claims["aud"] == ["reports"]
            assert claims["kubernetes.io"]["pod"]["uid"] == pod["metadata"]["uid"]

    asyncio.run(scenario())


def test_a_pod_waits_for_its_secret_and_starts_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await rig.pod("true", envFrom=[{"secretRef": {"name": "late"}}])
            waiting = await rig.until(path, lambda pod: _waiting(pod, "CreateContainerConfigError"))
            assert _state(waiting)["message"] == 'secret "late" not found'
            assert waiting["status"]["phase"] == "Pending"

            await _secret(rig, "late", key="value")

            assert (await rig.finished(path))["exitCode"] == 0

    asyncio.run(scenario())


def test_an_image_that_does_not_exist_is_never_started(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, images={"any:2"}) as rig:
            path = await rig.pod("true")
            await rig.until(path, lambda pod: _waiting(pod, "ErrImagePull"))
            pod = await rig.until(path, lambda pod: _waiting(pod, "ImagePullBackOff"))
            assert _state(pod)["message"].startswith('Back-off pulling image "any:1": ErrImagePull: ')

            await rig.client.delete(path)
            await rig.until_gone(path)

    asyncio.run(scenario())


def test_a_pod_that_does_not_fit_waits_until_there_is_room(tmp_path: Path) -> None:
    half = {"resources": {"requests": {"cpu": "1"}}}

    async def scenario() -> None:
        async with running(tmp_path, extra_capacity={"cpu": "1500m"}) as rig:
            first = await rig.pod("sleep", "60", name="first", terminationGracePeriodSeconds=0, **half)
            await rig.until(first, lambda pod: pod["status"]["phase"] == "Running")
            second = await rig.pod("true", name="second", **half)
            refused = await rig.until(second, lambda pod: pod["status"].get("conditions"))
            assert refused["status"]["conditions"][0]["message"] == (
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
                "0/1 nodes are available: 1 No preemption victims found for incoming pod."
            )
            await rig.client.delete(first)

            assert (await rig.finished(second))["exitCode"] == 0

    asyncio.run(scenario())


def test_deleting_a_pod_lets_it_finish_what_it_does_on_sigterm(tmp_path: Path) -> None:
    script = "trap 'echo stopping; exit 21' TERM; echo ready; while :; do sleep 0.05; done"

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            # A finalizer keeps the pod, so that its last status can be read.
            path = await rig.pod("sh", "-c", script)
            await rig.client.patch(path, {"metadata": {"finalizers": ["example.com/keep"]}})
            pod = await rig.until(path, lambda pod: pod["status"]["phase"] == "Running")
            await _until_logged(rig, pod, "ready")
            await rig.client.delete(path)
            ended = await rig.finished(path)

            assert (ended["exitCode"], ended["reason"]) == (21, "Error")
            assert "Killing" in await rig.reasons("p")
            await rig.client.patch(path, {"metadata": {"finalizers": None}})
            await rig.until_gone(path)

    asyncio.run(scenario())


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await rig.pod("sh", "-c", script, terminationGracePeriodSeconds=1)
            await rig.client.patch(path, {"metadata": {"finalizers": ["example.com/keep"]}})
            pod = await rig.until(path, lambda pod: pod["status"]["phase"] == "Running")
            await _until_logged(rig, pod, "ready")
            await rig.client.delete(path)

            assert (await rig.finished(path))["exitCode"] == 137

    asyncio.run(scenario())


def test_a_container_above_its_memory_limit_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            script = "data = bytearray(200_000_000); import time; time.sleep(60)"
            path = await rig.pod("python", "-S", "-c", script, resources={"limits": {"memory": "100Mi"}})
            ended = await rig.finished(path)

            assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")

    asyncio.run(scenario())


def test_a_container_leaves_no_process_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await rig.pod("sh", "-c", "sleep 300 & echo $!; printf %s $! > /dev/termination-log")
            child = int((await rig.finished(path))["message"])

            await _until_dead(child)

    asyncio.run(scenario())


def test_stopping_the_node_ends_its_processes(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with running(tmp_path) as rig:
            path = await rig.pod("sh", "-c", "echo $$$$; sleep 300")
            pod = await rig.until(path, lambda pod: pod["status"]["phase"] == "Running")
            return int(await _until_logged(rig, pod, "\n"))

    pid = asyncio.run(scenario())

    asyncio.run(_until_dead(pid))


def test_a_node_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    """The agent has no chance to clean up: its guardian does."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from finetune_local.node.process import ContainerProcess, Guardian\n"
        "async def main():\n"
        "    log = Path(sys.argv[1])\n"
        "    how = ['/bin/sh', '-c', 'sleep 300 & echo $!; wait'], {'PATH': '/bin:/usr/bin'}, log.parent, log\n"
        "    process = await ContainerProcess.start(*how, Guardian(), {})\n"
        "    print(process.pid, flush=True)\n"
        "    await process.wait()\n"
        "asyncio.run(main())\n"
    )

    async def scenario() -> None:
        log = tmp_path / "log"
        pipe = asyncio.subprocess.PIPE
        agent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(log), stdout=pipe)
        assert agent.stdout is not None
        shell = int(await agent.stdout.readline())
        await eventually(lambda: log.read_text().endswith("\n"))
        grandchild = int(log.read_text())
        os.kill(agent.pid, signal.SIGKILL)
        await agent.wait()

        for pid in (shell, grandchild):
            await _until_dead(pid)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"restartPolicy": "OnFailure"}, "spec.restartPolicy OnFailure"),
        ({"livenessProbe": {"exec": {"command": ["true"]}}}, "spec.containers[0].livenessProbe"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "spec.volumes[0].hostPath"),
        ({"initContainers": [{"name": "i", "image": "any:1"}]}, "spec.initContainers"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await rig.pod("true", **changes)
            pod = await rig.until(path, lambda pod: _waiting(pod, "CreateContainerConfigError"))

            assert _state(pod)["message"].startswith(f"{field} is not supported in local mode")

    asyncio.run(scenario())


def test_a_pod_whose_process_was_lost_fails(tmp_path: Path) -> None:
    """A new agent finds a pod that an older one had started."""

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await rig.pod("true", nodeSelector={"no": "where"})
            status = {"phase": "Running", "startTime": "2026-11-21T04:05:25Z"}
            await rig.client.patch(f"{path}/status", {"status": status})
            await rig.client.patch(path, {"spec": {"nodeName": "local"}})

            assert (await rig.finished(path))["reason"] == "ContainerStatusUnknown"

    asyncio.run(scenario())


def _item(path: str, field: str) -> dict[str, Any]:
    return {"path": path, "fieldRef": {"fieldPath": field}}


async def _secret(rig: Rig, name: str, **content: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}
    await rig.client.create(PODS.replace("/pods", "/secrets"), body)


def _state(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod["status"].get("containerStatuses") or [{"state": {"waiting": {}}}]
    return next(iter(statuses[0]["state"].values()))


def _waiting(pod: dict[str, Any], reason: str) -> bool:
    return bool(_state(pod).get("reason") == reason)


async def _until_logged(rig: Rig, pod: dict[str, Any], text: str) -> str:
    await eventually(lambda: text in rig.log(pod))
    return rig.log(pod)


async def _until_dead(pid: int) -> None:
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_an_unknown_object_is_an_error_of_the_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            with pytest.raises(ApiError, match='pods "none" not found') as caught:
                await rig.client.get(f"{PODS}/none")
            assert caught.value.not_found

    asyncio.run(scenario())
