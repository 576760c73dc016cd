"""Two replicas that both think they lead, on caches that lag and cross, crash at any call, while pods, one or more
of a Job, fail, vanish and hang and people suspend, resume, cancel and delete: what holds all the same.

A fixpoint has no actions; no attempt begins while anything of another one lives, or after a fault that another one
cannot mend; where no pod ended badly by itself nothing is counted; the result is what the leading pod left; nothing
leaves a final phase; every trace ends; and the end is told as it was, whatever a cache said. What must hold at a single
call is checked by ``FakeCluster``.
"""

import copy
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.conditions import Phase
from finetune_api.run import Report
from finetune_operator.connection import ApiError
from finetune_operator.finetunejobs import slim
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.reconcile import Reconciler
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.world import World
from tests import builders as b
from tests.reconcile.around import ENDS, EVICTED, RUNS, SAVED, WAITS, WELL, Around, State
from tests.reconcile.fake import KEY, Crash, FakeCluster, Stream, now

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
POLICY = {"maxRetries": 1, "stallTimeout": "2m"}
SETTINGS = Settings(retry_backoff=10, longest_retry_backoff=40, give_up_after=100)
REPORTING = Reporting("https://operator.ft.svc/v1/reports", "PEM")
REPLICAS = st.integers(0, 1)
WHICH = st.integers(0, 2)
"""Which of several pods."""
FATES = st.one_of(
    st.sampled_from(ENDS),
    st.sampled_from(["all end well", "it loses the others", "it is deleted", "its node goes", "it is gone"]),
)
KINDS = st.sampled_from(["finetunejobs", "jobs", "pods"])


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
        nodes=st.sampled_from([1, 2, 3]),
    )
    def begin(self, deadline, ttl, preflight, nodes) -> None:
        self.cluster = FakeCluster()
        self.around = Around(self.cluster, START)
        self.deleted_by_hand = 0
        sections = {"runPolicy": POLICY | deadline | ttl, "preflight": preflight, "resources": {"nodes": nodes}}
        self.cluster.store("finetunejobs", b.finetunejob(**sections))
        self.replicas = [Replica(self.cluster, lambda: self.around.time) for _ in range(2)]

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

    @rule(who=REPLICAS, fates=st.lists(st.tuples(WHICH, FATES), min_size=1, max_size=3), over=st.booleans())
    def an_attempt_takes_its_way(self, who, fates, over):
        """As far as it can from where it is: after its wait, to the ends of its pods, and perhaps of its Job."""
        self.a_replica_catches_up(who)
        self.around.passes(61)
        self.a_replica_catches_up(who)
        self.around.control()
        self.around.play_all(RUNS)
        self.a_replica_catches_up(who)
        for which, fate in fates:
            self._meet(which, fate)
        if over:
            self.around.control()
            for pod in self.around.leaving():
                self.around.take(pod, SAVED)
            self.around.control()

    def _meet(self, which, fate) -> None:
        working = self.around.working()
        if fate == "all end well":
            self.around.play_all(WELL)
        elif isinstance(fate, State):
            self.around.play(which, fate)
        elif working and fate == "it loses the others":
            self.around.lose(which)
        elif working and fate == "it is deleted":
            self.around.ask(working[which % len(working)])
        elif working:
            self.around.take(working[which % len(working)], EVICTED if fate == "its node goes" else None)

    @rule(who=REPLICAS, which=WHICH, state=st.sampled_from([RUNS, *WAITS]))
    def nothing_happens_for_long(self, who, which, state):
        self.around.control()
        self.around.play_all(RUNS)
        self.around.play(which, state)
        for _ in range(4):
            self.a_replica_catches_up(who)
            self.around.passes(61)

    @rule(who=REPLICAS, at=st.integers(1, 10), when=st.sampled_from(["before", "after"]))
    def a_replica_dies_at_work_and_starts_again(self, who, at, when):
        self.cluster.arm(at, when)
        try:
            self.replicas[who].turn()
        except Crash:
            self.replicas[who].stop()
            self.cluster.arm(None, "before")
            self.replicas[who] = Replica(self.cluster, lambda: self.around.time)

    @rule(who=REPLICAS, percent=st.integers(0, 100), phase=st.sampled_from(["Running", "Evaluating", "Publishing"]))
    def a_pod_reports(self, who, percent, phase):
        for name in self.cluster.pods:
            status = Report.model_validate(b.report(percent, phase=phase)).trainer_status
            self.replicas[who].world.reported(ReceivedReport(f"uid-of-{name}", status, self.around.time))

    @rule(seconds=st.sampled_from([1, 11, 61]))
    def time_passes(self, seconds):
        self.around.passes(seconds)

    # the Job controller, kubelets, nodes and people

    @rule(most=WHICH, at_once=st.booleans())
    def the_job_controller_works(self, most, at_once):
        self.around.control(most + 1, at_once)

    @rule(which=WHICH, fate=st.one_of(FATES, st.sampled_from([RUNS, *WAITS])))
    def a_pod_meets_its_fate(self, which, fate):
        self._meet(which, fate)

    @precondition(lambda self: self.around.leaving())
    @rule(which=WHICH, state=st.sampled_from([None, *ENDS]))
    def a_pod_that_is_being_deleted_ends(self, which, state):
        leaving = self.around.leaving()
        self.around.take(leaving[which % len(leaving)], state)

    @precondition(lambda self: self.around.undecided())
    @rule(suspend=st.booleans())
    def a_queue_suspends_or_admits_the_job(self, suspend):
        """Its pods are deleted, and the Job has not failed."""
        job = copy.deepcopy(self.around.job())
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
    def the_result_is_what_the_leading_pod_left(self):
        status = (self.cluster.finetunejob or {}).get("status") or {}
        assert status.get("result", {"digest": "sha256:abc"})["digest"] == "sha256:abc"

    @invariant()
    def nothing_is_called_deleted_that_is_not(self):
        assert self.deleted_by_hand or "JobDeleted" not in self.cluster.reasons

    def teardown(self):
        """However it came here: told everything, the replicas come to rest, and what ended is final."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.arm(None, "before")
        for _ in range(12):
            self.around.passes(600)
            for pod in self.around.leaving():
                self.around.take(pod, SAVED)
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
            assert self.around.job() is None
            if raw["spec"]["runPolicy"].get("ttlAfterFinished"):
                assert self.cluster.jobs == {}
        elif raw["spec"].get("suspend"):
            assert (last, self.around.job(), self.around.living()) == (Phase.SUSPENDED, None, [])
        else:
            assert self.around.job() is not None
            assert not raw["spec"].get("cancel")
        if any(self._succeeded(job) for job in self.cluster.jobs.values()):
            assert last is Phase.SUCCEEDED

    def _succeeded(self, job) -> bool:
        """Whether a Job is complete and left what can be read."""
        pods = [PodState.of(pod) for pod in self.cluster.pods_of(job)]
        return JobState.of(job).complete and any(pod.leads and pod.ended_message == b.result() for pod in pods)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=180, stateful_step_count=50, deadline=None)


class LongMachine(Machine):
    """The same for many more examples."""


TestLongMachine = pytest.mark.timeout(900)(pytest.mark.long(LongMachine.TestCase))
TestLongMachine.settings = settings(max_examples=3000, stateful_step_count=50, deadline=None)
