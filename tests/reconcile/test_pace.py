"""Progress is written the more rarely the more jobs report it."""

from datetime import UTC, datetime, timedelta

import pytest

from finetune_api.run import Report
from finetune_operator.finetunejobs import slim
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.reconcile import Reconciler
from finetune_operator.settings import Settings
from finetune_operator.world import World
from tests import builders as b
from tests.reconcile.fake import KEY, FakeCluster, now

START = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(("others", "interval"), [(0, 10), (199, 20), (4999, 500)])
def test_all_jobs_together_keep_to_the_writes_a_second(others, interval):
    cluster, time = FakeCluster(), [START]
    world = World(lambda key: None)
    settings = Settings(progress_interval=10, progress_writes=10)
    turn = Reconciler(cluster, world, settings, lambda: None, lambda: time[0])

    def report(percent: int, name: str = "support-bot-0-abcde") -> None:
        said = Report.model_validate(b.report(percent)).trainer_status
        assert world.reported(ReceivedReport(f"uid-of-{name}", said, time[0]))

    cluster.store("finetunejobs", b.finetunejob())
    world.finetunejobs.event("ADDED", slim(cluster.finetunejob))
    now(turn(KEY))
    world.jobs.put(JobState.of(cluster.jobs[cluster.created[0]]))
    world.pods.put(PodState.of(b.running_pod()))
    now(turn(KEY))
    time[0] += timedelta(hours=1)
    report(1)
    for number in range(others):
        world.pods.put(PodState.of(b.running_pod(f"other-{number}")))
        report(1, f"other-{number}")
    now(turn(KEY))
    assert cluster.finetunejob["status"]["progress"]["percent"] == 1
    time[0] += timedelta(seconds=interval - 1)
    report(2)
    assert turn.progress_due_in(KEY) == 1.0
    assert now(turn(KEY)) == 1.0
    assert cluster.finetunejob["status"]["progress"]["percent"] == 1
    time[0] += timedelta(seconds=1)
    assert turn.progress_due_in(KEY) == 0.0
    now(turn(KEY))
    assert cluster.finetunejob["status"]["progress"]["percent"] == 2
    time[0] -= timedelta(hours=1)
    assert turn.progress_due_in(KEY) == 0.0, "a clock that was turned back holds nothing up"
