"""The operator dies at any of its calls to the API server and is started again: same end, one Job."""

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api import names
from finetune_local.apiserver import DropConnection
from tests import builders as b
from tests.reconcile.plane import DEADLINE, OPERATOR, SUCCEEDS, Plane, asynchronous, plane, until

QUICK = {"identity": "one"}


class Killer:
    """Cuts the operator off at its n-th call (watches and the Lease not counted), before the call is carried
    out or before it is answered; from then on the operator gets no call through."""

    def __init__(self, p: Plane, at: int | None, when: str) -> None:
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
        if self.counted == self._at and when == self._when:
            self.struck = True
            raise DropConnection


@dataclass(frozen=True)
class Story:
    """One FineTuneJob's life, and its end."""

    name: str
    pod: list[dict[str, Any]]
    """States of its pod."""
    phase: str = "Succeeded"
    reason: str = "Succeeded"
    model: str = "s3://team-a/models/base/"
    nodes: int = 1
    cut: tuple[str, ...] = ("after",)
    """Where at each call the operator is cut off. "after" is the harder one: the call was carried out."""

    async def apply(self, p: Plane) -> None:
        await p.apply(model={"uri": self.model}, resources={"nodes": self.nodes})

    def reached_its_end(self, p: Plane) -> None:
        """One Job, a pod for each node, and the status of a job that nobody disturbed."""
        (job,) = own(p.jobs())
        assert len(own(p.pods())) == self.nodes
        status = p.status()
        assert [attempt["reason"] for attempt in status["attempts"]] == [self.reason]
        assert status["attempts"][0]["job"] == job["metadata"]["name"]
        if self.phase == "Succeeded":
            assert status["result"]["digest"] == "sha256:abc"
        else:
            assert "train.jsonl line 3" in status["message"]
            assert "result" not in status
        if self.model.startswith("job://"):
            annotation = job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN]
            assert json.loads(annotation)["model"].items() >= (BASE | {"origin": self.model}).items()


BASE = {"uri": "s3://team-a/models/base/0/", "digest": "sha256:d"}
FAILS = [b.running_pod(), b.ended_pod(11, b.error("DataInvalid", "train.jsonl line 3: no JSON. Correct the line."))]
STORIES = [
    Story("good", SUCCEEDS, cut=("before", "after")),
    Story("on the model of another job", SUCCEEDS, model="job://base"),
    Story("on two nodes", SUCCEEDS, nodes=2),
    Story("with data that its trainer refuses", FAILS, phase="Failed", reason="DataInvalid"),
]


def own(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the job under test."""
    return [raw for raw in objects if raw["metadata"]["name"].startswith("support-bot")]


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
    await until(lambda: not own(p.jobs()) and not own(p.pods()) and not p.finetunejob(), "all is gone")


async def calls_of_an_undisturbed_life(p: Plane, story: Story) -> int:
    killer = Killer(p, None, "before")
    async with p.operator(**QUICK):
        await story.apply(p)
        await p.phase(story.phase)
        await until(lambda: p.events()[-1:] == [story.reason], "its last Event")
    story.reached_its_end(p)
    await clear(p)
    return killer.counted


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@asynchronous
async def test_the_operator_may_be_killed_at_any_call_of_a_job(tmp_path, story):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [story.pod]
        if story.model == "job://base":
            await publish_base(p)
        calls = await calls_of_an_undisturbed_life(p, story)
        assert calls >= 6  # more where the pod was seen to run before it ended
        for at, when in itertools.product(range(1, calls + 1), story.cut):
            killer = Killer(p, at, when)
            await story.apply(p)
            async with p.operator(**QUICK):
                await until(lambda killer=killer: killer.struck or p.status().get("phase") == story.phase)
            p.server.interceptor = None
            async with p.operator(**QUICK):
                await p.phase(story.phase)
            story.reached_its_end(p)
            await clear(p)


@pytest.mark.parametrize(("verb", "resource"), [("create", "jobs"), ("patch", "finetunejobs")])
@asynchronous
async def test_the_process_may_be_killed_around_a_write(tmp_path, verb, resource):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        struck = asyncio.Event()

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
        STORIES[0].reached_its_end(p)
