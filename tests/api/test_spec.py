"""What a FineTuneJob may say: defaults, refusals in a user's words, and fields that nothing acts on yet."""

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune_api.base import Model
from finetune_api.job import InvalidSpec, read_spec
from finetune_api.spec import FineTuneJobSpec

ROOT = Path(__file__).parents[2]

TEN_LINES: dict[str, Any] = {
    "model": {"uri": "hf://Qwen/Qwen2.5-7B-Instruct"},
    "data": {"train": [{"uri": "s3://team-a/support/train.jsonl"}], "validationFraction": 0.05},
    "output": {"uri": "s3://team-a/adapters/"},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The ten-line spec with one field set, or removed where value is None. ``path``: ``training.epochs``."""
    spec = copy.deepcopy(TEN_LINES)
    *parents, last = path.split(".")
    place = spec
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return spec


TWO = [{"uri": "job://a"}, {"uri": "job://b"}]

BROKEN = [
    ("epochz", 2, "spec.epochz"),
    ("model", None, "spec.model: Field required"),
    ("data", None, "spec.data: Field required"),
    ("output", None, "spec.output: Field required"),
    ("model.uri", "ftp://x/y", "spec.model.uri"),
    ("model.uri", "hf:///x", "spec.model.uri"),
    ("model.uri", "job://", "spec.model.uri"),
    ("model.uri", "job://../../default/finetunejobs/other", "spec.model.uri"),
    ("model.uri", "job://other?x=y", "spec.model.uri"),
    ("model.uri", "job://%2e%2e", "spec.model.uri"),
    ("model.uri", "job://namespace/other", "spec.model.uri"),
    ("model.revision", "", "spec.model.revision"),
    ("profile", "../other", "spec.profile"),
    ("resources", {"gpuType": "a100", "gpusPerNode": 0}, "gpuType is for resources.gpusPerNode 1"),
    ("trainer", {"image": "registry/../evil"}, "spec.trainer.image"),
    ("trainer", {"image": "UPPER/case"}, "spec.trainer.image"),
    ("trainer", {"image": "a/b", "command": []}, "spec.trainer.command"),
    ("trainer", {"command": ["sh", "-c", "id"]}, "spec.trainer.image"),
    *(
        (f"{path}.uri", f"s3://b/{odd}/x", "uri must not have control characters")
        for path, odd in (
            ("data.train.0", "%2e%2e"),
            ("data.train.0", "..\\.."),
            ("data.train.0", "a\0b"),
            ("data.train.0", "\uff0e\uff0e"),
            ("output", "%2E%2e"),
            ("output", "a\u202eb"),
            ("model", "a\u200bb"),
            ("model", "a%00b"),
            ("model", "a\u2215b"),
        )
    ),
    ("data.train", [], "spec.data.train"),
    ("data.train", [{"uri": "s3://bucket"}], "spec.data.train.0.uri"),
    ("data.train", [{"uri": "s3://bucket/folder/"}], "spec.data.train.0.uri"),
    ("data.train", [{"uri": "s3://b/x.jsonl", "format": "csv"}], "spec.data.train.0.format"),
    ("data.train.0.weight", 0, "spec.data.train.0.weight"),
    ("data.train.0.template", "chatmll", "template is neither Jinja ({{ … }}) nor one of chatml, llama3"),
    ("data.train.0.template", "x" * 4097, "spec.data.train.0.template"),
    ("data.train.0.format", "fields", "format fields needs a template over the fields"),
    ("data.template", "no template", "template is neither Jinja"),
    ("data.train.0.name", "a/b", "spec.data.train.0.name"),
    ("data.train.0.name", "a" * 33, "spec.data.train.0.name"),
    ("data.validationFraction", 0, "spec.data.validationFraction"),
    ("data.validationFraction", 1, "spec.data.validationFraction"),
    ("data.validationFraction", "some", "spec.data.validationFraction"),
    ("method.lora", {"rank": 0}, "spec.method.lora.rank"),
    ("method.lora", {"rank": 1025}, "spec.method.lora.rank"),
    ("method.lora", {"rank": "many"}, "spec.method.lora.rank"),
    ("method.adapter", "lorra", "spec.method.adapter"),
    ("training.learningRate", 0, "spec.training.learningRate"),
    ("training.learningRate", 1.5, "spec.training.learningRate"),
    ("training.epochs", 0, "spec.training.epochs"),
    ("training.maxSteps", -1, "spec.training.maxSteps"),
    ("training.maxSteps", 0, "training.maxSteps 0 trains nothing"),
    ("training.warmupFraction", 1.1, "spec.training.warmupFraction"),
    ("evaluation.metrics", ["blue"], "spec.evaluation.metrics.0"),
    ("evaluation.generateRecords", 0, "spec.evaluation.generateRecords"),
    ("checkpoint.everySteps", 0, "spec.checkpoint.everySteps"),
    ("checkpoint.keep", 0, "spec.checkpoint.keep"),
    ("resources.memory", "12x", "spec.resources.memory"),
    ("runPolicy.maxRetries", -1, "spec.runPolicy.maxRetries"),
    ("output.uri", "file:///tmp/out", "spec.output.uri"),
    ("model.uri", "s3://b/../other/m/", "uri must not have . or .. between its slashes"),
    ("model.uri", "s3://../m/", "uri must not have . or .. between its slashes"),
    ("model.uri", "s3://b/m/..", "uri must not have . or .. between its slashes"),
    ("data.train", [{"uri": "s3://b/./x.jsonl"}], "uri must not have . or .. between its slashes"),
    ("output.uri", "s3://b/../../other", "uri must not have . or .. between its slashes"),
    # Rules that span fields.
    ("data.validation", [{"uri": "s3://b/v.jsonl"}], "either data.validation (files) or data.validationFraction"),
    ("data.validationFraction", None, "either data.validation (files) or data.validationFraction"),
    ("training", {"epochs": 1, "maxSteps": 5}, "training.epochs or training.maxSteps, not both"),
    ("training", {"batchSize": 4, "microBatchSize": 8}, "microBatchSize must not exceed"),
    ("method", {"adapter": "none", "lora": {}}, "method.lora is for method.adapter lora and qlora only"),
    ("method", {"adapter": "dora"}, "spec.method.adapter"),
    ("method", {"adapter": "qlora", "lora": {"initialization": "pissa"}}, "which those in 4 bits cannot be"),
    ("method", {"lora": {"initialization": "olora", "dora": True}}, "lora.dora goes with lora.initialization default"),
    ("method", {"ia3": {}}, "method.ia3 is for method.adapter ia3 only"),
    ("method", {"adapter": "prefix", "prompt": {}}, "method.prompt is for method.adapter prompt only"),
    ("method", {"adapter": "prompt", "prefix": {}}, "method.prefix is for method.adapter prefix only"),
    ("method", {"freeze": {"embeddings": True}}, "method.freeze is for method.adapter none only"),
    ("method", {"adapter": "ia3", "ia3": {"feedforwardModules": ["fc2"]}}, "must be among ia3.targetModules"),
    ("method", {"adapter": "prompt", "prompt": {"virtualTokens": 0}}, "spec.method.prompt.virtualTokens"),
    ("model", {"uri": "s3://b/m/", "revision": "main"}, "revision is for hf:// models only"),
    ("model", {"uri": "s3://b/m/", "credentials": "token"}, "credentials are for hf:// models only"),
    ("model", {}, "give either model.uri or model.combine"),
    ("model", {"uri": "job://a", "combine": {"adapters": TWO}}, "give either model.uri or model.combine"),
    ("model", {"combine": {"adapters": TWO[:1]}}, "spec.model.combine.adapters"),
    ("model", {"combine": {"adapters": [TWO[0], TWO[0]]}}, "must not name a job twice"),
    ("model", {"combine": {"adapters": [TWO[0] | {"weight": 1}, TWO[1]]}}, "give a weight for all"),
    ("model", {"combine": {"adapters": [{"uri": "s3://b/a/"}, TWO[1]]}}, "spec.model.combine.adapters.0.uri"),
    ("model", {"combine": {"adapters": TWO, "density": 0.5}}, "combine.density is for the methods ties"),
    ("model", {"combine": {"adapters": TWO, "method": "ties", "density": 0}}, "spec.model.combine.density"),
    ("method", {"from": "merge"}, "method.from is for a model.uri of job:// only"),
    ("method", {"from": "continue", "lora": {}}, "method.from continue keeps the settings"),
    ("method", {"from": "continue", "adapter": "none"}, "method.from continue goes on with an adapter"),
    ("model.uri", "pvc://claim/model", "pvc:// models are not supported yet"),
    ("training.labelSmoothing", 1, "spec.training.labelSmoothing"),
    ("training.emaDecay", 1, "spec.training.emaDecay"),
    ("training.dropout", 1, "spec.training.dropout"),
    ("training", {"decayFraction": 0.1}, "training.decayFraction is for training.schedule wsd only"),
    ("training", {"plateau": {}}, "training.plateau is for training.schedule plateau only"),
    ("training", {"momentum": 0.5}, "training.momentum is for training.optimizer sgd or rmsprop only"),
    ("training", {"optimizer": "sgd"}, "give training.learningRate with training.optimizer sgd"),
    ("training.schedule", "plateau", "give evaluation.everySteps with training.schedule plateau"),
    ("training.earlyStopping", {}, "give evaluation.everySteps with"),
    ("training.restoreBest", {}, "give evaluation.everySteps with"),
    ("runPolicy.deadline", "", "spec.runPolicy.deadline"),
    ("runPolicy.stallTimeout", "10 minutes", "spec.runPolicy.stallTimeout"),
    ("scheduling.queue", "Team A", "spec.scheduling.queue"),
]

NOT_YET = [
    ("data.test", [{"uri": "s3://b/t.jsonl"}]),
    ("data.general", [{"uri": "s3://b/g.jsonl"}]),
    ("data.prepare", {"deduplicate": True}),
    ("training.precision", "fp16"),
    ("evaluation.sliceBy", "language"),
    ("evaluation.gates", [{"metric": "eval_loss", "max": 2}]),
    ("tracking", [{"type": "mlflow"}]),
]


def test_ten_lines_are_enough() -> None:
    spec = read_spec(TEN_LINES)
    assert (spec.task, spec.method.adapter, spec.training.batch_size) == ("text-generation", "lora", 16)


@pytest.mark.parametrize(("path", "value", "said"), BROKEN)
def test_a_broken_spec_is_refused_with_the_path_of_its_field(path: str, value: object, said: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        read_spec(changed(path, value))
    assert said in str(refusal.value)


@pytest.mark.parametrize("task", ["question-answering", "text-classification", "token-classification"])
@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
def test_virtual_tokens_do_not_stand_before_what_a_head_of_its_own_judges(adapter: str, task: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        read_spec(changed("task", task) | {"method": {"adapter": adapter}})
    assert str(refusal.value).count("method.adapter") == 1, "told once"
    assert "of a task's own head PEFT would publish a part. Choose lora or ia3" in str(refusal.value)


@pytest.mark.parametrize(("path", "value"), NOT_YET)
def test_what_nothing_acts_on_yet_is_refused_and_never_ignored(path: str, value: object) -> None:
    with pytest.raises(InvalidSpec, match="not supported yet"):
        read_spec(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "instead"),
    [
        ("training.precision", "fp16", "precision may be auto or fp32 or bf16"),
    ],
)
def test_a_refusal_of_what_is_not_supported_yet_says_what_is(path: str, value: object, instead: str) -> None:
    with pytest.raises(InvalidSpec, match=instead):
        read_spec(changed(path, value))


def test_every_field_that_is_marked_not_yet_is_in_the_table_above() -> None:
    marked = {name for model in all_models(Model) for _, name, _ in model.not_yet()}
    assert marked == {path.rsplit(".", 1)[-1] for path, _ in NOT_YET}


def all_models(model: type[Model]) -> set[type[Model]]:
    found = {model}
    for child in model.__subclasses__():
        found |= all_models(child)
    return found


ONE_VALUE = {"nodes"}
"""Fields of which one value alone is accepted for now: there is nothing to read."""


def accepted(model: type[Model]) -> Iterator[tuple[str, str]]:
    """(model, attribute) of every field below a model that a user may set to something."""
    refused = {attribute for attribute, _, marker in model.not_yet() if not marker.values}
    for attribute in model.model_fields.keys() - refused:
        yield model.__name__, attribute
        for section in sections(model.model_fields[attribute].annotation):
            yield from accepted(section)


def sections(annotation: Any) -> Iterator[type[Model]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for inner in get_args(annotation):
        yield from sections(inner)


def read_somewhere() -> set[str]:
    """The names of all attributes that operator, trainer and run file read."""
    files = [ROOT / "operator/finetune_api/run.py"]
    for folder in ("operator/finetune_operator", "trainer_image/finetune_trainer"):
        files += (ROOT / folder).rglob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def test_every_field_that_is_accepted_is_read_by_operator_or_trainer() -> None:
    read = read_somewhere()
    assert {(model, name) for model, name in accepted(FineTuneJobSpec) if name not in read | ONE_VALUE} == set()


@pytest.mark.parametrize("raw", [None, [], "spec", 3])
def test_a_spec_that_is_no_object_is_refused_and_does_not_crash(raw: object) -> None:
    with pytest.raises(InvalidSpec):
        read_spec(raw)


def test_a_wrong_value_is_shown_so_that_the_user_finds_it() -> None:
    with pytest.raises(InvalidSpec, match="found 'lorra'"):
        read_spec(changed("method.adapter", "lorra"))
