"""Two replicas that both think they lead, on caches that lag and cross, crash at any call: what holds all the same.

A fixpoint has no actions; there is never a second Job beside a live one; nothing leaves a final phase; every trace
ends; and the end is told as it was, whatever a cache said.
"""

import copy
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.conditions import Phase
from finetune_api.run import Report
from finetune_operator.cluster import ApiError
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.reconcile import Reconciler
from finetune_operator.settings import Settings
from finetune_operator.world import World
from tests import builders as b
from tests.reconcile.fake import KEY, Crash, FakeCluster, Stream, now

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
MAX_RETRIES = 1
REPLICAS = st.integers(0, 1)
KINDS = st.sampled_from(["finetunejobs", "jobs", "pods"])
ENDS = st.sampled_from(
    [
        b.ended_pod(0, b.result()),
        b.ended_pod(0, "unreadable"),
        b.ended_pod(11, b.error("DataInvalid", "line 3")),
        b.ended_pod(20),
        b.ended_pod(137),
        b.ended_pod(137, reason="OOMKilled"),
        b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "Evicted", "away"),)),
    ]
)
WAITS = st.sampled_from([b.waiting_pod("ContainerCreating"), b.waiting_pod("ImagePullBackOff", "no such image")])


def finished(job) -> bool:
    """Whether a Job has ended, well or not."""
    state = JobState.of(job)
    return state.complete or state.failed_reason is not None


class Replica:
    """One operator process: its caches, and how far it has been told."""

    def __init__(self, cluster: FakeCluster, clock) -> None:
        self.cluster = cluster
        self.stream = Stream()
        cluster.streams.append(self.stream)
        self.world = World(lambda key: None)
        self.reconciler = Reconciler(cluster, self.world, Settings(), lambda: None, clock)
        self._list()

    def _list(self) -> None:
        """What a start reads."""
        self.world.jobs.replace([JobState.of(raw) for raw in self.cluster.jobs.values()], None)
        self.world.pods.replace([PodState.of(raw) for raw in self.cluster.pods.values()], None)
        if self.cluster.finetunejob:
            self.world.learned(copy.deepcopy(self.cluster.finetunejob))

    def stop(self) -> None:
        self.cluster.streams.remove(self.stream)

    def hear(self, kind: str) -> None:
        """One more event of a kind."""
        waiting = getattr(self.stream, kind)
        if not waiting:
            return
        event, raw = waiting.popleft()
        if kind == "finetunejobs":
            self.world.seen(event, raw)
            return
        cache, read = (self.world.jobs, JobState.of) if kind == "jobs" else (self.world.pods, PodState.of)
        if event == "DELETED":
            cache.drop(raw["metadata"]["uid"])
        else:
            cache.put(read(raw))

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

    @initialize()
    def begin(self) -> None:
        self.time = START
        self.cluster = FakeCluster()
        self.deleted_jobs = 0
        self.pods_made = 0
        self.cluster.store("finetunejobs", b.finetunejob(runPolicy={"maxRetries": MAX_RETRIES}))
        self.replicas = [Replica(self.cluster, lambda: self.time) for _ in range(2)]

    # the operator

    @rule(who=REPLICAS, kind=KINDS)
    def an_event_arrives(self, who, kind):
        self.replicas[who].hear(kind)

    @rule(who=REPLICAS)
    def a_replica_works(self, who):
        self.cluster.arm(None, "before")
        self.replicas[who].turn()

    @rule(who=REPLICAS, at=st.integers(1, 7), when=st.sampled_from(["before", "after"]))
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

    @rule(seconds=st.sampled_from([1, 11]))
    def time_passes(self, seconds):
        self.time += timedelta(seconds=seconds)

    # the Job controller, the kubelet and people

    def _live(self):
        return next((pod for pod in self.cluster.pods.values() if not PodState.of(pod).ended), None)

    def _job(self):
        return next(iter(self.cluster.jobs.values()), None)

    @precondition(lambda self: self._job() and not finished(self._job()) and not self._live())
    @rule()
    def the_job_controller_works(self):
        job = copy.deepcopy(self._job())
        pods = [PodState.of(pod) for pod in self.cluster.pods.values()]
        counted = [pod for pod in pods if pod.failed and pod.disruption is None]
        final = any(pod.exit_code in range(10, 20) for pod in counted)
        job["status"]["failed"] = len(counted)
        if any(pod.ended and not pod.failed for pod in pods):
            job["status"]["conditions"] = [b.condition("Complete")]
        elif final or len(counted) > MAX_RETRIES:
            job["status"]["conditions"] = [b.condition("Failed", "BackoffLimitExceeded")]
        else:
            self.pods_made += 1
            created = f"2026-11-21T10:{self.pods_made // 60:02}:{self.pods_made % 60:02}Z"
            self.cluster.store("pods", b.pod(name=f"pod-{self.pods_made}", created=created))
        self.cluster.store("jobs", job)

    @precondition(lambda self: self._live())
    @rule(state=st.one_of(WAITS, st.just(b.running_pod()), ENDS))
    def the_kubelet_works(self, state):
        pod = copy.deepcopy(self._live())
        pod["status"] = copy.deepcopy(state["status"])
        self.cluster.store("pods", pod)

    @precondition(lambda self: self._job())
    @rule()
    def somebody_deletes_the_job(self):
        self.deleted_jobs += 1
        for pod in list(self.cluster.pods.values()):
            self.cluster.store("pods", None, pod)
        self.cluster.store("jobs", None, self._job())

    @precondition(lambda self: self.cluster.finetunejob)
    @rule()
    def somebody_labels_the_finetunejob(self):
        raw = copy.deepcopy(self.cluster.finetunejob)
        raw["metadata"]["labels"] = {"n": str(self.cluster.version)}
        self.cluster.store("finetunejobs", raw)

    @precondition(lambda self: self.cluster.finetunejob and self.cluster.version > 12)
    @rule()
    def somebody_deletes_the_finetunejob(self):
        self.cluster.store("finetunejobs", None, self.cluster.finetunejob)
        for kind in ("pods", "jobs"):
            for raw in list(getattr(self.cluster, kind).values()):
                self.cluster.store(kind, None, raw)

    # what holds

    @invariant()
    def there_is_one_job_and_no_second_after_a_live_one(self):
        assert len(self.cluster.jobs) <= 1
        assert len(self.cluster.created) <= 1 + self.deleted_jobs

    @invariant()
    def nothing_leaves_a_final_phase(self):
        finals = [phase for phase in self.cluster.phases if Phase(phase).terminal]
        assert finals in ([], self.cluster.phases[-len(finals) :])
        assert len(set(finals)) <= 1

    @invariant()
    def nothing_is_called_deleted_that_is_not(self):
        assert self.deleted_jobs or "JobDeleted" not in self.cluster.reasons

    def teardown(self):
        """However it came here: told everything, the replicas come to rest, and what ended is final."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.arm(None, "before")
        self.time += timedelta(seconds=3600)
        for _ in range(10):
            for replica in self.replicas:
                replica.hear_all()
                replica.turn()
        before = self.cluster.version
        for replica in self.replicas:
            assert not any((replica.stream.finetunejobs, replica.stream.jobs, replica.stream.pods))
            replica.turn()
        assert self.cluster.version == before, "a fixpoint has no actions"
        job = self._job()
        if self.cluster.finetunejob is None:
            assert all(len(replica.world) == 0 for replica in self.replicas)
        elif job is None or finished(job):
            assert self.cluster.final
            if job and not self.deleted_jobs:
                assert self.cluster.phases[-1] == self._truth()
        else:
            assert self.cluster.phases

    def _truth(self) -> Phase:
        """How the Job ended."""
        pods = [PodState.of(pod) for pod in self.cluster.pods.values()]
        readable = any(pod.exit_code == 0 and pod.ended_message == b.result() for pod in pods)
        return Phase.SUCCEEDED if readable else Phase.FAILED


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
