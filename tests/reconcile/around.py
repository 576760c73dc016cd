"""What happens around an operator to one Job and its pods in memory: the Job controller, kubelets, nodes and people."""

import copy
import json
from datetime import datetime, timedelta
from typing import Any

from finetune_api import names
from finetune_api.run import GRACE_SECONDS, ExitCode
from finetune_operator.observed import JobState, PodState
from finetune_operator.times import format_time
from tests import builders as b
from tests.reconcile.fake import FakeCluster, Raw


class State:
    """What becomes of a pod, by a name that keeps a failing story short."""

    def __init__(self, name: str, raw: dict[str, Any]) -> None:
        self.name, self.raw = name, raw

    def __repr__(self) -> str:
        return f"<{self.name}>"


_AWAY = b.condition("DisruptionTarget", "EvictionByEvictionAPI", "away")
_NO_NODE = b.condition("PodScheduled", "Unschedulable", "0/1 nodes", "False")
_FINISHED = "2026-11-21T10:01:05Z"
"""When pods of the builders end; here it is now."""
NOT_THE_RESULT = b.result().replace("sha256:abc", "sha256:of-another")
"""What a pod leaves that does not lead."""

RUNS = State("runs", b.running_pod())
WELL = State("ends well", b.ended_pod(0, b.result()))
EVICTED = State("is evicted", b.ended_pod(143, conditions=(_AWAY,)))
LOST = State("loses the others", b.ended_pod(ExitCode.PEERS_LOST))
SAVED = State("saves and ends", b.ended_pod(ExitCode.PREEMPTED))
ENDS = [
    WELL,
    EVICTED,
    SAVED,
    State("leaves what cannot be read", b.ended_pod(0, "unreadable")),
    State("finds invalid data", b.ended_pod(11, b.error("DataInvalid", "line 3"))),
    State("runs out of GPU memory", b.ended_pod(16)),
    State("does not reach S3", b.ended_pod(20)),
    State("is killed", b.ended_pod(137)),
    State("runs out of memory", b.ended_pod(137, reason="OOMKilled")),
]
WAITS = [
    State("is created", b.waiting_pod("ContainerCreating")),
    State("has no image", b.waiting_pod("ImagePullBackOff", "no such image")),
    State("finds no node", b.pod(conditions=(_NO_NODE,))),
]


class Around:
    """All of it, at a time that passes when it is told to."""

    def __init__(self, cluster: FakeCluster, start: datetime) -> None:
        self.time = start
        self._cluster = cluster
        self._made = 0

    def passes(self, seconds: float) -> None:
        """Time does."""
        self.time += timedelta(seconds=seconds)

    # what there is

    def job(self) -> Raw | None:
        """The Job that has not ended."""
        return next((job for job in self._cluster.jobs.values() if not JobState.of(job).ended), None)

    def living(self) -> list[Raw]:
        """Pods of any Job that have not ended."""
        return [pod for pod in self._cluster.pods.values() if not PodState.of(pod).ended]

    def working(self) -> list[Raw]:
        """Those that are not being deleted."""
        return [pod for pod in self.living() if "deletionTimestamp" not in pod["metadata"]]

    def leaving(self) -> list[Raw]:
        """Those that are."""
        return [pod for pod in self.living() if "deletionTimestamp" in pod["metadata"]]

    def undecided(self) -> bool:
        """Whether there is a Job, and none of its pods has come to an end."""
        return self.job() is not None and not (self._failed() or self._completed())

    def _pods(self) -> list[PodState]:
        job = self.job()
        return [PodState.of(pod) for pod in self._cluster.pods_of(job)] if job else []

    def _failed(self) -> bool:
        """Whether a pod of the Job has, also where it is gone."""
        job = self.job()
        return bool(job and job["status"].get("failed")) or any(pod.failed for pod in self._pods())

    def _completed(self) -> set[int | None]:
        """Indexes of the Job whose pods ended well, also where they are gone."""
        job = self.job()
        gone = job["status"].get("completed", ()) if job else ()
        return {pod.index for pod in self._pods() if pod.ended and not pod.failed} | set(gone)

    # the Job controller

    def control(self, most: int = 3, at_once: bool = False) -> None:
        """Make pods, so many at most; or end the Job whose pods have ended. One that fails ends them all, and the Job
        once they have; or ``at_once``, as before Kubernetes 1.31."""
        job = self.job()
        if job is None or job["spec"].get("suspend"):
            return
        if self._failed():
            for pod in self._cluster.pods_of(job):
                if not PodState.of(pod).ended:
                    self.ask(pod)
            if at_once or all(pod.ended for pod in self._pods()):
                self._end(job, "Failed", "BackoffLimitExceeded")
        elif len(self._completed()) == job["spec"]["completions"]:
            self._end(job, "Complete", "CompletionsReached")
        else:
            self._make(job, most)

    def _make(self, job: Raw, most: int) -> None:
        taken = {pod.index for pod in self._pods() if not pod.ended} | self._completed()
        for index in [index for index in range(job["spec"]["completions"]) if index not in taken][:most]:
            self._made += 1
            created = f"2026-11-21T10:{self._made // 60:02}:{self._made % 60:02}Z"
            attempt = int(job["metadata"]["labels"][names.LABEL_ATTEMPT])
            pod = b.pod(name=f"pod-{self._made}", created=created, attempt=attempt, index=index)
            pod["metadata"]["labels"] = copy.deepcopy(job["metadata"]["labels"])
            self._cluster.store("pods", pod)
        began = job["status"].get("startTime", format_time(self.time))
        active = sum(not pod.ended for pod in self._pods())
        self._note(job, startTime=began, active=active, succeeded=len(self._completed()))

    def _note(self, job: Raw, **status: Any) -> None:
        changed = job | {"status": job["status"] | status}
        if changed != job:
            self._cluster.store("jobs", copy.deepcopy(changed))

    def _end(self, job: Raw, kind: str, reason: str) -> None:
        ending = b.condition(kind, reason) | {"lastTransitionTime": format_time(self.time)}
        self._note(job, conditions=[ending])

    # pods

    def play(self, which: int, state: State) -> None:
        """What becomes of one that works."""
        if working := self.working():
            self.passes(1)
            pod = self._in(working[which % len(working)], state)
            last = PodState.of(pod)
            if last.disruption and not self._failed() and last.attempt is not None:
                self._cluster.excused.add(last.attempt)
            self._cluster.store("pods", pod)

    def play_all(self, state: State) -> None:
        """What becomes of all that work."""
        for pod in self.working():
            self._cluster.store("pods", self._in(pod, state))

    def lose(self, which: int) -> None:
        """One loses the others, of which one is gone or about to go; or hangs, which is the training's own fault."""
        if not self._failed() and not any(pod.gone_by for pod in self._pods()):
            self._cluster.at_fault |= {pod.attempt for pod in self._pods() if pod.attempt is not None}
        self.play(which, LOST)

    def ask(self, pod: Raw) -> None:
        """A pod is to end."""
        self._cluster.ask_to_end(pod, format_time(self.time + timedelta(seconds=GRACE_SECONDS)), GRACE_SECONDS)

    def take(self, pod: Raw, state: State | None) -> None:
        """A pod goes, and its Job counts it. How it ended knows whoever hears it in time; of None nobody does."""
        self.passes(1)
        if state is not None:
            pod = self._in(pod, state)
            self._cluster.store("pods", pod)
        job, last = self.job(), PodState.of(pod)
        self._cluster.store("pods", None, pod)
        if not last.ended and last.attempt is not None:
            self._cluster.vanished.add(last.attempt)
        if job and job["metadata"]["labels"][names.LABEL_ATTEMPT] == str(last.attempt):
            if last.ended and not last.failed:
                self._note(job, completed=[*job["status"].get("completed", ()), last.index])
            else:
                self._note(job, failed=job["status"].get("failed", 0) + 1)

    def _in(self, pod: Raw, state: State) -> Raw:
        """A pod in a state as of now. What one leaves that ends well depends on what it is for."""
        found = copy.deepcopy(pod)
        content = json.dumps(state.raw["status"]).replace(_FINISHED, format_time(self.time))
        left = b.result() if PodState.of(pod).leads else NOT_THE_RESULT
        if pod["metadata"]["labels"].get(names.LABEL_CHECK):
            left = b.checked()
        found["status"] = json.loads(content.replace(json.dumps(b.result()), json.dumps(left)))
        self._judge(PodState.of(found))
        return found

    def _judge(self, pod: PodState) -> None:
        """Note whose end is the training's own fault: nobody asked for it, and it is not for the loss of others."""
        asked = pod.gone_by is not None and pod.exit_code in (137, 143) and pod.ended_reason != "OOMKilled"
        excused = asked or pod.disruption or pod.exit_code in (ExitCode.PREEMPTED, ExitCode.PEERS_LOST)
        if pod.failed and not excused and pod.attempt is not None:
            self._cluster.at_fault.add(pod.attempt)
