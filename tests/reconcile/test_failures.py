"""What is told of pods that failed or do not start."""

import pytest

from finetune_api.conditions import MEANINGS, Reason, Retry, retry_of
from finetune_api.run import ExitCode
from finetune_operator import failures
from finetune_operator.observed import JobState, PodState
from tests import builders as b
from tests.reconcile import recorded


def of_pod(raw):
    return failures.of_pod(PodState.of(raw))


EARLIER = "2026-11-21T10:01:01Z"


def disrupted(reason, message, **more):
    return b.ended_pod(143, conditions=(b.condition("DisruptionTarget", reason, message),), **more)


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        ("oom-killed", Reason.OUT_OF_MEMORY, "memory limit"),
        ("evicted", Reason.DISRUPTED, "Eviction API: evicting"),
        ("bad-command", Reason.TRAINER_CRASHED, "/no/such/binary"),
        ("retried-then-failed", Reason.TRAINER_CRASHED, "exit code 1"),
        ("deleted-by-hand", Reason.STORAGE_UNAVAILABLE, "exit code 20"),
        ("user-error", Reason.DATA_INVALID, "exit code 11"),
    ],
)
def test_a_recorded_pod_that_failed_is_told_by_its_cause(name, reason, said):
    pod = next(pod for pod in map(PodState.of, recorded.last_pods(name)) if pod.failed)
    failure = failures.of_pod(pod)
    assert failure.reason is reason
    assert said in failure.message
    assert MEANINGS[reason].next_step in failure.message


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        ("image-missing", Reason.IMAGE_PULL_FAILED, 'image "localhost/nope:1"'),
        ("secret-missing", Reason.CONTAINER_CONFIG_ERROR, 'secret "nothing" not found'),
        ("unschedulable", Reason.UNSCHEDULABLE, "Insufficient nvidia.com/gpu"),
    ],
)
def test_a_recorded_pod_that_waits_in_vain_is_told_by_its_cause(name, reason, said):
    trouble = failures.of_waiting(PodState.of(recorded.last_pods(name)[-1]))
    assert trouble is not None
    assert trouble.reason is reason
    assert said in trouble.message


def test_a_kubelet_that_alternates_between_two_wordings_makes_one_message():
    waiting = [
        failures.of_waiting(PodState.of(seen)) for seen in recorded.history("image-missing") if seen["kind"] == "Pod"
    ]
    assert len({trouble.message for trouble in waiting if trouble}) == 1


def test_a_pod_that_is_merely_starting_is_no_trouble():
    assert failures.of_waiting(PodState.of(b.waiting_pod("ContainerCreating"))) is None


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_an_exit_code_speaks_where_there_is_no_message(code):
    failure = of_pod(b.ended_pod(code))
    assert failure.reason is code.reason
    assert f"exit code {code.value}" in failure.message


@pytest.mark.parametrize(
    ("pod", "reason", "said"),
    [
        (
            b.ended_pod(11, b.error("DataInvalid", "train.jsonl:3: no JSON")),
            Reason.DATA_INVALID,
            "train.jsonl:3: no JSON",
        ),
        (b.ended_pod(1, b.error("Diverged", "NaN at step 7")), Reason.DIVERGED, "NaN at step 7"),
        (b.ended_pod(12, "not JSON"), Reason.MODEL_INVALID, "exit code 12"),
        (b.ended_pod(12, b.error("FromTheFuture", "?")), Reason.MODEL_INVALID, "exit code 12"),
        (b.ended_pod(137), Reason.TRAINER_KILLED, "SIGKILL"),
        (b.ended_pod(143, gone_by=b.CREATED), Reason.DISRUPTED, "was deleted"),
        (b.ended_pod(137, gone_by=b.CREATED), Reason.DISRUPTED, "was deleted"),
        (b.ended_pod(1, gone_by=b.CREATED), Reason.TRAINER_CRASHED, "exit code 1"),
        (b.ended_pod(139), Reason.TRAINER_KILLED, "SIGSEGV"),
        (b.ended_pod(137, b.result()), Reason.TRAINER_KILLED, "SIGKILL"),
        (b.ended_pod(137, reason="OOMKilled"), Reason.OUT_OF_MEMORY, "memory limit"),
        (b.ended_pod(137, b.error("DataInvalid", "?"), reason="OOMKilled"), Reason.OUT_OF_MEMORY, "memory limit"),
        (b.ended_pod(3, "Traceback"), Reason.TRAINER_CRASHED, "exit code 3: Traceback"),
        (b.ended_pod(250), Reason.TRAINER_CRASHED, "exit code 250"),
        (b.pod(phase="Failed"), Reason.DISRUPTED, "before its trainer ended"),
        (
            b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "PreemptionByScheduler", "to make room"),)),
            Reason.PREEMPTED,
            "PreemptionByScheduler: to make room",
        ),
        (disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), Reason.DISRUPTED, "from node node1"),
        (disrupted("DeletionByTaintManager", "Taint manager: deleting"), Reason.NODE_LOST, "from node node1"),
        (disrupted("DeletionByPodGC", "PodGC: node no longer exists"), Reason.NODE_LOST, "no longer exists"),
        (disrupted("TerminationByKubelet", "The node was low on resource: memory."), Reason.DISRUPTED, "memory"),
        (
            disrupted("TerminationByKubelet", "The node was low on resource: ephemeral-storage."),
            Reason.DISK_FULL,
            "ephemeral-storage",
        ),
        (
            disrupted("TerminationByKubelet", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi"'),
            Reason.DISK_FULL,
            "scratch",
        ),
        (
            b.ended_pod(
                11,
                b.error("DataInvalid", "line 3: no JSON"),
                conditions=(b.condition("DisruptionTarget", "EvictionByEvictionAPI"),),
            ),
            Reason.DATA_INVALID,
            "line 3",
        ),
        (
            b.ended_pod(
                21,
                b.error("Preempted", "asked to stop"),
                conditions=(b.condition("DisruptionTarget", "DeletionByTaintManager"),),
            ),
            Reason.NODE_LOST,
            "taken away",
        ),
        (b.ended_pod(21, b.error("Preempted", "asked to stop")), Reason.PREEMPTED, "asked to stop"),
        (b.ended_pod(16, b.error("OutOfMemory", "CUDA out of memory")), Reason.OUT_OF_MEMORY, "CUDA out of memory"),
    ],
)
def test_who_ended_the_trainer_is_told_by_the_surest_witness(pod, reason, said):
    failure = of_pod(pod)
    assert failure.reason is reason
    assert said in failure.message


@pytest.mark.parametrize(
    "others",
    [
        [b.ended_pod(23, name="a", finished=EARLIER)],
        [b.ended_pod(21, name="a", finished=EARLIER)],
        [b.ended_pod(143, name="a", gone_by=b.CREATED, finished=EARLIER)],
        [b.ended_pod(137, name="a", gone_by=b.CREATED, finished=EARLIER)],
        [disrupted("EvictionByEvictionAPI", "evicting", name="a", finished="2026-11-21T10:01:09Z")],
        [b.running_pod("a")],
        [b.ended_pod(20, name="a", finished="2026-11-21T10:01:09Z")],
        [b.ended_pod(20, name="a", gone_by=b.CREATED, finished="2026-11-21T10:01:09Z")],
    ],
)
def test_of_several_pods_the_first_that_ended_by_itself_says_why(others):
    pods = [PodState.of(raw) for raw in (b.ended_pod(1, "boom", name="m"), *others)]
    failure = failures.of_job(JobState.of(b.failed_job()), pods)
    assert failure.reason is Reason.TRAINER_CRASHED
    assert "boom" in failure.message


AWAY = "2026-11-21T10:01:05Z"


@pytest.mark.parametrize(
    "other",
    [
        *(b.ended_pod(code, name="a", gone_by=b.CREATED, finished=EARLIER) for code in (21, 23, 137, 143)),
        b.ended_pod(134, name="a", finished=AWAY),
        b.ended_pod(1, "NCCL: remote process exited", name="a", finished="2026-11-21T10:01:09Z"),
        b.ended_pod(20, name="a", finished="2026-11-21T10:01:09Z"),
    ],
)
def test_a_pod_that_was_taken_away_says_why_the_others_lost_it(other):
    """Whichever way they put it."""
    pods = [disrupted("EvictionByEvictionAPI", "evicting", name="z", finished=AWAY), other]
    failure = failures.of_job(JobState.of(b.failed_job()), list(map(PodState.of, pods)))
    assert failure.reason is Reason.DISRUPTED
    assert "pod z was taken away" in failure.message


def test_what_no_attempt_can_mend_says_why_also_after_a_pod_was_taken_away():
    pods = [
        disrupted("EvictionByEvictionAPI", "evicting", name="z", finished=AWAY),
        b.ended_pod(11, b.error("DataInvalid", "line 3"), name="a", finished="2026-11-21T10:01:09Z"),
    ]
    assert failures.of_job(JobState.of(b.failed_job()), list(map(PodState.of, pods))).reason is Reason.DATA_INVALID


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"gone_by": "2026-11-21T10:03:04Z", "grace": 120}, Reason.DISRUPTED),
        ({"gone_by": "2026-11-21T10:03:09Z", "grace": 120}, Reason.PEERS_LOST),
    ],
)
def test_a_pod_that_lost_another_says_why_unless_that_one_was_asked_to_end_before(asked, reason):
    """Whom somebody deletes the others lose; one that hangs is lost first, and then deleted by its Job."""
    pods = [
        b.ended_pod(143, name="z", finished="2026-11-21T10:01:12Z", **asked),
        b.ended_pod(23, b.error("PeersLost", "another process is gone"), name="a", finished=AWAY),
    ]
    assert failures.of_job(JobState.of(b.failed_job()), list(map(PodState.of, pods))).reason is reason


def test_a_pod_that_went_without_a_word_is_why_the_others_lost_it():
    """As one does whose node is lost, and that somebody deletes by force."""
    went = b.running_pod("z", gone_by="2026-11-21T10:03:05Z", grace=120)
    left = b.ended_pod(23, b.error("PeersLost", "another process is gone"), name="a")
    failure = failures.of_job(JobState.of(b.failed_job()), [PodState.of(went), PodState.of(left)])
    assert failure.reason is Reason.DISRUPTED
    assert "pod z is gone" in failure.message


def test_of_two_recorded_pods_the_one_that_failed_first_says_why():
    failure = failures.of_pods(list(map(PodState.of, recorded.last_pods("one-of-two-fails"))))
    assert failure is not None
    assert failure.reason is Reason.DATA_INVALID


FINAL = [
    *(code.reason for code in ExitCode if code and retry_of(code.reason) is not Retry.FREE),
    *(reason for reason in Reason if reason.startswith("ModelJob")),
    Reason.INVALID_SPEC,
    Reason.NAME_CONFLICT,
    Reason.JOB_REFUSED,
    Reason.TRAINER_CRASHED,
    Reason.TRAINER_KILLED,
    Reason.RESULT_MISSING,
    Reason.RESULT_LOST,
    Reason.STALLED,
    Reason.DEADLINE_EXCEEDED,
    Reason.POD_REFUSED,
    Reason.IMAGE_PULL_FAILED,
    Reason.CONTAINER_CONFIG_ERROR,
]


@pytest.mark.parametrize("reason", FINAL)
def test_the_next_step_after_a_final_failure_leads_out_of_it(reason):
    """Failed is final and the spec cannot be changed: whatever the mend, the job must be applied anew."""
    message = failures.tell(reason, "it broke.").message
    assert message.startswith("it broke. Next step: ")
    assert "delete th" in message
    assert "and apply" in message


@pytest.mark.parametrize("mend", ["Correct the line.", "Correct the line"])
def test_the_trainers_own_words_lead_out_of_a_final_failure_too(mend):
    pods = [PodState.of(b.ended_pod(20, b.error("StorageUnavailable", f"S3 is away. {mend}")))]
    assert failures.of_job(JobState.of(b.failed_job()), pods).message == (
        "S3 is away. Correct the line. After the mend delete the FineTuneJob and apply it again."
    )


def test_a_job_that_left_no_pod_is_told_by_its_condition():
    failure = failures.of_job(JobState.of(b.job(b.condition("Failed", "DeadlineExceeded", "too long"))), [])
    assert failure.reason is Reason.TRAINER_CRASHED
    assert "DeadlineExceeded: too long" in failure.message


def test_a_pod_that_failed_and_is_gone_was_taken_away():
    """A Job leaves its failed pods where they are."""
    assert failures.of_job(JobState.of(b.failed_job()), []).reason is Reason.DISRUPTED


def test_a_recorded_job_is_short_of_pods_where_one_was_refused_or_taken_away():
    states = [JobState.of(job) for job in recorded.jobs()]
    assert {(job.namespace, job.name) for job in states if job.short} == {("quota", "succeeded"), ("oracle", "evicted")}


def test_a_quotas_refusal_is_told_in_its_own_words_and_in_the_same_ones_each_time():
    told = {failures.of_refusal(said).message for said in recorded.refusals()}
    assert len(recorded.refusals()) > 3
    assert len(told) == 1
    assert "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0" in told.pop()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('Error creating: pods "x-1" is forbidden: exceeded quota: q', Reason.QUOTA_EXCEEDED),
        ('Error creating: pods "x-1" is forbidden: violates PodSecurity "restricted:latest"', Reason.POD_REFUSED),
        ('Error creating: pods "x-1" is forbidden: error looking up service account a/b', Reason.POD_REFUSED),
    ],
)
def test_a_quota_is_told_from_other_refusals(said, reason):
    failure = failures.of_refusal(said)
    assert failure.reason is reason
    assert "x-1" not in failure.message


def test_a_message_of_any_length_is_quoted_in_bounds():
    assert len(of_pod(b.ended_pod(3, "x " * 5000)).message) < 1500
