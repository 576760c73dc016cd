"""The operator dies at any of its calls to the API server and is started again: same end, one Job an attempt."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_api import names
from finetune_local.apiserver import DropConnection
from finetune_operator.observed import JobState, PodState
from tests import builders as b
from tests.reconcile.plane import DEADLINE, OPERATOR, RUNS, SUCCEEDS, Plane, asynchronous, plane, until

Raw = dict[str, Any]
QUICK = {"identity": "one"}


class Killer:
    """Cuts the operator off at its n-th call (watches and the Lease not counted), before the call is carried
    out or before it is answered; from then on the operator gets no call through."""

    def __init__(self, p: Plane, at: int, when: str) -> None:
        self.counted = 0
        self.struck = False
        self._at, self._when = at, when
        p.server.interceptor = self

    async def __call__(self, call, when) -> None:
        if call.user != OPERATOR:
            return
        if self.struck:
            raise DropConnection
        if call.user_agent != names.MANAGER or call.resource == "leases" or call.verb == "watch" or not call.resource:
            return
        if when == "before":
            self.counted += 1
        # A call that is answered by an error has no "after": the operator dies before the next one.
        if self.counted > self._at or (self.counted == self._at and when == self._when):
            self.struck = True
            raise DropConnection


class Ledger:
    """Which Jobs there ever were, and what of the same FineTuneJob lived when one was made."""

    def __init__(self, p: Plane) -> None:
        self.made: list[str] = []
        self.beside: list[str] = []
        self._p = p
        self._stop = p.server.store.listen(self._written)

    def close(self) -> None:
        self._stop()

    def _written(self, resource, change) -> None:
        if resource == ("batch", "jobs") and change.type == "ADDED" and own([change.object]):
            self.made.append(change.object["metadata"]["name"])
            self.beside += [raw["metadata"]["name"] for raw in living(self._p) if raw is not change.object]


def own(objects: list[Raw]) -> list[Raw]:
    """Those of the job under test."""
    return [raw for raw in objects if raw["metadata"]["name"].startswith("support-bot")]


def living(p: Plane) -> list[Raw]:
    """Jobs and pods that have not ended."""
    jobs = [job for job in own(p.jobs()) if not JobState.of(job).ended]
    return jobs + [pod for pod in own(p.pods()) if not PodState.of(pod).ended]


async def runs(p: Plane, attempt: int = 0) -> list[Raw]:
    """Wait until the status says that an attempt runs; the answer is its pods."""
    number = {"number": attempt}
    await until(
        lambda: p.status().get("phase") == "Running" and p.status()["attempts"][-1].items() >= number.items(),
        f"attempt {attempt} runs",
    )
    return [pod for pod in own(p.pods()) if PodState.of(pod).attempt == attempt]


async def ends(p: Plane, *states: Raw, attempt: int = 0) -> None:
    """Let the pods of an attempt that runs come to their ends, the first ones where there are more of them."""
    for pod, state in zip(await runs(p, attempt), states, strict=False):
        await p.play(pod, state)


WELL, KILLED = b.ended_pod(0, b.result()), b.ended_pod(137)
REFUSED = b.ended_pod(11, b.error("DataInvalid", "train.jsonl line 3: no JSON. Correct the line."))
BASE = {"uri": "s3://team-a/models/base/0/", "digest": "sha256:d"}
TWO = {"nodes": 2}
KINDS = ((names.GROUP, names.PLURAL), ("batch", "jobs"), ("", "pods"), ("", "services"))
"""Of what a FineTuneJob consists."""


async def plain(p: Plane) -> None:
    await p.apply()
    await ends(p, WELL)


async def on_the_model_of_another_job(p: Plane) -> None:
    await p.apply(model={"uri": "job://base"})
    await ends(p, WELL)


async def with_data_that_its_trainer_refuses(p: Plane) -> None:
    await p.apply()
    await ends(p, REFUSED)


async def checked_before(p: Plane) -> None:
    await p.apply(preflight="Always")
    (pod,) = await until(lambda: [pod for pod in own(p.pods()) if PodState.of(pod).running], "its check runs")
    await p.play(pod, b.ended_pod(0, b.checked()))
    await ends(p, WELL, attempt=1)


async def suspended_and_resumed(p: Plane) -> None:
    await p.apply()
    await runs(p)
    await p.change(suspend=True)
    await p.phase("Suspended")
    await p.change(suspend=False)
    await ends(p, WELL, attempt=1)


async def cancelled(p: Plane) -> None:
    await p.apply()
    await runs(p)
    await p.change(cancel=True)


async def failing_and_tried_again(p: Plane) -> None:
    await p.apply()
    await ends(p, KILLED)
    await ends(p, WELL, attempt=1)


async def on_two_nodes(p: Plane) -> None:
    await p.apply(resources=TWO)
    await ends(p, WELL, WELL)


async def on_two_nodes_of_which_one_fails(p: Plane) -> None:
    await p.apply(resources=TWO)
    await ends(p, KILLED)
    await ends(p, WELL, WELL, attempt=1)


@dataclass(frozen=True)
class Story:
    """A FineTuneJob's life, and the end that it has however often the operator dies."""

    live: Callable[[Plane], Awaitable[None]]
    """What people and pods do, from the first word on."""
    attempts: tuple[str, ...] = ("Succeeded",)
    """How each ended."""
    phase: str = "Succeeded"
    failures: int = 0
    left: tuple[int, ...] = (0,)
    """The attempts whose Jobs are left."""
    services: int = 0
    model: Raw = field(default_factory=dict)
    """What its run file says of the model."""
    cut: tuple[str, ...] = ("after",)
    """Where at each call the operator is cut off. "after" is the harder one: the call was carried out."""

    def __str__(self) -> str:
        return self.live.__name__

    def is_told(self, p: Plane) -> bool:
        """Whether status and Events tell of the end."""
        uid = p.finetunejob()["metadata"]["uid"]
        told = [event["reason"] for event in p.objects("", "events") if event["involvedObject"]["uid"] == uid]
        return p.status().get("phase") == self.phase and self.attempts[-1] in told

    def reached_its_end(self, p: Plane, ledger: Ledger) -> None:
        """The status of a job that nobody disturbed; one Job for each attempt, made when nothing of another lived; and
        nothing left that should not be."""
        status, uid = p.status(), p.finetunejob()["metadata"]["uid"]
        assert ledger.made == [names.child_name("support-bot", uid, number) for number in range(len(self.attempts))]
        assert ledger.beside == []
        told = [(attempt["number"], attempt["reason"], attempt["job"]) for attempt in status["attempts"]]
        assert told == list(zip(range(len(self.attempts)), self.attempts, ledger.made, strict=True))
        assert status.get("failures", 0) == self.failures
        assert living(p) == []
        assert [job["metadata"]["name"] for job in own(p.jobs())] == [ledger.made[number] for number in self.left]
        assert {PodState.of(pod).attempt for pod in own(p.pods())} == set(self.left)
        assert len(p.objects("", "services")) == self.services
        assert ("result" in status) is (self.phase == "Succeeded")
        if self.phase == "Succeeded":
            assert status["result"]["digest"] == "sha256:abc"
        if self.phase == "Failed":
            assert "train.jsonl line 3" in status["message"]
        for job in own(p.jobs()):
            run = json.loads(job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN])
            assert run["model"].items() >= self.model.items()


STORIES = [
    Story(plain, cut=("before", "after")),
    Story(on_the_model_of_another_job, model=BASE | {"origin": "job://base"}),
    Story(with_data_that_its_trainer_refuses, ("DataInvalid",), "Failed"),
    Story(checked_before, ("Checked", "Succeeded"), left=(0, 1)),
    Story(suspended_and_resumed, ("Suspended", "Succeeded"), left=(1,)),
    Story(cancelled, ("Cancelled",), "Cancelled", left=()),
    Story(failing_and_tried_again, ("TrainerKilled", "Succeeded"), failures=1, left=(0, 1)),
    Story(on_two_nodes, services=1),
    Story(on_two_nodes_of_which_one_fails, ("TrainerKilled", "Succeeded"), failures=1, left=(0, 1), services=1),
]


async def publish_base(p: Plane) -> None:
    """A job that has published a model, which others may start from."""
    published = {"modelURI": BASE["uri"], "digest": BASE["digest"]}
    p.script["base"] = [[b.running_pod(), b.ended_pod(0, b.result(result=published))]]
    async with p.operator(**QUICK):
        await p.apply(name="base", method={"adapter": "none"})
        await p.phase("Succeeded", "base")


async def clear(p: Plane) -> None:
    """Make the cluster as it was."""
    p.server.interceptor = None
    await p.delete()
    await until(lambda: not any(own(p.objects(*kind)) for kind in KINDS), "all is gone")


async def killed_at(p: Plane, story: Story, at: int, when: str) -> bool:
    """One life with an operator that is cut off at its n-th call, and another one that goes on. False where the first
    had not as many calls to make."""
    killer, ledger = Killer(p, at, when), Ledger(p)
    life = asyncio.create_task(story.live(p))
    try:
        async with p.operator(**QUICK):
            await until(
                lambda: killer.struck or (life.done() and story.is_told(p)), "it is killed, or has no more to do"
            )
        p.server.interceptor = None
        async with p.operator(**QUICK):
            await life
            await p.phase(story.phase)
        story.reached_its_end(p, ledger)
    finally:
        life.cancel()
        ledger.close()
    await clear(p)
    return killer.counted >= at


@pytest.mark.parametrize(
    ("story", "step"),
    [
        *(pytest.param(story, 1 if story.live is plain else 4, id=str(story)) for story in STORIES),
        *(
            pytest.param(story, 1, id=f"{story}, at each call", marks=pytest.mark.long)
            for story in STORIES
            if story.live is not plain
        ),
    ],
)
@asynchronous
async def test_the_operator_may_be_killed_at_any_call_of_a_job(tmp_path, story, step):
    """At each call of a plain job, and at every fourth of the others; the long tests take them all."""
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [RUNS]
        if story.model:
            await publish_base(p)
        for at in itertools.count(min(2, step), step):
            if not all([await killed_at(p, story, at, when) for when in story.cut]):
                break
        assert at > 5  # of an operator that does nothing


@pytest.mark.parametrize(("verb", "resource"), [("create", "jobs"), ("patch", "finetunejobs")])
@asynchronous
async def test_the_process_may_be_killed_around_a_write(tmp_path, verb, resource):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        struck, ledger = asyncio.Event(), Ledger(p)

        async def strike(call, when):
            if call.user == OPERATOR and (call.verb, call.resource) == (verb, resource) and when == "after":
                struck.set()
                raise DropConnection

        p.server.interceptor = strike
        await p.apply()
        async with p.process(lease_retry_period=0.2) as process:
            await asyncio.wait_for(struck.wait(), DEADLINE)
            process.kill()
            await process.wait()
        p.server.interceptor = None
        async with p.process(lease_retry_period=0.2):
            await p.phase("Succeeded")
        STORIES[0].reached_its_end(p, ledger)
