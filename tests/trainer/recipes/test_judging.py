"""The heads: their losses and gradients against transformers' Trainer, and what a model is given."""

import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, Trainer, TrainingArguments

from finetune_api.run import ExitCode
from finetune_api.spec import Method
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.models.adapter import put_on, save_adapter
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.model import load_model, load_tokenizer, require_length
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles
from finetune_trainer.models.tasks import with_labels
from finetune_trainer.preparation.formats import FORMATS
from finetune_trainer.preparation.labels import in_order
from finetune_trainer.preparation.pieces import PIECE
from finetune_trainer.preparation.sets import Part, Sets
from finetune_trainer.preparation.shown import show
from finetune_trainer.recipes import question_answering, text_classification, token_classification
from finetune_trainer.training.batches import Cut
from tests import encoders, tiny

CPU = torch.device("cpu")
RECIPES = {
    "text-label": text_classification.TextClassificationRecipe,
    "text-labels": text_classification.TextClassificationRecipe,
    "token-tags": token_classification.TokenClassificationRecipe,
    "question-answer": question_answering.QuestionAnsweringRecipe,
}
RECORDS = {
    "text-label": encoders.texts(12),
    "text-labels": encoders.many_labels(12),
    "token-tags": encoders.sentences(12),
    "question-answer": encoders.questions(12),
}


class Made:
    """A recipe that has met a base, its examples and its objective."""

    def __init__(self, directory, format_, records, max_length=64, adapter=None, precision="fp32"):
        read = [FORMATS[format_].read(record, f"line {number}") for number, record in enumerate(records)]
        labels = in_order({name for record in read for name in record.named})
        data = SimpleNamespace(labels=labels, formats={format_}, train=read, validation=read)
        config = SimpleNamespace(task="text-classification", training=SimpleNamespace(max_length=max_length))
        self.recipe = RECIPES[format_](config, data)
        self.files = ModelFiles(directory, "the-base")
        self.tokenizer = load_tokenizer(self.files)
        self.recipe.meet(self.files, self.tokenizer)
        self.examples = self.recipe.encode(None, read, "validation")
        torch.manual_seed(0)
        self.model = load_model(self.files, self.recipe.head, adapter is not None, precision)
        self.model.eval()
        trained = put_on(self.model, adapter, self.recipe.head, self.files) if adapter else self.model
        self.objective = self.recipe.objective(trained).eval()

    def loss(self, *numbers):
        """Summed over the examples of these numbers, or all; with its gradients."""
        examples = [self.examples[number] for number in numbers or range(len(self.examples))]
        loss = self.objective(self.objective.collate(examples, False, CPU)).loss
        self.model.zero_grad()
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}

    def measured(self, tokens=100_000):
        return self.recipe.metrics(evaluate(self.objective, self.examples, Cut(False, tokens), CPU, lambda _: None))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return encoders.save(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A decoder whose tokenizer has no token for padding."""
    return tiny.save_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tiny.save_reader_and_writer(tmp_path_factory.mktemp("t5") / "model")


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return tiny.save_reader_and_writer(tmp_path_factory.mktemp("bart") / "model", "bart")


def inputs_of(format_, records, tokenizer, model):
    """The same batch as transformers' users make it."""
    number = model.config.label2id
    if format_.startswith("text"):
        inputs = tokenizer([record["text"] for record in records], padding=True, return_tensors="pt")
        if format_ == "text-label":
            return inputs | {"labels": torch.tensor([number[record["label"]] for record in records])}
        return inputs | {"labels": torch.tensor([[float(name in r["labels"]) for name in number] for r in records])}
    if format_ == "token-tags":
        inputs = tokenizer([r["tokens"] for r in records], is_split_into_words=True, padding=True, return_tensors="pt")
        labels = torch.full(inputs["input_ids"].shape, -100)
        for row, record in enumerate(records):
            words = inputs.word_ids(row)
            for place, word in enumerate(words):
                if word is not None and word != words[place - 1]:
                    labels[row, place] = number[record["tags"][word]]
        return dict(inputs) | {"labels": labels}
    asked, texts = [record["question"] for record in records], [record["context"] for record in records]
    inputs = tokenizer(asked, texts, padding=True, return_tensors="pt")
    first = [r["answers"]["answer_start"][0] for r in records]
    last = [at + len(r["answers"]["text"][0]) - 1 for at, r in zip(first, records, strict=True)]
    places = [[inputs.char_to_token(row, at, 1) for row, at in enumerate(some)] for some in (first, last)]
    return inputs | {"start_positions": torch.tensor(places[0]), "end_positions": torch.tensor(places[1])}


@pytest.mark.parametrize("format_", RECIPES)
def test_loss_and_gradients_are_those_of_transformers_trainer(bert, tmp_path, format_):
    records = RECORDS[format_]
    if format_ == "question-answer":  # transformers takes padding for a part of the text
        records = [record for record in records if len(record["context"].split()) == 5]
    made = Made(bert, format_, records)
    loss, gradients = made.loss()
    units = sum(made.examples.units)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    inputs = inputs_of(format_, records, AutoTokenizer.from_pretrained(bert), made.model)
    made.model.zero_grad()
    theirs = Trainer(model=made.model, args=arguments).compute_loss(made.model, dict(inputs))
    theirs.backward()
    assert loss / units == pytest.approx(theirs.item(), rel=1e-5)
    for name, parameter in made.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name] / units, parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        (format_, kind)
        for format_ in RECIPES
        for kind in ("bert", "llama", "t5", "bart")
        if (format_, kind) not in (("question-answer", "llama"), ("token-tags", "bart"))
    ],
)
def test_padding_changes_nothing(request, kind, format_):
    """A decoder's head looks at the last token, and its tokenizer here has none for padding."""
    made = Made(request.getfixturevalue(kind), format_, RECORDS[format_])
    assert len(set(made.examples.lengths)) > 2
    together, gradients = made.loss()
    alone = [made.loss(number) for number in range(len(made.examples))]
    assert together == pytest.approx(sum(loss for loss, _ in alone), rel=1e-4)
    for name, gradient in gradients.items():
        summed = sum(other[name] for _, other in alone if name in other)
        torch.testing.assert_close(gradient, summed, rtol=1e-2, atol=1e-4)
    whole, cut = made.measured(), made.measured(tokens=20)
    assert cut == pytest.approx(whole, rel=1e-4)
    for tokens in (1, 17):
        example = made.objective.stand_in(tokens)
        assert torch.isfinite(made.objective(made.objective.collate([example], False, CPU)).loss)


END = "<|im_end|>"


@pytest.mark.parametrize(
    ("odd", "ends"), [({"text_pair": "red", "label": "b"}, 2), ({"text": f"a {END} b", "label": "b"}, 2)]
)
def test_a_text_that_ends_more_often_than_others_is_refused_where_the_head_goes_by_that(t5, odd, ends):
    """transformers' class takes them alone, and fails where a batch has both."""
    records = [*RECORDS["text-label"], {"text": "a", "label": "a"} | odd]
    with pytest.raises(TrainerError, match=rf"line 12: it has {ends} end-of-text token\(s\), and the first record 1,"):
        Made(t5, "text-label", records)
    Made(t5, "text-label", [{"text": "a", "text_pair": "b", "label": str(number)} for number in range(3)]).loss()


def test_a_tokenizer_that_ends_no_text_is_refused_where_the_head_goes_by_that(t5, tmp_path):
    directory = shutil.copytree(t5, tmp_path / "t5")
    tiny.tokenizer(chat_template=None).save_pretrained(directory)
    with pytest.raises(TrainerError, match="tokenizer puts no end-of-text token") as refusal:
        Made(directory, "text-label", RECORDS["text-label"])
    assert refusal.value.code == ExitCode.MODEL_INVALID


def test_two_texts_are_told_apart_by_their_types(bert):
    pairs = [{"text": "anna sees", "text_pair": "the old house", "label": "a"}, {"text": "rome", "label": "b"}]
    made = Made(bert, "text-label", pairs)
    batch = made.objective.collate([made.examples[0], made.examples[1]], False, CPU).arguments
    theirs = made.tokenizer(["anna sees", "rome"], ["the old house", ""], return_tensors="pt", padding=True)
    assert batch["input_ids"][0].tolist() == theirs["input_ids"][0].tolist()
    assert batch["token_type_ids"].tolist() == [theirs["token_type_ids"][0].tolist(), [0] * 8]
    assert batch["attention_mask"].tolist()[1] == [1] * 3 + [0] * 5


def test_a_long_text_is_cut_and_keeps_its_special_tokens(bert):
    made = Made(bert, "text-label", [{"text": "old " * 99, "label": "a"}, {"text": "new", "label": "b"}], max_length=16)
    ids = list(made.examples[0].ids)
    assert (len(ids), ids[0], ids[-1]) == (16, made.tokenizer.cls_token_id, made.tokenizer.sep_token_id)
    assert made.examples.cut == 1


def test_a_text_whose_end_is_not_even_tokenized_is_cut(bert):
    """As tokens far longer than usual have it: what was tokenized of the text is shorter than maxLength."""
    records = [{"text": f"old {'x' * PIECE}", "label": "a"}, {"text": "new", "label": "b"}]
    made = Made(bert, "text-label", records, max_length=64)
    assert len(made.examples[0].ids) < 64
    assert made.examples.cut == 1


def test_a_word_is_learned_at_its_first_token_and_words_beyond_the_length_are_not(bert):
    records = [{"tokens": ["annabert", "sees", "rome"], "tags": ["B-PER", "O", "B-LOC"]}]
    whole, cut = Made(bert, "token-tags", records), Made(bert, "token-tags", records, max_length=9)
    tokens = whole.tokenizer.convert_ids_to_tokens(list(whole.examples[0].ids))
    learned = [token for token, mark in zip(tokens, whole.examples[0].learned, strict=True) if mark]
    assert learned == ["anna", "sees", "rome"]
    assert whole.examples.units[0] == 3
    assert cut.examples.units[0] == 3 - (len(tokens) > 9)
    assert (whole.examples.cut, cut.examples.cut) == (0, len(tokens) > 9)


def test_words_have_the_space_before_them_that_they_have_in_a_text(tmp_path):
    """A byte-level tokenizer takes the first word of a text for another token than the same word within it."""
    directory = tiny.save_model(tmp_path / "llama")
    made = Made(directory, "token-tags", [{"tokens": ["hello", "world"], "tags": ["X", "Y"]}])
    assert made.tokenizer.decode(list(made.examples[0].ids)) == " hello world"


def test_the_windows_of_a_long_text_overlap_and_one_of_them_has_the_answer(bert):
    filler = "old new house tree " * 20
    context = f"{filler}anna {filler}"
    start = context.index("anna")
    record = {"question": "who is it?", "context": context, "answers": {"text": ["anna"], "answer_start": [start]}}
    made = Made(bert, "question-answer", [record], max_length=40)
    windows = [made.examples[number] for number in range(len(made.examples))]
    assert len(windows) > 4
    assert made.examples.cut == 0
    seen = []
    for window in windows:
        skipped = 1 + window.extra[0]
        _, first, last, text, *offsets = window.extra[skipped:]
        seen.append((offsets[0], offsets[-1]))
        word = made.tokenizer.decode(list(window.ids)[first : last + 1])
        inside = offsets[0] <= start and start + 4 <= offsets[-1]
        assert (word, first >= text) == (("anna", True) if inside else ("[CLS]", False))
    assert (seen[0][0], seen[-1][1]) == (0, len(context) - 1)
    assert all(after[0] < before[1] for before, after in pairwise(seen))
    assert sum(begin <= start and start + 4 <= end for begin, end in seen) >= 1


def test_of_all_windows_the_best_span_is_the_answer_and_nothing_is_said_only_if_that_was_learned(bert):
    context = "anna sees rome"
    known = {"question": "who?", "context": context, "answers": {"text": ["anna"], "answer_start": [0]}}
    unknown = {"question": "when?", "context": context, "answers": {"text": [], "answer_start": []}}
    spans = [
        question_answering.Span(0, 3.0, 9.0, 5, 9),
        question_answering.Span(0, 5.0, 9.0, 0, 4),
        question_answering.Span(1, 1.0, 8.0, 0, 4),
    ]
    totals = SimpleNamespace(predictions=dict(enumerate(spans)), loss=3.0, mean=lambda total: total / 3)
    assert Made(bert, "question-answer", [known, known]).recipe.metrics(totals)["exact_match"] == 1
    assert Made(bert, "question-answer", [known, unknown]).recipe.metrics(totals)["exact_match"] == 0.5


def test_a_head_is_trained_in_fp32_and_whole_beside_a_frozen_body_in_bf16(bert):
    made = Made(bert, "text-label", RECORDS["text-label"], adapter=adapter_of(Method()), precision="bf16")
    trained = {n: p for n, p in made.objective.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert any("classifier" in name for name in trained)
    assert any("pooler.modules_to_save" in name for name in trained)
    assert not any("classifier" in name or "pooler" in name for name in trained if "lora" in name)
    loss, _ = made.loss()
    assert loss == pytest.approx(Made(bert, "text-label", RECORDS["text-label"]).loss()[0], rel=0.05)


def test_a_head_that_fits_is_kept_and_one_that_does_not_is_refused(tmp_path):
    names = {0: "place", 1: "person", 2: "firm", 3: "other"}
    base = encoders.save(
        tmp_path / "own", "BertForSequenceClassification", id2label=names, label2id={v: k for k, v in names.items()}
    )
    made = Made(base, "text-label", RECORDS["text-label"])
    assert [made.model.config.id2label[number] for number in range(4)] == list(names.values())
    kept = dict(load_model(made.files, made.recipe.head, False, "fp32").named_parameters())["classifier.weight"]
    assert torch.equal(kept, dict(made.model.named_parameters())["classifier.weight"])
    with pytest.raises(TrainerError, match="the labels boat, but the-base has a head already, whose labels are") as e:
        Made(base, "text-label", [*RECORDS["text-label"], {"text": "x", "label": "boat"}])
    assert e.value.code == ExitCode.DATA_INVALID
    described = base / "config.json"
    kind = {"problem_type": "multi_label_classification"}
    described.write_text(json.dumps(json.loads(described.read_text()) | kind))
    with pytest.raises(TrainerError, match="has a head for multi label classification"):
        Made(base, "text-label", RECORDS["text-label"])


@pytest.mark.parametrize(
    ("names", "problem", "said"),
    [
        (["boat"], None, "The data have the labels boat, but {} has a head already, whose labels are firm, place. {}"),
        (
            ["firm"],
            "multi_label_classification",
            "These data are multi label classification, but {} has a head for single label classification. {}",
        ),
    ],
)
def test_a_head_that_an_adapter_brings_and_that_does_not_fit_is_refused_by_the_adapters_name(
    bert, tmp_path, names, problem, said
):
    labels = {0: "firm", 1: "place"}
    described = encoders.config(id2label=labels, problem_type="single_label_classification")
    described.save_pretrained(tmp_path)
    adapter = AdapterFiles(tmp_path, "s3://team-a/out/a/", "sha256:0", "a", 1.0, {})
    whose = "the adapter of FineTuneJob a (s3://team-a/out/a/)", "Start from what FineTuneJob a started from, or "
    head, files = text_classification.TextClassificationRecipe.head, ModelFiles(bert, "the-base", adapters=(adapter,))
    with pytest.raises(TrainerError) as refusal:
        with_labels(head, names, problem, files)
    assert said.format(*whose) in refusal.value.message
    assert "the-base" not in refusal.value.message


def test_outputs_without_names_are_labels_by_their_numbers(tmp_path):
    base = encoders.save(tmp_path / "unnamed", "BertForSequenceClassification", num_labels=3)
    numbered = [{"text": "red", "label": 2}, {"text": "blue", "label": 0}]
    assert Made(base, "text-label", numbered).model.config.id2label == {0: "0", 1: "1", 2: "2"}
    with pytest.raises(TrainerError, match="write the numbers of its outputs"):
        Made(base, "text-label", [{"text": "red", "label": "r"}, {"text": "blue", "label": "b"}])


def test_the_head_of_another_task_makes_way_for_a_new_one(tmp_path):
    base = encoders.save(tmp_path / "tagger", "BertForTokenClassification", num_labels=3)
    made = Made(base, "text-label", RECORDS["text-label"])
    before = load_file(base / "model.safetensors")
    assert made.model.classifier.weight.shape == before["classifier.weight"].shape
    assert not torch.equal(made.model.classifier.weight, before["classifier.weight"])
    assert torch.equal(
        made.model.bert.embeddings.word_embeddings.weight, before["bert.embeddings.word_embeddings.weight"]
    )


def test_equal_seeds_draw_equal_heads(bert):
    one, other = (Made(bert, "text-label", RECORDS["text-label"]).model.classifier.weight for _ in range(2))
    assert torch.equal(one, other)


def test_an_architecture_without_such_a_head_is_refused_before_it_is_loaded(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(TrainerError, match=r"spec.task is .*, but the-base is a mamba, of which there is no") as error:
        Made(tmp_path, "text-label", RECORDS["text-label"])
    assert error.value.code == ExitCode.MODEL_INVALID


def test_a_body_that_transformers_looks_for_under_other_names_is_refused_as_what_it_is(llama):
    """LlamaForQuestionAnswering is the only Llama whose body is called transformer."""
    with pytest.raises(TrainerError, match=r"keeps its body under other names .* Start from an encoder") as error:
        Made(llama, "question-answer", RECORDS["question-answer"])
    assert error.value.code == ExitCode.MODEL_INVALID


@pytest.mark.parametrize("format_", ["text-label", "token-tags"])
def test_labels_are_smoothed_as_by_torch_and_what_is_measured_is_not(bert, format_):
    records = RECORDS[format_]
    made = Made(bert, format_, records)
    inputs = inputs_of(format_, records, made.tokenizer, made.model)
    labels = inputs.pop("labels")
    logits = made.model(**inputs).logits.flatten(0, -2)
    whole = made.objective.collate([made.examples[number] for number in range(len(records))], False, CPU)
    plain = made.objective(whole).loss
    made.objective.smoothing = 0.2
    assert torch.equal(made.objective(whole).loss, plain)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten(), label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(made.objective.train()(whole).loss, expected)


def shown(made):
    encoded = Sets([Part("set", made.examples)])
    return show(encoded, made.tokenizer, made.recipe.encoder.parts, made.recipe.labels_of)


def told(example):
    """What an example in a report says of labels, in the shape of a record."""
    spans = [(run["text"], run["label"]) for run in example["text"] if "label" in run]
    return example.get("labels", spans)


def told_by(record):
    """The same of the record itself."""
    if "tags" in record:
        return list(zip(record["tokens"], record["tags"], strict=True))
    if "answers" in record:
        return [(text, "answer") for text in record["answers"]["text"]] or ["no answer"]
    return [record["label"]] if "label" in record else sorted(record["labels"])


UNANSWERED = {"question": "when is it?", "context": "anna sees rome", "answers": {"text": [], "answer_start": []}}


@pytest.mark.parametrize("format_", RECIPES)
def test_examples_are_shown_with_what_the_data_say_of_them(bert, format_):
    records = RECORDS[format_][:2] + ([UNANSWERED] if format_ == "question-answer" else RECORDS[format_][4:5])
    found = [example.to_dict() for example in shown(Made(bert, format_, records))]
    assert [told(example) for example in found] == list(map(told_by, records))
    assert len({str(told(example)) for example in found}) > 1
    given = "context" if format_ == "question-answer" else "text"
    for example, record in zip(found, records, strict=True):
        text = " ".join(run["text"] for run in example["text"])
        assert record.get(given, " ".join(record.get("tokens", ()))) in text


@pytest.mark.parametrize(
    ("format_", "record", "said"),
    [
        ("text-label", {"text": "red house", "label": "b"}, "4 tokens, labelled b: [CLS] red house [SEP]"),
        ("text-labels", {"text": "red house", "labels": []}, "4 tokens, without a label: [CLS] red house [SEP]"),
        ("text-labels", {"text": "red", "labels": ["b", "a"]}, "3 tokens, labelled a, b: [CLS] red [SEP]"),
        (
            "token-tags",
            {"tokens": ["anna", "is", "in"], "tags": ["B-PER", "O", "O"]},
            "5 tokens, 3 learned: [CLS]⟦anna → B-PER⟧⟦is → O⟧⟦in → O⟧[SEP]",
        ),
        (
            "question-answer",
            {"question": "who", "context": "the old house", "answers": {"text": ["old house"], "answer_start": [4]}},
            "7 tokens: [CLS] who [SEP] the⟦old house → answer⟧[SEP]",
        ),
    ],
)
def test_the_log_tells_labels_beside_the_text(bert, format_, record, said):
    assert str(shown(Made(bert, format_, [record, RECORDS[format_][0]]))[0]) == f"set: {said}"


def test_a_window_of_a_long_text_says_where_it_has_no_answer(bert):
    context = f"{'old new house tree ' * 30}anna"
    record = {"question": "who?", "context": context, "answers": {"text": ["anna"], "answer_start": [len(context) - 4]}}
    made = Made(bert, "question-answer", [record], max_length=40)
    assert [told(example.to_dict()) for example in shown(made)] == [["no answer"]] * 3
    assert made.recipe.labels_of(made.examples[len(made.examples) - 1]).of_all is None


def test_positions_that_begin_behind_the_padding_are_fewer(tmp_path):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50, max_position_embeddings=34, **sizes))
    require_length(model, 32, "the-base")
    with pytest.raises(TrainerError, match="has 32 positions"):
        require_length(model, 33, "the-base")


@pytest.mark.parametrize(
    ("format_", "records", "said"),
    [
        ("text-label", [{"text": "a", "label": "x"}] * 3, "All records have the label 'x'"),
        ("text-labels", [{"text": "a", "labels": []}] * 3, "No record has a label"),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused(bert, format_, records, said):
    with pytest.raises(TrainerError, match=said):
        Made(bert, format_, records)


ADAPTERS = [
    {"adapter": "lora", "lora": {"dora": True}},
    {"adapter": "lora", "lora": {"initialization": "pissa"}},
    {"adapter": "ia3"},
]


@pytest.mark.parametrize("format_", ["text-label", "token-tags"])
@pytest.mark.parametrize("method", ADAPTERS, ids=str)
def test_a_head_is_published_with_every_kind_of_adapter(bert, tmp_path, format_, method):
    """After a step of training, what plain PEFT loads has the same loss."""
    adapter = adapter_of(Method.model_validate(method))
    made = Made(bert, format_, RECORDS[format_], adapter=adapter)
    trained = [parameter for parameter in made.objective.model.parameters() if parameter.requires_grad]
    before, _ = made.loss()
    batch = made.objective.collate([made.examples[number] for number in range(len(made.examples))], False, CPU)
    made.objective(batch).loss.backward()
    torch.optim.SGD(trained, lr=0.01).step()
    after, _ = made.loss()
    assert after != pytest.approx(before, rel=1e-3)
    save_adapter(made.objective.model, adapter, tmp_path)
    made.model.config.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    base = made.recipe.head.auto_class.from_pretrained(bert, config=config)
    loaded = made.recipe.objective(PeftModel.from_pretrained(base, tmp_path)).eval()
    with torch.no_grad():
        assert float(loaded(batch).loss) == pytest.approx(after, rel=1e-4)


def test_numbers_are_labels_in_the_order_of_their_values_and_letters_count_in_both_cases(bert):
    records = [{"text": "anna sees", "label": label} for label in (10, "2", 0)]
    assert Made(bert, "text-label", records).model.config.id2label == {0: "0", 1: "2", 2: "10"}
    records = [{"text": "anna sees", "label": label} for label in ("yes", "Yes")]
    assert Made(bert, "text-label", records).model.config.id2label == {0: "Yes", 1: "yes"}
