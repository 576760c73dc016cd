"""Records of any fields, written by a template of the job's: what is learned, and what is refused."""

import re
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_api.run import ExitCode
from finetune_api.spec import DataSource
from finetune_api.templates import NAMED
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation import template_guard
from finetune_trainer.preparation.chat import ChatTemplate
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.fields import FieldsTemplate
from finetune_trainer.preparation.given import Given, declared_format, template_for
from finetune_trainer.preparation.record import Record
from tests import tiny

FIELD = "spec.data.train[0].template"
QA = "Question: {{ question }}\nAnswer:{% generation %} {{ answer }}{% endgeneration %}"
ASKED = {"question": "what is red?", "answer": "a colour"}


def template(text: str) -> FieldsTemplate:
    return FieldsTemplate(Given(FIELD, text), {"bos_token": "<s>", "eos_token": "</s>"})


def learned(text: str, **fields: object) -> tuple[str, list[str]]:
    """The text, and the parts of it that are learned."""
    whole, spans = template(text).render(Record("line 1", fields=fields))
    return whole, [whole[start:end] for start, end in spans]


@pytest.mark.parametrize(
    "text",
    [
        QA,
        "{{ bos_token }}{% for t in turns %}{{ t.q }}\n{% generation %}{{ t.a }}{{ eos_token }}{% endgeneration %}\n"
        "{% endfor %}",
        "  {% if question == 'x' %}\nno\n{% else %}\n{% generation %}\n{{ answer | upper }}\n{% endgeneration %}\n"
        "{% endif %}",
        "{{ turns | tojson }}{%- generation -%} {{ answer }} {%- endgeneration -%} {{ question }}",
        NAMED["alpaca"].text.replace("output", "answer").replace("instruction", "question"),
        NAMED["question-answer"].text,
    ],
)
def test_text_and_learned_parts_are_those_that_transformers_finds(text):
    fields = ASKED | {"turns": [{"q": "é <b>", "a": "1\n"}, {"q": "", "a": "2"}], "context": "", "input": ""}
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    texts, spans = render_jinja_template(
        [[]], chat_template=text, return_assistant_tokens_mask=True, **special, **fields
    )
    assert template(text).render(Record("line 1", fields=fields)) == (texts[0], spans[0])


def test_named_templates_write_what_is_there():
    assert learned(NAMED["alpaca"].text, instruction="add", input="1 2", output="3") == (
        "### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:\n3",
        ["3"],
    )
    assert (
        learned(NAMED["alpaca"].text, instruction="add", output="3")[0] == "### Instruction:\nadd\n\n### Response:\n3"
    )
    assert learned(NAMED["question-answer"].text, **ASKED)[1] == [" a colour"]


def test_all_fields_are_there_by_their_names_and_together():
    assert (
        learned(
            "{% generation %}{{ record['my field'] }}{{ range }}{% endgeneration %}", **{"my field": 1, "range": 2}
        )[0]
        == "12"
    )


@pytest.mark.parametrize(
    ("text", "fields", "code", "said"),
    [
        (QA, {"question": "x"}, 11, "uses what the record does not have ('answer' is undefined); there are the fields"),
        (QA.replace("answer", "answer.text"), {**ASKED, "answer": {}}, 11, "has no attribute 'text'"),
        (QA, {**ASKED, "answer": ""}, 11, "marks nothing of it as learned"),
        ("{% if 0 %}{% generation %}x{% endgeneration %}{% endif %}", ASKED, 11, "marks nothing of it as learned"),
        (QA + "{{ question + 1 }}", ASKED, 11, "fails on it: TypeError"),
        (QA + "{{ 1 / 0 }}", ASKED, 11, "fails on it: ZeroDivisionError"),
        (QA + "{{ raise_exception('too old') }}", ASKED, 11, "refuses it: too old"),
        (QA, {**ASKED, "answer": "\ufdd0"}, 11, "holds U+FDD0"),
        (
            "{% for i in [1] %}{% generation %}a{% break %}{% endgeneration %}{% endfor %}",
            ASKED,
            11,
            "is left by break",
        ),
        (QA + "{{ question.__class__ }}", ASKED, 10, "does what no template may: access to attribute '__class__'"),
        (QA + "{{ ''.__class__.__mro__[1].__subclasses__() }}", ASKED, 10, "does what no template may"),
        (QA + "{{ 'a' * 10 ** 10 }}", ASKED, 10, "makes a text or list of 1e+10 characters"),
        (QA + "{{ question | nothing }}", ASKED, 10, "is no valid Jinja (line 2: No filter named 'nothing'"),
        (QA + "{% if %}", ASKED, 10, "is no valid Jinja (line 2:"),
        (QA + "{% include 'x' %}", ASKED, 10, "is made of several files"),
        ("Question: {{ question }}", ASKED, 10, "does not say what the model shall learn"),
        (QA + "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", ASKED, 10, "is nested too deeply"),
    ],
)
def test_what_cannot_be_written_names_the_line_the_field_and_the_mend(text, fields, code, said):
    with pytest.raises(TrainerError) as caught:  # noqa: PT012 - what is wrong is found at one of three moments
        assert Given(FIELD, text).kind == "fields"
        template(text).render(Record("s3://b/x.jsonl line 7", fields=fields))
    message = caught.value.message
    assert caught.value.code == code, message
    assert said in message
    assert FIELD in message or "U+FDD0" in message
    assert ("s3://b/x.jsonl line 7" in message) == (code == ExitCode.DATA_INVALID)
    assert message.endswith(".")


def test_a_template_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(template_guard, "SECONDS", 0.5)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    begun = time.monotonic()
    with pytest.raises(TrainerError, match=rf"{re.escape(FIELD)} takes more than"):
        template(QA + loop).render(Record("line 1", fields=ASKED))
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("text", "whole", "said"),
    [
        ("say {{ a }}:{% generation %} {{ b }}{% endgeneration %}", "say 1: yes<|im_end|>", " yes<|im_end|>"),
        ("{% generation %}{{ b }}{% endgeneration %} {{ a }}", "yes 1<|im_end|>", "yes"),
        ("{{ a }}{% generation %}{{ b }}{{ eos_token }}{% endgeneration %}", "1yes<|im_end|>", "yes<|im_end|>"),
    ],
)
def test_the_end_of_a_text_is_learned_where_the_marks_reach_it(text, whole, said):
    given = Given(FIELD, text)
    tokenizer = tiny.tokenizer()
    (example,) = Encoder(tokenizer, 64, given).encode([Record("line 1", fields={"a": 1, "b": "yes"})])
    marked = [token for token, learned in zip(example.ids, example.learned, strict=True) if learned]
    if not text.startswith("{% generation"):  # nothing predicts the very first token
        assert tokenizer.decode(marked) == said
    assert tokenizer.decode(example.ids) == whole
    assert example.learned[-1] == said.endswith("<|im_end|>")


SOURCE = DataSource(uri="s3://b/x.jsonl")


JOB = "spec.data.template"


@pytest.mark.parametrize(
    ("text", "field", "source", "formats", "expected"),
    [
        (QA, FIELD, {}, "messages fields", "fields"),
        (QA, FIELD, {"format": "auto"}, "messages fields", "fields"),
        (QA, JOB, {"format": "messages"}, "messages fields", "messages"),
        (QA, JOB, {"uri": "s3://b/x.txt"}, "text fields", None),
        ("chatml", FIELD, {}, "messages", None),
        ("alpaca", JOB, {}, "messages fields", "fields"),
    ],
)
def test_the_kind_of_a_template_tells_the_format_of_a_file(text, field, source, formats, expected):
    assert declared_format(SOURCE.model_copy(update=source), Given(field, text), formats.split()) == expected


@pytest.mark.parametrize(
    ("text", "source", "formats", "said"),
    [
        (QA, {"format": "messages"}, "messages fields", "the format is given as messages"),
        (QA, {}, "messages", "this task and objective take messages"),
        ("chatml", {"format": "fields"}, "messages fields", "is a chat template (it uses messages)"),
        ("chatml", {"format": "text"}, "messages text", "is a chat template (it uses messages)"),
    ],
)
def test_a_template_that_does_not_go_with_its_file_is_refused(text, source, formats, said):
    with pytest.raises(TrainerError, match=re.escape(said)) as caught:
        declared_format(SOURCE.model_copy(update=source), Given(FIELD, text), formats.split())
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert FIELD in caught.value.message


def test_fields_without_a_template_are_refused():
    with pytest.raises(TrainerError, match="no template says what to make of them"):
        declared_format(SOURCE.model_copy(update={"format": "fields"}), None, ["fields"])


def test_a_chat_template_for_all_files_leaves_text_alone_and_one_for_a_file_of_text_is_refused():
    assert template_for(SOURCE, "text", Given("spec.data.template", "chatml")) is None
    with pytest.raises(TrainerError, match="is a chat template"):
        template_for(SOURCE, "text", Given(FIELD, "chatml"))


def test_labels_are_written_by_no_chat_template():
    with pytest.raises(
        TrainerError, match=r"is a chat template \(it uses messages\), but s3://b/x.jsonl holds text-label"
    ):
        template_for(SOURCE, "text-label", Given(FIELD, "chatml"))


def test_a_chat_template_of_the_jobs_is_bounded_as_a_models_and_named_by_its_field():
    text = "{% for m in messages %}{{ m.content }}{% endfor %}{{ 'a' * 10 ** 10 }}"
    chat = ChatTemplate(tiny.tokenizer(), Given(FIELD, text))
    with pytest.raises(TrainerError, match=re.escape(f"{FIELD} makes a text or list of 1e+10 characters")) as caught:
        chat.conversation(Record("line 1", messages=tuple(tiny.CHATS[0]["messages"])))
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
