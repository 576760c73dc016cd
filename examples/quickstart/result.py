"""What is done with the published result: a local copy that stands alone, and the proof that it does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

ASK = Path(__file__).with_name("ask.py")
OUR_PACKAGES = ("finetune_api", "finetune_local", "finetune_operator", "finetune_trainer")
_SECONDS = 120


class ResultUnusable(Exception):
    """The adapter is not better than its base, or does not load by itself; ``str()`` says what was found."""


def require_gain(resource: Object) -> None:
    """Makes sure that the adapter is better than its base on the held-out set.

    Raises:
        ResultUnusable: it is not.
    """
    loss = next(metric for metric in resource["status"]["metrics"] if metric["name"] == "eval_loss")
    if loss["value"] >= loss["baseline"]:
        raise ResultUnusable(
            f"the tuned model's eval_loss {loss['value']:.3f} is not below its base's {loss['baseline']:.3f}; "
            "a lower spec.training.learningRate or more spec.training.epochs may mend that"
        )


def keep_resource(resource: Object, file: Path) -> None:
    """Writes a FineTuneJob as ``kubectl get -o yaml`` shows it."""
    shown = {**resource, "metadata": {k: v for k, v in resource["metadata"].items() if k != "managedFields"}}
    file.write_text(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), encoding="utf-8")


def point_at_base(adapter: Path, base: Path) -> None:
    """Makes a copy of an adapter name the copy of its base; published, it names the base's place in S3."""
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(base.resolve())
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def samples_of(adapter: Path) -> list[Object]:
    """The sampled answers of base and tuned model in the published report."""
    samples: list[Object] = json.loads((adapter / "report.json").read_text(encoding="utf-8"))["samples"]
    return samples


def ask_alone(adapter: Path, question: str) -> str:
    """The adapter's answer, from a process of its own that cannot import any of our packages and asks no hub.

    Raises:
        ResultUnusable: it did not answer.
    """
    alone = (
        "import runpy, sys; "
        f"sys.modules.update(dict.fromkeys({OUR_PACKAGES!r})); "  # None there makes every import of it fail
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", alone, str(ASK), str(adapter), question]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and script
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ResultUnusable(f"{ASK.name} gave no answer within {_SECONDS} s") from None
    if ended.returncode or not ended.stdout.strip():
        raise ResultUnusable(f"{ASK.name} ended with exit code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    return ended.stdout.strip()
