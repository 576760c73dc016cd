"""Whole runs that start from what other runs published, as the operator resolves it."""

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.job import read_spec
from finetune_api.run import ExitCode, RunConfig
from finetune_operator.source import resolve
from finetune_trainer.storage.manifest import Manifest
from tests import encoders, tiny
from tests.trainer.cards import load_by_card
from tests.trainer.recipes.test_preference import PAIRS
from tests.trainer.recipes.trls import log_likelihood
from tests.trainer.test_runs import loss_of

CONSTANT = {"epochs": 2, "learningRate": 5e-3, "schedule": "constant", "warmupFraction": 0, "maxLength": 64}
HELD_OUT = tiny.PAIRS[:7]


@dataclass
class Jobs:
    """Runs one after the other; each may name those before it."""

    runs: object
    trainer: object
    s3: object
    ended: dict

    def config(self, name, model=None, method=None, **changes) -> RunConfig:
        held_out = self.s3.put(f"data/{self.trainer.directory.name}/held-out.jsonl", tiny.json_lines(*HELD_OUT))
        data = self.trainer.data(tiny.json_lines(*tiny.PAIRS), f"{name}.jsonl")
        content = {
            "data": {"train": data["train"], "validation": [{"uri": held_out}]},
            "method": method or {},
            "training": CONSTANT,
            "evaluation": {"samples": 1, "maxNewTokens": 4},
        } | changes
        written = {"model": model or {"uri": self.trainer.model_uri}, "output": {"uri": "s3://team-a/x/"}}
        spec = read_spec(
            written | {key: content[key] for key in ("task", "data", "method", "training") if key in content}
        )
        location = resolve(spec, "team-a", name, self.ended)
        job = {"namespace": "team-a", "name": name, "uid": f"{self.trainer.directory.name}-{name}"}
        return self.runs.config(name, job=job, model=location.to_dict(), **content)

    def run(self, name, model=None, method=None, **changes):
        """A run to its end."""
        config = self.config(name, model, method, **changes)
        life = self.runs.live(config)
        assert life.code == 0, life.log
        told = json.loads(life.message)
        self.ended[name] = {
            "metadata": {"name": name},
            "spec": {"method": method or {}},
            "status": {"phase": "Succeeded", **told},
        }
        return told

    def refusal(self, name, model, method=None, **changes) -> str:
        life = self.runs.live(self.config(name, model, method, **changes))
        assert life.code == ExitCode.MODEL_INVALID, life.log
        return json.loads(life.message)["error"]["message"]

    def model(self, name, directory):
        """What a run published, by nothing but PEFT and transformers: the base, the adapters of the chain, its own."""
        result = self.ended[name]["status"]["result"]
        if "modelURI" in result:
            place = self.s3.fetch(result["modelURI"], directory / name)
            return AutoModelForCausalLM.from_pretrained(place).eval()
        on = result["builtOn"]
        model = AutoModelForCausalLM.from_pretrained(self.s3.fetch(on["uri"], directory / "base"))
        for below in on.get("adapters", ()):
            place = self.s3.fetch(below["uri"], directory / below["job"])
            model = PeftModel.from_pretrained(model, place).merge_and_unload()
        return PeftModel.from_pretrained(model, self.s3.fetch(result["adapterURI"], directory / name)).eval()


@pytest.fixture
def jobs(runs, trainer, s3) -> Jobs:
    return Jobs(runs, trainer, s3, {})


@pytest.fixture
def two(jobs) -> Jobs:
    """With the adapters a and b, which are trained once."""
    if not _TWO:
        jobs.run("a")
        jobs.run("b", training=CONSTANT | {"seed": 1})
        _TWO.update(jobs.ended)
    jobs.ended |= _TWO
    return jobs


_TWO: dict = {}


def metric(told, name="eval_loss"):
    return next((m["value"], m.get("baseline")) for m in told["metrics"] if m["name"] == name)


@pytest.fixture
def tokenizer(model_directory):
    return AutoTokenizer.from_pretrained(model_directory)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return encoders.save(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="session")
def bert_uri(s3, bert):
    return s3.put_directory("models/bert-of-chains", bert)


A = {"uri": "job://a"}


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "adapter", ["lora", pytest.param("ia3", marks=LONG), pytest.param("prompt", marks=LONG), "prefix"]
)
def test_more_epochs_in_a_second_job_go_on_where_the_first_one_ended(jobs, tmp_path, tokenizer, adapter):
    training = CONSTANT | {"learningRate": {"prompt": 0.1, "prefix": 0.1}.get(adapter, 5e-3)}
    first = jobs.run("a", method={"adapter": adapter}, training=training)
    second = jobs.run("b", A, {"adapter": adapter}, training=training)
    (tuned, base), (again, before) = metric(first), metric(second)
    assert before == pytest.approx(tuned, rel=1e-5)
    assert again < tuned < base
    assert "adapters" not in second["result"]["builtOn"] or not second["result"]["builtOn"]["adapters"]
    assert second["result"]["builtOn"]["uri"] == jobs.trainer.model_uri
    assert second["result"]["baseModel"] == "job://a"
    if adapter != "prompt":  # of which PEFT tells logits for the virtual tokens as well
        assert loss_of(jobs.model("b", tmp_path), tokenizer, HELD_OUT) == pytest.approx(again, rel=1e-4)


def test_a_chain_of_merges_is_what_peft_makes_of_the_published_adapters(
    jobs, tmp_path, tokenizer, model_directory, monkeypatch
):
    first = jobs.run("a")
    second = jobs.run("b", A, {"from": "merge", "lora": {"rank": 4}})
    third = jobs.run("c", {"uri": "job://b"}, {"from": "merge", "adapter": "ia3"})
    fourth = jobs.run("d", {"uri": "job://c"}, {"adapter": "none"}, training=CONSTANT | {"learningRate": 1e-3})
    told = [first, second, third, fourth]
    for before, after in pairwise(told):
        assert metric(after)[1] == pytest.approx(metric(before)[0], rel=1e-5)
        assert metric(after)[0] < metric(after)[1]
    for name in "abcd":
        model, result = jobs.model(name, tmp_path), jobs.ended[name]["status"]
        assert loss_of(model, tokenizer, HELD_OUT) == pytest.approx(metric(result)[0], rel=1e-4)
    assert [adapter["job"] for adapter in third["result"]["builtOn"]["adapters"]] == ["a", "b"]
    assert "builtOn" not in fourth["result"]
    manifest = Manifest.model_validate_json(
        jobs.s3.get(f"{jobs.config('d', {'uri': 'job://c'}, {'adapter': 'none'}).output_prefix}manifest.json")
    )
    assert [ancestor.job.name for ancestor in manifest.lineage] == ["a", "b", "c"]
    card = jobs.s3.get(f"{third['result']['adapterURI']}README.md").decode()
    for said in ("## Before that", "| a | ", "| b | job://a | ", "/a.jsonl", '"adapter-2").merge_and_unload()'):
        assert said in card
    assert "| c | " not in card
    below = {f"adapter_{n}": adapter["uri"] for n, adapter in enumerate(third["result"]["builtOn"]["adapters"], 1)}
    uri, place = third["result"]["adapterURI"], tmp_path / "by-card"
    model, _ = load_by_card(jobs.s3, uri, model_directory, place, monkeypatch, **below)
    assert loss_of(model, tokenizer, HELD_OUT) == pytest.approx(metric(third)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("task", "records"),
    [
        ("text-classification", encoders.texts(96)),
        pytest.param("token-classification", encoders.sentences(96), marks=pytest.mark.long),
        pytest.param("question-answering", encoders.questions(96), marks=pytest.mark.long),
    ],
)
def test_a_head_goes_along_with_the_adapter_that_brought_it(jobs, bert, bert_uri, tmp_path, monkeypatch, task, records):
    """The second set holds fewer labels than the first: by an order of its own they would have other numbers."""
    training = {"maxSteps": 40, "learningRate": 1e-2, "maxLength": 64, "batchSize": 16}
    held_out = jobs.s3.put(f"data/{jobs.trainer.directory.name}/held.jsonl", tiny.json_lines(*records[:24]))

    def section(name, some):
        train = jobs.trainer.data(tiny.json_lines(*some), f"{name}.jsonl")["train"]
        return {"task": task, "training": training, "data": {"train": train, "validation": [{"uri": held_out}]}}

    whole, part = section("whole", records[24:]), section("part", records[24:60])
    first = jobs.run("a", {"uri": bert_uri}, **whole)
    name = first["metrics"][0]["name"]
    for job, method in (("b", {}), ("c", {"from": "merge"}), ("d", {"adapter": "none"})):
        told = jobs.run(job, A, method, **part | {"training": training | {"maxSteps": 1, "learningRate": 1e-6}})
        assert metric(told, name)[1] == pytest.approx(metric(first, name)[0], abs=1e-6)
        assert metric(told, name)[1] > metric(first, name)[1]
        if job == "c":  # its base is made of two, which the card's code puts together
            uri, below = told["result"]["adapterURI"], told["result"]["builtOn"]["adapters"][0]["uri"]
            model, _ = load_by_card(jobs.s3, uri, bert, tmp_path, monkeypatch, adapter_1=below)
            before = load_by_card(jobs.s3, first["result"]["adapterURI"], bert, tmp_path / "a", monkeypatch)[0]
            ids = torch.tensor([[2, 5, 6, 7, 3]])
            for one, other in zip(model(input_ids=ids)[:1], before(input_ids=ids)[:1], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", ["continue", "merge"])
def test_preferences_are_learned_against_the_model_that_the_job_before_made(two, tmp_path, start):
    """Rewards are by how much likelier an answer became than it was to that model, and not to the bare base."""
    held_out = two.s3.put(f"data/{two.trainer.directory.name}/pairs-held.jsonl", tiny.json_lines(*PAIRS[:6]))
    train = two.trainer.data(tiny.json_lines(*PAIRS), "pairs.jsonl")["train"]
    told = two.run(
        "c",
        A,
        {"objective": "dpo", "from": start},
        data={"train": train, "validation": [{"uri": held_out}]},
        training={"maxSteps": 8, "learningRate": 1e-3, "maxLength": 64, "batchSize": 8},
    )
    assert metric(told, "reward_margin")[1] == pytest.approx(0, abs=1e-4)
    assert metric(told, "preference_accuracy")[0] == 1.0
    before, after = (two.model(name, tmp_path / name) for name in "ac")
    for name in ("chosen", "rejected"):
        ratios = [
            log_likelihood(after, pair["prompt"], pair[name]) - log_likelihood(before, pair["prompt"], pair[name])
            for pair in PAIRS[:6]
        ]
        assert metric(told, f"reward_{name}")[0] == pytest.approx(0.1 * sum(ratios) / 6, abs=1e-3)


def test_an_adapter_with_the_head_of_another_task_is_refused(jobs, bert_uri):
    training = {"maxSteps": 1, "maxLength": 64}
    words = jobs.trainer.data(tiny.json_lines(*encoders.sentences(32)), "words.jsonl")
    texts = jobs.trainer.data(tiny.json_lines(*encoders.texts(32)), "texts.jsonl")
    jobs.run("a", {"uri": bert_uri}, task="token-classification", data=words, training=training)
    config = jobs.config("b", A, task="text-classification", data=texts, training=training)
    life = jobs.runs.live(config)
    assert life.code in (ExitCode.MODEL_INVALID, ExitCode.DATA_INVALID), life.log


def test_a_killed_continuation_ends_in_the_same_bits(two):
    jobs = two
    whole = jobs.config("c", A, checkpoint={"everySteps": 1})
    assert jobs.runs.live(whole).code == 0
    killed = whole.model_copy(update={"output_prefix": f"{whole.output_prefix}again/"})
    assert jobs.runs.live(killed, **{"step 3": "SIGTERM"}).code == ExitCode.PREEMPTED
    resumed = jobs.runs.live(killed)
    assert resumed.code == 0
    assert "resumed at step" in resumed.log
    assert jobs.runs.result(whole) == jobs.runs.result(killed)


MIX = {"adapters": [{"uri": "job://a", "weight": 0.7}, {"uri": "job://b", "weight": 0.3}]}
AS_IS = {"maxSteps": 0, "maxLength": 64}


def test_combinations_are_pefts_own_and_are_measured_beside_the_base_without_them(two, tmp_path, tokenizer):
    ids = tokenizer("say 1", return_tensors="pt").input_ids
    theirs = two.model("a", tmp_path)
    theirs.load_adapter(two.s3.fetch(two.ended["b"]["status"]["result"]["adapterURI"], tmp_path / "b"), "b")
    for how in ("linear", "cat", "svd", "ties"):
        told = two.run(how, {"combine": MIX | {"method": how}}, training=AS_IS)
        tuned, base = metric(told)
        assert base == pytest.approx(metric(two.ended["a"]["status"])[1], rel=1e-6)
        ours = two.model(how, tmp_path / how)
        assert loss_of(ours, tokenizer, HELD_OUT) == pytest.approx(tuned, rel=1e-4)
        assert told["result"]["rank"] == (32 if how == "cat" else 16)
        density = 0.5 if how == "ties" else None
        theirs.add_weighted_adapter(["default", "b"], [0.7, 0.3], how, combination_type=how, density=density)
        theirs.set_adapter(how)
        with torch.no_grad():
            assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-4), how


@pytest.mark.long
def test_what_chance_leaves_out_is_drawn_by_the_seed(two):
    found = []
    for number, seed in enumerate((3, 3, 4)):
        combine = MIX | {"method": "dare_ties", "density": 0.8}
        told = two.run(f"dare-{number}", {"combine": combine}, training=AS_IS | {"seed": seed})
        assert metric(told)[0] < metric(told)[1]
        found.append(metric(told)[0])
    assert found[0] == found[1] != found[2]


def test_the_whole_weight_on_one_adapter_is_that_adapter(two):
    adapters = [{"uri": "job://a", "weight": 1}, {"uri": "job://b", "weight": 0}]
    told = two.run("mix", {"combine": {"adapters": adapters}}, training=AS_IS)
    assert metric(told) == pytest.approx(metric(two.ended["a"]["status"]), rel=1e-6)
    assert told["result"]["baseModel"] == "job://a + job://b"


def test_a_combination_is_trained_on_and_gone_on_with(two):
    told = two.run("longer", {"combine": MIX})
    assert metric(told)[0] < metric(two.ended["a"]["status"])[0]
    assert metric(told)[1] == pytest.approx(metric(two.ended["a"]["status"])[1], rel=1e-6)
    again = two.run("again", {"uri": "job://longer"}, training=AS_IS)
    assert metric(again) == pytest.approx((metric(told)[0],) * 2, rel=1e-5)


def test_adapters_of_other_ranks_are_refused_or_combined_by_what_can(two):
    jobs = two
    jobs.run("b", method={"lora": {"rank": 4}}, training={"maxSteps": 1, "maxLength": 64})
    said = jobs.refusal("mix", {"combine": MIX}, training=AS_IS)
    assert "has r 16, that of b has 4, and by linear they cannot be combined" in said
    assert jobs.run("svd", {"combine": MIX | {"method": "svd"}}, training=AS_IS)["result"]["rank"] == 16


def test_adapters_of_other_modules_are_refused(two):
    jobs = two
    jobs.run("b", method={"lora": {"targetModules": ["q_proj"]}}, training={"maxSteps": 1, "maxLength": 64})
    said = jobs.refusal("mix", {"combine": MIX | {"method": "svd"}}, training=AS_IS)
    assert "that of b has q_proj" in said
    assert "spec.method.lora.targetModules" in said


def test_a_prompt_cannot_become_part_of_a_model(jobs):
    jobs.run("a", method={"adapter": "prompt"}, training={"maxSteps": 1, "maxLength": 64})
    said = jobs.refusal("b", A, {"adapter": "lora"})
    assert "is of the kind prompt, and that cannot become part of a model" in said


def test_a_base_that_was_changed_since_is_refused(jobs, s3, trainer, tmp_path):
    trainer.model_uri = s3.put_directory("models/own", tiny.save_model(tmp_path / "own"))
    jobs.run("a", training={"maxSteps": 1, "maxLength": 64})
    s3.put_directory("models/own", tiny.save_model(tmp_path / "other", seed=1))
    assert "is another one than the adapter of FineTuneJob a was trained on" in jobs.refusal("b", A)


def test_an_adapter_that_was_changed_or_deleted_is_refused(jobs, s3):
    told = jobs.run("a", training={"maxSteps": 1, "maxLength": 64})
    uri = told["result"]["adapterURI"]
    weights = bytearray(s3.get(f"{uri}adapter_model.safetensors"))
    weights[-1] ^= 1
    s3.put(f"{uri.removeprefix('s3://team-a/')}adapter_model.safetensors", bytes(weights))
    assert "was changed or damaged after it was published" in jobs.refusal("b", A)
    s3.client.delete_object(Bucket="team-a", Key=f"{jobs.config('a').output_prefix[12:]}manifest.json")
    assert "No manifest with the digest" in jobs.refusal("c", A)
