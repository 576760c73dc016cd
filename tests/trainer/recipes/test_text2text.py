"""Sources and targets: their tokens, their loss and gradients, against transformers' own."""

import random

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.preparation.given import Given
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.sides import SidesEncoder
from finetune_trainer.recipes.text2text import Text2Text
from finetune_trainer.training.batches import Cut, plan_batches
from finetune_trainer.training.objective import IGNORED
from tests import tiny

CPU = torch.device("cpu")
PAIRS = [
    ("one two three four five six", "red"),
    ("yes", "green blue red"),
    ("", "no"),
    ("the fox", "the quick brown fox jumps over the lazy dog"),
]
RECORDS = [Record(f"line {n}", prompt=prompt, completion=completion) for n, (prompt, completion) in enumerate(PAIRS)]


@pytest.fixture(scope="module", params=["t5", "bart"])
def directory(request, tmp_path_factory):
    return tiny.save_reader_and_writer(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def model(directory):
    return AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()


def theirs(tokenizer, **cut):
    return [dict(tokenizer(prompt, text_target=target, **cut)) for prompt, target in PAIRS]


def sides(example):
    count = example.learned.count(0)
    assert example.learned == bytes(count) + b"\1" * (len(example.ids) - count)
    return list(example.ids[:count]), list(example.ids[count:])


def test_sources_and_targets_have_the_tokens_that_transformers_gives_them(tokenizer):
    encoded = SidesEncoder(tokenizer, 32).encode(RECORDS)
    expected = [(each["input_ids"], each["labels"]) for each in theirs(tokenizer)]
    assert [sides(example) for example in encoded] == expected
    assert list(encoded.targets) == list(encoded.units) == [len(labels) for _, labels in expected]
    assert encoded.longest_row == max(len(side) for both in expected for side in both)
    assert all(labels[-1] == tokenizer.eos_token_id for _, labels in expected)


def test_a_source_is_cut_before_its_end_token_and_a_target_has_none_where_it_was_cut(tokenizer):
    whole = theirs(tokenizer)
    encoded = SidesEncoder(tokenizer, 8).encode(RECORDS)
    for example, cut, uncut in zip(encoded, theirs(tokenizer, truncation=True, max_length=8), whole, strict=True):
        assert sides(example) == (cut["input_ids"], uncut["labels"][:8])
    assert len(whole[0]["input_ids"]) > 8 < len(whole[3]["labels"])
    assert encoded.cut == sum(max(len(one["input_ids"]), len(one["labels"])) > 8 for one in whole)
    assert SidesEncoder(tokenizer, max(len(side) for one in whole for side in one.values())).encode(RECORDS).cut == 0


def test_a_sample_is_asked_with_the_source_as_in_training(tokenizer):
    encoder = SidesEncoder(tokenizer, 8)
    for record, cut in zip(RECORDS, theirs(tokenizer, truncation=True, max_length=8), strict=True):
        assert encoder.prompt(record) == (cut["input_ids"], record.completion)


def test_conversations_are_refused(tokenizer):
    record = Record("s3://b/train.jsonl line 3", messages=({"role": "user", "content": "hi"},))
    with pytest.raises(TrainerError, match=r"line 3: prompt and completion are lists of messages.*text-generation"):
        SidesEncoder(tokenizer, 8).encode([record])


def losses(model, tokenizer):
    """(loss, gradients), ours and transformers' own of the batch that its own collator makes, in training mode."""
    encoded = SidesEncoder(tokenizer, 32).encode(RECORDS)
    objective = Text2Text(model.train())
    found = []
    for loss in (
        lambda: objective(objective.collate(list(encoded), False, CPU)).loss / sum(encoded.units),
        lambda: model(**DataCollatorForSeq2Seq(tokenizer, model)(theirs(tokenizer))).loss,
    ):
        model.zero_grad()
        value = loss()
        value.backward()
        gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((value.item(), gradients))
    return found


def test_loss_and_gradients_are_those_of_transformers(model, tokenizer):
    (ours, gradients), (own, expected) = losses(model, tokenizer)
    assert ours == pytest.approx(own, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_labels_are_smoothed_as_by_torch_where_there_is_no_padding_and_what_is_measured_is_not(model, tokenizer):
    objective = Text2Text(model).eval()
    encoded = SidesEncoder(tokenizer, 32).encode(RECORDS)
    batch = objective.collate(list(encoded), False, CPU)
    plain = objective(batch).loss
    objective.smoothing = 0.3
    assert torch.equal(objective(batch).loss, plain)  # in evaluation mode
    given = DataCollatorForSeq2Seq(tokenizer, model)(theirs(tokenizer))
    labels = given["labels"].flatten()
    assert IGNORED in labels
    logits = model(**given).logits.flatten(0, 1)
    mean = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(objective.train()(batch).loss / sum(encoded.units), mean)


def test_in_bf16_they_are_the_same_to_rounding(model, tokenizer):
    exact = losses(model, tokenizer)[1][0]
    (ours, gradients), (own, expected) = losses(model.to(torch.bfloat16), tokenizer)
    assert ours == pytest.approx(own, rel=2e-2)
    assert abs(ours - exact) <= abs(own - exact) + 1e-3  # it is summed in fp32
    whole, reference = (torch.cat([g.flatten() for g in each.values()]) for each in (gradients, expected))
    assert (whole - reference).norm() < 5e-2 * reference.norm()


def test_every_target_token_weighs_the_same_however_the_records_are_cut(model, tokenizer):
    encoded = SidesEncoder(tokenizer, 32).encode(RECORDS)
    own, count = 0.0, 0
    for each in theirs(tokenizer):
        labels = torch.tensor([each["labels"]])
        with torch.no_grad():
            own += model(input_ids=torch.tensor([each["input_ids"]]), labels=labels).loss.item() * labels.numel()
        count += labels.numel()
    for cut in (Cut(False, 1), Cut(False, 1000), Cut(False, 9, records=3)):
        totals = evaluate(Text2Text(model), encoded, cut, CPU, lambda _: None)
        assert totals.mean(totals.loss) == pytest.approx(own / count, rel=1e-5)


@pytest.mark.parametrize(("tokens", "least"), [(512, 0.97), (1024, 0.94)])
def test_hardly_anything_is_padding_however_long_sources_and_targets_are(tokens, least):
    """Translations, whose target is about as long as its source, and summaries, whose length tells nothing of it."""
    chance = random.Random(0)
    sources = [min(512, max(8, round(chance.lognormvariate(4.4, 0.75)))) for _ in range(2000)]
    for targets in (
        [max(4, round(source * chance.lognormvariate(0, 0.2))) for source in sources],
        [min(128, max(4, round(chance.lognormvariate(3.2, 0.5)))) for _ in sources],
    ):
        lengths = [source + target for source, target in zip(sources, targets, strict=True)]
        used = padded = 0
        for step in plan_batches(lengths, 16, 1, None, 0, bucketed=True):
            parts = Cut(False, tokens).micro_batches(step, lengths, targets)
            assert sorted(index for part in parts for index in part) == sorted(step)
            for part in parts:
                taken = len(part) * (max(sources[i] for i in part) + max(targets[i] for i in part))
                assert taken <= tokens or len(part) == 1
                used, padded = used + sum(lengths[i] for i in part), padded + taken
        assert used / padded >= least


def test_an_example_to_see_memory_with_has_both_sides(model):
    objective = Text2Text(model)
    for tokens in (1, 2, 17):
        assert torch.isfinite(objective(objective.collate([objective.stand_in(tokens)], False, CPU)).loss)


FIELD = "spec.data.train[0].template"


def test_a_template_over_fields_writes_source_and_target():
    given = Given(FIELD, "{{ to }}: {{ text }}{% generation %}{{ said }}{% endgeneration %}")
    fields = {"to": "German", "text": "red", "said": "rot"}
    written = SidesEncoder(tiny.tokenizer(), 32, given)
    paired = SidesEncoder(tiny.tokenizer(), 32)
    (one,) = written.encode([Record("line 1", fields=fields)])
    (other,) = paired.encode([Record("line 1", prompt="German: red", completion="rot")])
    assert (one.ids, one.learned) == (other.ids, other.learned)
    assert written.prompt(Record("line 1", fields=fields)) == paired.prompt(
        Record("line 1", prompt="German: red", completion="rot")
    )


def test_a_template_whose_mark_is_not_the_end_has_no_target():
    given = Given(FIELD, "{% generation %}{{ said }}{% endgeneration %} is German")
    with pytest.raises(TrainerError, match="must mark one part as learned, and that at its end") as caught:
        SidesEncoder(tiny.tokenizer(), 32, given).encode([Record("line 1", fields={"said": "rot"})])
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
