"""How long the trainer takes to its first optimizer step, beside TRL and beside the floor.

The floor is what no trainer that uses these libraries can do without: to import them and to read the weights. The
model is tiny, so that the step itself, the evaluation of the base and the download count for little: what is compared
is the start. TRL reads model and data from the disk, ours from S3. CPU-seconds hold still on a busy machine.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.row import Row, at_most
from benchmarks.trainer import ours
from benchmarks.trainer.process import measured
from tests import tiny

REPETITIONS = 3
_BEGIN = "import time; started = time.monotonic()"
_CLOCKS = "from benchmarks.trainer.process import tell; tell(cpu=time.process_time(), wall=time.monotonic() - started)"
_FLOOR = f"""
{_BEGIN}
import sys, torch, transformers, peft, accelerate
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1])
{_CLOCKS}
"""
_OURS = f"""
{_BEGIN}
import os, sys
from finetune_trainer.progress import Progress
def first_step(self, done):
    {_CLOCKS}
    os._exit(0)
Progress.trained = first_step
from finetune_trainer.__main__ import main
sys.argv[1:] = ["--run", sys.argv[1]]
main()
"""
_TRL = f"""
{_BEGIN}
import os, sys
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
class FirstStep(TrainerCallback):
    def on_step_end(self, *_, **__):
        {_CLOCKS}
        os._exit(0)
model, data, out = sys.argv[1:]
SFTTrainer(
    model=model,
    args=SFTConfig(out, max_steps=2, per_device_train_batch_size=16, max_length=None, bf16=False, use_cpu=True,
                   gradient_checkpointing=False, save_strategy="no", report_to="none"),
    train_dataset=load_dataset("json", data_files=data, cache_dir=out, split="train"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    callbacks=[FirstStep()],
).train()
"""


@dataclass(frozen=True)
class Taken:
    """Seconds of one process."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class StartUp:
    """Medians of several processes each."""

    floor: Taken
    first_step: Taken
    trl: Taken | None
    """Absent where it was not asked for."""

    @property
    def floor_ratio(self) -> float:
        """CPU-seconds to the first step over those of the floor."""
        return self.first_step.cpu / self.floor.cpu


def rows() -> list[Row]:
    """The section."""
    result = measure(REPETITIONS, peers=True)
    assert result.trl
    return [
        *_figures("imports and weights (the floor)", result.floor),
        *_figures("ours", result.first_step),
        *_figures("TRL", result.trl),
        Row("start to first step, ours ÷ TRL", result.first_step.cpu / result.trl.cpu, "×", at_most(0.75)),
        Row("start to first step, ours ÷ the floor", result.floor_ratio, "×", at_most(1.3)),
    ]


def _figures(name: str, taken: Taken) -> list[Row]:
    note = f"{taken.wall:.1f} s by the clock on the wall"
    return [Row(f"start to first step, {name}", taken.cpu, "CPU-s", note=note)]


def measure(repetitions: int, peers: bool = False) -> StartUp:
    """Starts each kind of process ``repetitions`` times, in turn."""
    with tempfile.TemporaryDirectory() as scratch, ours.s3() as server:
        model, data, run = _prepare(server, Path(scratch))
        programs = {"floor": (_FLOOR, model), "ours": (_OURS, run)}
        if peers:
            programs["trl"] = (_TRL, model, data, f"{scratch}/trl")
        taken: dict[str, list[Taken]] = {name: [] for name in programs}
        for _ in range(repetitions):
            for name, (program, *arguments) in programs.items():
                taken[name].append(Taken(**measured("-c", program, *arguments, FINETUNE_SCRATCH=scratch)))
    return StartUp(_median(taken["floor"]), _median(taken["ours"]), _median(taken["trl"]) if peers else None)


def _prepare(server: ours.Server, scratch: Path) -> tuple[str, str, str]:
    """Paths of the model, of the data, and of a run file that names both in S3."""
    model = tiny.save_model(scratch / "model")
    data = scratch / "train.jsonl"
    data.write_bytes(tiny.json_lines(*({"prompt": f"say {n} ", "completion": f"{n}"} for n in range(200))))
    server.put_directory("model/", model)
    server.client.upload_file(str(data), ours.BUCKET, data.name)
    content = {
        "contract": 1,
        "job": {"namespace": ours.BUCKET, "name": "start-up", "uid": "0"},
        "attempt": 0,
        "task": "text-generation",
        "model": {"uri": f"s3://{ours.BUCKET}/model/"},
        "storage": {"endpointUrl": server.url},
        "data": {"train": [{"uri": f"s3://{ours.BUCKET}/{data.name}"}], "validationFraction": 0.1},
        "method": {},
        "training": {"maxSteps": 2},
        "evaluation": {},
        "outputPrefix": f"s3://{ours.BUCKET}/out/",
    }
    run = scratch / "run.json"
    run.write_text(json.dumps(content))
    return str(model), str(data), str(run)


def _median(taken: Sequence[Taken]) -> Taken:
    return Taken(statistics.median(t.cpu for t in taken), statistics.median(t.wall for t in taken))
