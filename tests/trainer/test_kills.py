"""A run that is killed anywhere, and gone on with by other processes, ends in the bits of one that never was.

Processes are killed by SIGKILL at the n-th of the things that happen in them: requests to S3 before they are sent,
while their body is, and once they were answered; files written; steps; batches evaluated; phases.
"""

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api.run import RunConfig
from tests.trainer.zygote import Life, Order, Zygote

TRAINING = {"maxSteps": 7, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8}
KILLED = -9


@dataclass
class Runs:
    """Runs of one and the same training, each under a prefix of its own."""

    s3: Any
    trainer: Any
    zygote: Zygote
    count: int = 0

    def config(self, name: str) -> RunConfig:
        """A run file that differs in nothing that shapes the result."""
        return self.trainer.config(
            job={"namespace": "team-a", "name": "tune", "uid": name},
            method={"lora": {"rank": 4, "dropout": 0.2}},
            training=TRAINING,
            evaluation={"samples": 1, "maxNewTokens": 4},
            checkpoint={"everySteps": 2},
            outputPrefix=f"s3://team-a/kills/{self.trainer.directory.name}/{name}/",
        )

    def live(self, config: RunConfig, **signals: str) -> Life:
        """One process, to its end."""
        self.count += 1
        directory = self.trainer.directory / f"life-{self.count}"
        directory.mkdir()
        return self.zygote.run(Order(config.to_json(), str(directory), signals))

    def result(self, config: RunConfig) -> dict[str, Any]:
        """What must be equal."""
        manifest = json.loads(self.s3.get(f"{config.output_prefix}manifest.json"))
        report = self.s3.report(manifest["location"])
        adapter = self.s3.get(f"{manifest['location']}adapter_model.safetensors")
        digest = hashlib.sha256(adapter).hexdigest()
        return {"adapter": digest} | {name: report[name] for name in ("metrics", "steps", "samples")}

    def require_sound(self, config: RunConfig) -> None:
        """No manifest stands over missing or wrong bytes."""
        prefix = config.output_prefix
        for name in self.s3.names(prefix):
            folder, _, last = f"{prefix}{name}".rpartition("/")
            if last != "manifest.json":
                continue
            manifest = json.loads(self.s3.get(f"{prefix}{name}"))
            for file in manifest["files"]:
                content = self.s3.get(f"{manifest.get('location', f'{folder}/')}{file['path']}")
                assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])


@pytest.fixture
def runs(s3, trainer, zygote) -> Runs:
    return Runs(s3, trainer, zygote)


def require_the_same_end(runs: Runs, points: int, seed: int) -> None:
    """Kills at ``points`` points that are spread over the whole of a run, and the next process of every second one
    while it goes on from the checkpoint."""
    never = runs.config("never")
    whole = runs.live(never)
    assert whole.code == 0, whole.log
    expected, chance = runs.result(never), random.Random(seed)
    assert sum(event.startswith("step") for event in whole.events) == TRAINING["maxSteps"]
    for point in range(points):
        share = len(whole.events) / points
        kills = [1 + int(share * (point + chance.random()))]
        if point % 2:
            kills.append(chance.randrange(1, len(whole.events)))
        config = runs.config(f"{seed}-{point}")
        lives = []
        for kill in kills:
            lives.append(runs.live(config, **{str(kill): "SIGKILL"}))
            assert lives[-1].code in (KILLED, 0), lives[-1].log
            runs.require_sound(config)
        lives.append(runs.live(config))
        told = [(life.code, life.events[-1]) for life in lives]
        assert lives[0].code == KILLED, told
        assert lives[-1].code == 0, lives[-1].log
        assert runs.result(config) == expected, told
        assert not [name for name in runs.s3.names(config.output_prefix) if name.startswith("checkpoints/")], told


def test_a_run_that_is_killed_at_some_points_ends_in_the_same_bits(runs):
    require_the_same_end(runs, points=5, seed=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_anywhere_ends_in_the_same_bits(runs):
    require_the_same_end(runs, points=30, seed=2)
