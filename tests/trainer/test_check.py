"""The check before a training, in this process: it goes as far as a training without weights, and refuses the same."""

import pytest
from accelerate.state import AcceleratorState

from finetune_api.run import ExitCode, RunResult
from finetune_trainer.check import check
from finetune_trainer.ending import run_to_end
from tests import tiny
from tests.trainer.conftest import Ended

PAIRS = [{"prompt": f"{pair['prompt']}{i} ", "completion": pair["completion"]} for i, pair in enumerate(tiny.PAIRS)]
"""No two of them alike."""


@pytest.fixture
def checked(trainer):
    """Checks a run file, of which whole sections may be replaced; the answer is how it ended."""

    def run(**changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        if "data" not in changes:
            changes["data"] = trainer.data(tiny.json_lines(*PAIRS))
        config = trainer.config(**changes)
        scratch, log = trainer.directory / "scratch", trainer.directory / "termination-log"
        scratch.mkdir(exist_ok=True)
        code = run_to_end(lambda: check(config, scratch), log)
        return Ended(code, RunResult.model_validate_json(log.read_bytes()), config)

    return run


def refused(ended, code, *words):
    assert ended.code == code, ended.result
    for word in words:
        assert word in ended.message


def test_what_a_training_would_learn_from_is_counted_and_nothing_is_left_in_s3(s3, trainer, checked):
    ended = checked()
    assert ended.code == 0, ended.result.error
    found = ended.result.checked
    assert (found.records + found.validation_records, found.left_out, found.duplicates) == (len(tiny.PAIRS), 0, 0)
    assert found.validation_records == round(len(tiny.PAIRS) * 0.2)
    assert ended.result.result is None
    assert s3.names(ended.config.output_prefix) == []
    trained = trainer.run(data=ended.config.data.to_dict())
    steps = trained.result.usage.trained_tokens / 3
    assert 0 < steps <= found.tokens


def test_records_that_lose_their_end_are_counted_as_a_training_loses_it(s3, trainer, checked):
    long = {"prompt": "red 99 ", "completion": " one" * 60}
    held = s3.put("data/long.jsonl", tiny.json_lines(long, PAIRS[0] | {"prompt": "red 98 "}))
    train = trainer.data(tiny.json_lines(*PAIRS, long | {"prompt": "red 97 "}))["train"]
    data = {"train": train, "validation": [{"uri": held}]}
    ended = checked(data=data)
    assert (ended.result.checked.cut, ended.result.checked.left_out) == (2, 0)
    told = trainer.run(data=data)
    report = s3.report(told.result.result.adapter_uri)["sequences"]
    assert (report["trainRecordsCut"], report["validationRecordsCut"]) == (1, 1)
    assert checked(data=data, training={"maxLength": 512}).result.checked.cut == 0


def test_no_weights_are_fetched(checked, trainer, s3, model_directory):
    """There are none that could be: the list names them, and nothing more is there to read."""
    uri = s3.put_directory("models/hollow", model_directory, without=("model.safetensors",))
    s3.put("models/hollow/model.safetensors", b"no weights at all")
    assert checked(model={"uri": uri}).code == 0
    refused(trainer.run(model={"uri": uri}), ExitCode.MODEL_INVALID, "model.safetensors")


@pytest.mark.parametrize("adapter", ["lora", "qlora", "ia3", "prompt", "prefix", "none"])
def test_every_adapter_is_put_on_a_model_without_weights(checked, adapter):
    assert checked(method={"adapter": adapter}).code == 0


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"method": {"lora": {"targetModules": ["nowhere"]}}}, ExitCode.CONFIGURATION_INVALID, ("nowhere", "q_proj")),
        ({"task": "text2text-generation"}, ExitCode.MODEL_INVALID, ("text2text-generation",)),
        ({"training": {"maxLength": 4096}, "long": True}, ExitCode.CONFIGURATION_INVALID, ("positions", "maxLength")),
    ],
)
def test_what_the_configuration_alone_forbids_is_refused_as_a_training_would(trainer, checked, changes, code, words):
    if changes.pop("long", None):
        changes["data"] = trainer.data(tiny.json_lines(*PAIRS, {"prompt": "a ", "completion": "b " * 2000}))
    refused(checked(**changes), code, *words)
    again = trainer.run(**changes)
    assert again.code == code


def test_a_broken_line_is_named(trainer, checked):
    content = tiny.json_lines(*PAIRS[:2]) + b"{\n"
    refused(checked(data=trainer.data(content)), ExitCode.DATA_INVALID, "train.jsonl line 3")


def test_records_that_are_trained_on_and_measured_with_are_counted(s3, trainer, checked):
    train = trainer.data(tiny.json_lines(*PAIRS))["train"]
    held = s3.put("data/held.jsonl", tiny.json_lines(*PAIRS[:3], {"prompt": "red ", "completion": "unheard of"}))
    ended = checked(data={"train": train, "validation": [{"uri": held}]})
    assert ended.code == 0
    assert (ended.result.checked.duplicates, ended.result.checked.validation_records) == (3, 4)


def test_where_all_are_trained_on_there_is_nothing_to_measure(s3, trainer, checked):
    train = trainer.data(tiny.json_lines(*PAIRS))["train"]
    ended = checked(data={"train": train, "validation": train})
    refused(ended, ExitCode.DATA_INVALID, "All", "spec.data.validation")


def test_a_place_that_cannot_be_written_to_is_refused(checked):
    refused(checked(outputPrefix="s3://nobodys/out/"), ExitCode.STORAGE_REFUSED, "nobodys")


def test_a_server_that_overwrites_what_it_must_not_is_refused(checked, monkeypatch):
    from finetune_trainer.storage.store import Store

    written = {}
    monkeypatch.setattr(Store, "create", lambda self, uri, content: bool(written.update({uri: content})) or True)
    monkeypatch.setattr(Store, "read", lambda self, uri: written[uri])
    ended = checked()
    refused(ended, ExitCode.STORAGE_REFUSED, "If-None-Match", "spec.output.uri")


def test_the_program_checks_where_it_is_asked_to_and_trains_nothing(s3, trainer):
    config = trainer.config(data=trainer.data(tiny.json_lines(*PAIRS)), processes=2)
    ended = trainer.finish(trainer.start(config, ("-m", "finetune_trainer", "--check")), config)
    assert ended.code == 0, ended.err
    assert ended.result.checked is not None
    assert s3.names(config.output_prefix) == []
