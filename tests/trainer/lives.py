"""Runs of one and the same training by several processes, one after the other or at once."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from finetune_api.run import RunConfig
from tests.trainer.zygote import Life, Order, Running, Zygote

TRAINING = {"maxSteps": 7, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8}


@dataclass
class Runs:
    """Each under a prefix of its own."""

    s3: Any
    trainer: Any
    zygote: Zygote
    count: int = 0

    def config(self, name: str, **changes: Any) -> RunConfig:
        """A run file that differs from the others in nothing that shapes the result."""
        content = {
            "job": {"namespace": "team-a", "name": "tune", "uid": name},
            "method": {"lora": {"rank": 4, "dropout": 0.2}},
            "training": TRAINING,
            "evaluation": {"samples": 1, "maxNewTokens": 4},
            "outputPrefix": f"s3://team-a/lives/{self.trainer.directory.name}/{name}/",
        }
        config: RunConfig = self.trainer.config(**content | changes)
        return config

    def begin(self, config: RunConfig, **signals: str) -> Running:
        """One process, which is sent signals as :class:`Order` says."""
        self.count += 1
        directory = self.trainer.directory / f"life-{self.count}"
        directory.mkdir()
        return self.zygote.begin(Order(config.to_json(), str(directory), signals))

    def live(self, config: RunConfig, **signals: str) -> Life:
        """One process, to its end."""
        return self.begin(config, **signals).wait()

    def result(self, config: RunConfig) -> dict[str, Any]:
        """What must be the same to the bit."""
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

    def checkpoints(self, config: RunConfig) -> list[int]:
        """The steps of those that are complete."""
        names = self.s3.names(f"{config.output_prefix}checkpoints/")
        return [int(name[:8]) for name in names if name.endswith("manifest.json")]


def steps(life: Life) -> list[int]:
    """That a process took."""
    return [int(event.split()[1]) for event in life.events if event.startswith("step ")]
