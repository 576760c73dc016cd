"""Translations and summaries with a T5 of 13 million weights, beside transformers' Seq2SeqTrainer with its defaults.

    python -m benchmarks.trainer seq2seq

The same for both: half of the records are translations, about as long as their sources, half are summaries, whose
length tells nothing of the source's; all weights trained in fp32 by fused AdamW without decay at a rate that falls in a
line to zero, 8 records an optimizer step, gradients clipped to 1, one pass; without dropout, to leave less to chance.
The Seq2SeqTrainer's batch is 8 records in random order, sources and targets padded to the longest of them. Ours sorts
records into steps by length, cuts a step into forward passes where that saves padding, and pads within these. Both
models are then measured on held-out records by transformers' own loss, one record at a time.

Speed is useful tokens of sources and targets, padding not counted, a CPU-second of the loop. Both run REPETITIONS
times, in turn, each time with another seed for the order of the records, by which the loss differs more than by the
contender; the figures are medians, and the losses means.
"""

import itertools
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.row import Row, at_least
from benchmarks.trainer import ours
from benchmarks.trainer.process import measured, tell
from tests import tiny

REPETITIONS = 3
TRAIN, HELD_OUT = 1600, 96
BATCH, EPOCHS, RATE, SEED = 8, 1, 5e-4, 42
LONGEST = 256
"""Tokens of the longest source and target; none is cut."""
WORDS, WIDTH, LAYERS, HEADS = 3_000, 256, 6, 4
OURS, THEIRS = "ours", "Seq2SeqTrainer"


def rows() -> list[Row]:
    """The section."""
    with tempfile.TemporaryDirectory() as scratch, ours.s3() as server:
        directory = Path(scratch)
        make(directory)
        for path in (directory / "train.jsonl", directory / "held_out.jsonl"):
            server.client.upload_file(str(path), ours.BUCKET, path.name)
        server.put_directory("seq2seq/", directory / "model")
        contenders = {OURS: partial(_ours, server), THEIRS: partial(_theirs, directory)}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for number, (name, run) in itertools.product(range(REPETITIONS), contenders.items()):
            out = directory / f"{number}-{name}"
            found = run(out, SEED + number)
            found |= _told("loss", directory, out)
            taken[name].append(found)
            speed = found["useful"] / found["cpu"]
            print(
                f"    {number + 1}/{REPETITIONS} {name}: {speed:.0f} tokens/CPU-s, {found['loss']:.4f} nats",
                file=sys.stderr,
            )
    return rows_of(taken[OURS], taken[THEIRS])


def rows_of(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[Row]:
    """From the figures of all runs."""
    if len(useful := {run["useful"] for run in (*mine, *theirs)}) != 1:
        raise RuntimeError(f"the contenders did not train on the same number of tokens: {useful}")

    def both(of: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
        return statistics.median(map(of, mine)), statistics.median(map(of, theirs))

    speeds, peaks = both(lambda run: run["useful"] / run["cpu"]), both(lambda run: run["peak"])
    shares = both(lambda run: 100 * run["useful"] / run["positions"])
    losses = [[run["loss"] for run in runs] for runs in (mine, theirs)]

    def by_seed(each: list[float]) -> str:
        return f"by seed: {' '.join(f'{loss:.4f}' for loss in each)}"

    return [
        Row("seq2seq useful tokens, ours", shares[0], "%", at_least(97)),
        Row(f"seq2seq useful tokens, {THEIRS}", shares[1], "%"),
        Row("seq2seq speed, ours", speeds[0], "tokens/CPU-s"),
        Row(f"seq2seq speed, {THEIRS}", speeds[1], "tokens/CPU-s"),
        Row(f"seq2seq speed, ours ÷ {THEIRS}", speeds[0] / speeds[1], "×", at_least(1.25)),
        Row("seq2seq eval loss, ours", statistics.mean(losses[0]), "nats", note=by_seed(losses[0])),
        Row(f"seq2seq eval loss, {THEIRS}", statistics.mean(losses[1]), "nats", note=by_seed(losses[1])),
        Row("seq2seq peak memory, ours", peaks[0], "MiB"),
        Row(f"seq2seq peak memory, {THEIRS}", peaks[1], "MiB"),
    ]


def make(directory: Path) -> None:
    """Model, tokenizer and data."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import T5Config, T5ForConditionalGeneration

    chance = random.Random(SEED)
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    spellings: dict[str, None] = {}
    while len(spellings) < 2 * WORDS:
        spellings["".join(chance.choices(syllables, k=chance.randint(2, 4)))] = None
    words = list(spellings)
    pairs = [_pair(words[:WORDS], words[WORDS:], number % 2 == 0, chance) for number in range(TRAIN + HELD_OUT)]
    (directory / "train.jsonl").write_bytes(tiny.json_lines(*pairs[:TRAIN]))
    (directory / "held_out.jsonl").write_bytes(tiny.json_lines(*pairs[TRAIN:]))
    made = tiny.tokenizer(8_192, None, tuple(" ".join(words[start : start + 50]) for start in range(0, len(words), 50)))
    end, padding = made.eos_token_id, 0
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {made.eos_token}", special_tokens=[(made.eos_token, end)]
    )
    made.pad_token = made.convert_ids_to_tokens(padding)
    made.save_pretrained(directory / "model")
    torch.manual_seed(SEED)
    config = T5Config(
        vocab_size=8_192, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=4 * WIDTH, num_layers=LAYERS, num_heads=HEADS,
        dropout_rate=0.0, pad_token_id=padding, eos_token_id=end, decoder_start_token_id=padding,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(directory / "model")


def _pair(source: list[str], target: list[str], translation: bool, chance: random.Random) -> dict[str, str]:
    """Some words, and their translations: all of them but a few, or one here and there."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))
    length = min(LONGEST // 2 - 8, max(4, round(chance.lognormvariate(2.4, 0.75))))
    drawn = chance.choices(range(WORDS), cum_weights=weights, k=length)
    if translation:
        told = [word for word in drawn if chance.random() < 0.9] or drawn
    else:
        told = sorted(chance.sample(drawn, min(length, max(2, round(chance.lognormvariate(1.6, 0.5))))))
    kind = "translate" if translation else "summarise"
    return {"prompt": f"{kind}: {' '.join(source[w] for w in drawn)}", "completion": " ".join(target[w] for w in told)}


def _ours(server: ours.Server, out: Path, seed: int) -> dict[str, Any]:
    training = {"epochs": EPOCHS, "learningRate": RATE, "batchSize": BATCH, "maxLength": LONGEST, "seed": seed}
    return ours.train_whole(server, "seq2seq", "text2text-generation", training, {"metrics": []}, out)


def _theirs(directory: Path, out: Path, seed: int) -> dict[str, Any]:
    return _told("theirs", directory, out, seed)


def _told(what: str, *arguments: object) -> dict[str, Any]:
    return measured("-m", "benchmarks.trainer.seq2seq", what, *map(str, arguments))


def run_ours(arguments: list[str]) -> int:
    """Our trainer, with a meter around its loop, and one that counts what goes through the model in training."""
    from finetune_trainer.recipes.text2text import Text2Text

    collate, counted = Text2Text.collate, []

    def counting(objective: Any, *given: Any) -> Any:
        batch = collate(objective, *given)
        counted.append((batch.sources.numel() + batch.targets.numel()) if objective.training else 0)
        return batch

    Text2Text.collate = counting  # type: ignore[method-assign]
    sys.argv[1:] = arguments
    return ours.main(lambda: {"positions": sum(counted)})


def _encoded(tokenizer: Any, path: Path) -> list[dict[str, list[int]]]:
    records = map(json.loads, path.read_text().splitlines())
    made = [tokenizer(record["prompt"], text_target=record["completion"]) for record in records]
    return [{name: each[name] for name in ("input_ids", "attention_mask", "labels")} for each in made]


def run_theirs(directory: Path, out: Path, seed: int) -> None:
    """transformers' Seq2SeqTrainer."""
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )

    from benchmarks.trainer.meter import Meter
    from benchmarks.trainer.peers import Clock, train_counted

    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    set_seed(seed)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory / "model", dtype="float32")
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out),
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    assert arguments.per_device_train_batch_size == BATCH
    meter = Meter()
    trainer = Seq2SeqTrainer(
        model,
        arguments,
        train_dataset=_encoded(tokenizer, directory / "train.jsonl"),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[Clock(meter)],
    )

    def count(inputs: Any) -> tuple[int, int]:
        positions = inputs["input_ids"].numel() + inputs["labels"].numel()
        return positions, int(inputs["attention_mask"].sum() + (inputs["labels"] != -100).sum())

    counted = train_counted(trainer, count)
    trainer.save_model(str(out))
    tell(**meter.figures(), **counted)


def loss(directory: Path, out: Path) -> None:
    """Mean over all target tokens of the held-out records, nats."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(out, dtype="float32").eval()
    total = count = 0.0
    for record in _encoded(AutoTokenizer.from_pretrained(out), directory / "held_out.jsonl"):
        inputs = {name: torch.tensor([value]) for name, value in record.items()}
        with torch.no_grad():
            total += float(model(**inputs).loss) * len(record["labels"])
        count += len(record["labels"])
    tell(loss=total / count)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", *arguments]:
            raise SystemExit(run_ours(arguments))
        case ["theirs", directory, out, seed]:
            run_theirs(Path(directory), Path(out), int(seed))
        case ["loss", directory, out]:
            loss(Path(directory), Path(out))
