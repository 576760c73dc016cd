"""The benchmark of the trainer measures what it says, and fails where a goal is missed. The peers are not needed."""

import json
import math

import pytest

from benchmarks.row import Goal, NotHere, Row, at_least, at_most, table
from benchmarks.sections import run
from benchmarks.trainer import SECTIONS, cpu, gpu
from benchmarks.trainer.workload import TINY, make, tokens

FAST = Row("speed", 2.5, "×", at_least(2.2))
SLOW = Row("speed", 2.1, "×", at_least(2.2))
LEAN = Row("memory", 0.5, "×", at_most(0.7))
FIGURE = Row("tokens", 900.0, "tokens/CPU-s")


def elsewhere() -> list[Row]:
    raise NotHere("this needs a machine of another kind")


@pytest.mark.parametrize(
    ("rows", "code", "missed"),
    [
        ([FAST, LEAN, FIGURE], 0, "none"),
        ([FAST, SLOW], 1, "speed"),
        ([Row("loss", math.nan, "nats", at_most(0.01))], 1, "loss"),
    ],
)
def test_the_exit_code_says_whether_a_goal_was_missed(rows, code, missed, tmp_path, capsys):
    assert run({"cpu": lambda: rows}, [], tmp_path / "rows.json") == code
    assert f"goals missed: {missed}" in capsys.readouterr().out


def test_all_rows_are_written_with_their_goals(tmp_path):
    written = tmp_path / "build" / "rows.json"
    run({"cpu": lambda: [SLOW], "startup": lambda: [FIGURE]}, [], written)
    assert json.loads(written.read_bytes()) == [
        {"name": "speed", "goal": "≥ 2.2", "value": 2.1, "unit": "×", "holds": False},
        {"name": "tokens", "goal": None, "value": 900.0, "unit": "tokens/CPU-s", "holds": True},
    ]


@pytest.mark.parametrize(("chosen", "code"), [([], 0), (["gpu"], 1)])
def test_a_section_that_cannot_run_here_says_why_and_fails_only_when_asked_for(chosen, code, tmp_path, capsys):
    assert run({"cpu": lambda: [FAST], "gpu": elsewhere}, chosen, tmp_path / "rows.json") == code
    assert "not measured: this needs a machine of another kind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("goal", "holds", "misses"),
    [(at_least(2.0), 2.0, 1.99), (at_most(0.7), 0.7, 0.71), (at_most(0.01), -1.0, math.inf)],
)
def test_a_goal_holds_up_to_its_bound(goal: Goal, holds, misses):
    assert goal.holds(holds)
    assert not goal.holds(misses)


def test_the_table_shows_verdicts_and_notes():
    shown = table([SLOW, Row("peer", 12345.6, "MiB", note="from a wrong mask")])
    assert "2.1 ×                 ≥ 2.2  MISSED" in shown
    assert "12,346 MiB\n    from a wrong mask" in shown


def test_our_trainer_is_measured_in_a_process_of_its_own():
    ours = cpu.measure(TINY, {cpu.OURS: {}}, (), repetitions=1)[cpu.OURS]
    assert ours.figures["steps"] == math.ceil(TINY.chats / TINY.batch_size)
    assert ours.speed == ours.figures["useful"] / ours.figures["cpu"] > 0
    assert 100 < ours.figures["resident_before"] < ours.peak
    assert 0 < ours.loss < math.log(TINY.vocabulary) + 0.5
    assert [row.name for row in cpu.rows_of({cpu.OURS: ours})] == [
        "CPU speed, ours",
        "CPU peak memory, ours",
        "CPU eval loss, ours",
    ]


def contender(speed: float, peak: float, loss: float, **figures: float) -> cpu.Contender:
    fixed = {"useful": speed, "cpu": 1.0, "peak": peak, "peak_training": peak, "resident_before": peak / 2}
    return cpu.Contender(fixed | figures, loss)


def test_ratios_and_distances_are_taken_from_the_right_contenders():
    rows = cpu.rows_of(
        {
            cpu.OURS: contender(900, 900, 8.0),
            cpu.CHECKPOINTED: contender(700, 600, 8.0),
            cpu.BF16: contender(1350, 800, 8.02),
            "TRL packed": contender(300, 1200, 8.005),
            "Trainer padded": contender(450, 3000, 8.0, mask_error=0.6),
        }
    )
    goals = {row.name: (round(row.value, 4), row.holds, bool(row.note)) for row in rows if row.goal}
    assert goals == {
        "CPU speed, ours ÷ TRL packed": (3.0, True, False),
        "CPU speed, ours ÷ Trainer padded": (2.0, False, True),
        "CPU peak memory, ours ÷ TRL packed": (0.75, False, False),
        "CPU peak memory, ours, checkpointed ÷ TRL packed": (0.5, True, False),
        "CPU speed, bf16 ÷ fp32, both ours": (1.5, True, False),
        "CPU eval loss, distance of ours, bf16 from ours": (0.02, False, True),
        "CPU eval loss, distance of ours, checkpointed from ours": (0.0, True, True),
        "CPU eval loss, distance of TRL packed from ours": (0.005, True, True),
        "CPU eval loss, distance of Trainer padded from ours": (0.0, True, True),
    }


def test_the_workload_is_the_same_every_time_and_no_chat_is_cut(tmp_path):
    first, second = make(tmp_path / "first", TINY), make(tmp_path / "second", TINY)
    for one, other in ((first.train, second.train), (first.held_out, second.held_out)):
        assert one.read_bytes() == other.read_bytes()
    examples = first.encoded(first.train)
    assert len(examples) == TINY.chats
    assert max(len(example["input_ids"]) for example in examples) <= TINY.longest
    assert 0.2 < sum(label != -100 for example in examples for label in example["labels"]) / tokens(examples) < 0.8


def test_the_gpu_rows_are_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NotHere, match="need a CUDA GPU"):
        gpu.rows()


def test_operations_are_counted_for_the_weights_that_the_shape_has(tmp_path):
    """Llama 3 8B has 8.03 billion weights: those of its layers, embedding and head, and some norms."""
    shape = gpu.SETTINGS["packed 4k"]
    frozen, adapter = gpu._layer_weights(shape)
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.layers * frozen + 2 * shape.embeddings * shape.hidden + norms == 8_030_261_248
    assert adapter * shape.layers == 41_943_040  # as PEFT says of rank 16 on all linear layers

    workload = make(tmp_path, TINY)
    examples = workload.encoded(workload.train)
    seen, squares = tokens(examples), sum(len(example["input_ids"]) ** 2 for example in examples)
    learned = sum(label != -100 for example in examples for label in example["labels"])
    frozen, adapter = 4 * 32 * 32 + 3 * 32 * 64, 16 * (4 * 64 + 3 * 96)
    assert gpu.operations(workload) == pytest.approx(
        2 * (4 * frozen + 6 * adapter) * seen + 4 * 32 * 320 * learned + 6 * 2 * 32 * squares
    )


def test_gpu_rows_stand_beside_the_best_that_trl_could_do(tmp_path):
    workload = make(tmp_path, TINY)
    taken = {
        gpu.OURS: {"useful": 1200, "wall": 1.0, "gpu_peak": 2048.0},
        "TRL packed": None,
        "TRL packed, checkpointed": {"useful": 1000, "wall": 1.0, "gpu_peak": 4096.0},
        gpu.PADDED: {"useful": 500, "wall": 1.0, "gpu_peak": 4096.0},
    }
    rows = gpu.rows_of("GPU 4k", "NVIDIA H200", workload, taken)
    assert {row.name: row.value for row in rows if row.goal and row.unit == "×"} == {
        "GPU 4k, ours ÷ best of TRL": 1.2,
        "GPU 4k, peak memory, ours ÷ the same TRL": 0.5,
        "GPU 4k, ours ÷ Trainer padded": 2.4,
    }
    [utilisation] = [row for row in rows if "MFU" in row.name]
    assert utilisation.value == pytest.approx(100 * gpu.operations(workload) / 989e12)
    assert any(row.name == "GPU 4k, TRL packed" and "memory ran out" in row.note for row in rows)


def test_every_section_is_a_module_with_rows():
    from importlib import import_module

    assert all(callable(import_module(f"benchmarks.trainer.{name}").rows) for name in SECTIONS)
