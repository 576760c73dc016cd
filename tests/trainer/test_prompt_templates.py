"""Whole runs by a template of the job's: named or the user's own, for conversations and for fields of any kind."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.run import ExitCode
from finetune_api.templates import NAMED
from finetune_trainer.preparation.chat import ChatTemplate
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.given import Given
from finetune_trainer.preparation.record import Record
from tests import tiny

LEARN = {"maxSteps": 40, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8}
QA = "Q: {{ question }}\nA:{% generation %} {{ answer }}{% endgeneration %}"
FACTS = [{"question": f"say {n % 5}", "answer": f"{n % 5} it is", "source": n} for n in range(40)]
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>bot\n{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}"
)
CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "say 1"},
    {"role": "assistant", "content": "1 it is"},
    {"role": "user", "content": "say 2"},
    {"role": "assistant", "content": "2 it is"},
)
CHATS = [name for name, named in NAMED.items() if "messages" in named.text]


@pytest.fixture
def base_uri(s3, model_directory):
    """A model whose tokenizer has no chat template."""
    uri = s3.put_directory("models/base", model_directory, without=("chat_template.jinja",))
    assert "chat_template.jinja" not in s3.names(uri)
    return uri


@pytest.mark.parametrize("text", [*(NAMED[name].text for name in CHATS), MARKED], ids=[*CHATS, "own"])
def test_tokens_and_mask_are_those_of_transformers(text):
    """Its mask needs marks in the template; ours finds the turns of templates that have none."""
    tokenizer = tiny.tokenizer()
    given = Given("spec.data.template", text)
    (example,) = Encoder(tokenizer, 400, given).encode([Record("line 1", messages=CHAT)])
    whole = tokenizer.apply_chat_template(list(CHAT), chat_template=text, tokenize=True, return_dict=True)
    assert example.ids.tolist() == whole["input_ids"]
    said = "".join(
        tokenizer.decode([token]) for token, marked in zip(example.ids, example.learned, strict=True) if marked
    )
    for answer in ("1 it is", "2 it is"):
        assert answer in said
    for asked in ("say", "brief", "user", "system"):
        assert asked not in said
    assert said.count("<|im_end|>" if "eos_token" in text or "im_end" in text else "<|eot_id|>") == 2
    if text == MARKED:
        marked = tokenizer.apply_chat_template(
            list(CHAT), chat_template=text, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert list(example.learned) == marked["assistant_masks"]


@pytest.mark.parametrize("name", CHATS)
def test_our_templates_refuse_what_they_have_no_place_for(name):
    chat = ChatTemplate(tiny.tokenizer(), Given("spec.data.template", name))
    with pytest.raises(Exception, match="has no place for tools") as caught:
        chat.conversation(Record("line 3", messages=CHAT, tools=({"type": "function"},)))
    assert f"line 3: spec.data.template ({name}) refuses" in str(caught.value)


def test_a_base_without_a_chat_template_learns_conversations_by_a_named_one_and_publishes_it(
    s3, trainer, base_uri, tmp_path
):
    chats = trainer.data(tiny.json_lines(*tiny.CHATS))
    refused = trainer.run(model={"uri": base_uri}, data=chats, training=LEARN)
    assert refused.code == ExitCode.CONFIGURATION_INVALID
    assert "Name one in spec.data.template" in refused.message
    ended = trainer.run(
        model={"uri": base_uri},
        data=chats | {"template": "plain"},
        training=LEARN,
        evaluation={"samples": 2, "maxNewTokens": 12},
    )
    assert ended.code == 0, ended.result.error
    assert ended.metric("token_accuracy")[0] > 0.9 > ended.metric("token_accuracy")[1]
    report = s3.report(ended.location)
    assert all(sample["tuned"].strip() == sample["reference"].strip() for sample in report["samples"])
    tokenizer = AutoTokenizer.from_pretrained(s3.fetch(ended.location, tmp_path / "adapter"))
    asked = tokenizer.apply_chat_template(tiny.CHATS[1]["messages"][:1], tokenize=False, add_generation_prompt=True)
    assert asked == "User: say 1\n\nAssistant:"
    entry = report["sets"][0]
    assert (entry["train"][0]["template"]["name"], entry["train"][0]["template"]["field"]) == (
        "plain",
        "spec.data.template",
    )
    assert len(entry["examples"]) == 3
    first = entry["examples"][0]
    assert "".join(part["text"] for part in first["text"]).startswith("User: say")
    assert next(part["text"] for part in first["text"] if part["learned"]).endswith("it is<|im_end|>\n\n")
    assert 0 < first["learnedTokens"] < first["tokens"]
    assert not any("say" in metric.name for metric in ended.result.metrics)


def test_a_named_template_whose_end_the_tokenizer_does_not_have_is_refused(trainer):
    data = trainer.data(tiny.json_lines(*tiny.CHATS))
    ended = trainer.run(data=data | {"template": "llama3"})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert "spec.data.template llama3 ends a turn with <|eot_id|>, which the tokenizer of" in ended.message


def test_what_is_published_ends_where_the_template_ends_a_turn(s3, trainer, model_directory, tmp_path):
    """A base ends texts with a token of its own; by it alone nothing would stop an answer."""
    base = AutoTokenizer.from_pretrained(model_directory)
    base.eos_token, base.chat_template = "<|endoftext|>", None
    base.save_pretrained(tmp_path / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(model_directory)
    model.config.eos_token_id = model.generation_config.eos_token_id = base.eos_token_id
    model.save_pretrained(tmp_path / "tokenizer")
    ended = trainer.run(
        model={"uri": s3.put_directory("models/other-end", tmp_path / "tokenizer")},
        method={"adapter": "none"},
        data=trainer.data(tiny.json_lines(*tiny.CHATS)) | {"template": "chatml"},
    )
    assert ended.code == 0, ended.result.error
    directory = s3.fetch(ended.location, tmp_path / "published")
    assert AutoTokenizer.from_pretrained(directory).eos_token == "<|im_end|>"
    ends = AutoModelForCausalLM.from_pretrained(directory).generation_config.eos_token_id
    assert ends == base.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])


def test_two_sets_of_other_fields_are_learned_each_by_its_template(s3, trainer):
    """The same facts in two guises; a wrong mask or a wrong template would not let both be answered rightly. What is
    held out has the template of the train set of its name, which is the file's where none is given."""
    facts = s3.put(f"data/{trainer.directory.name}/facts.jsonl", tiny.json_lines(*FACTS))
    tasks = [{"instruction": f"count to {n % 4}", "output": f"up to {n % 4}"} for n in range(40)]
    train = [
        {"uri": facts, "template": QA},
        {"uri": s3.put(f"data/{trainer.directory.name}/tasks.jsonl", tiny.json_lines(*tasks)), "template": "alpaca"},
    ]
    ended = trainer.run(
        data={"train": train, "validation": [{"uri": facts, "name": "facts"}, {"uri": train[1]["uri"]}]},
        training=LEARN | {"maxSteps": 120},
        evaluation={"samples": 4, "maxNewTokens": 12},
    )
    assert ended.code == 0, ended.result.error
    for name in ("facts", "tasks"):
        assert ended.metric(f"{name}/token_accuracy")[0] == 1.0
    report = s3.report(ended.location)
    for sample in report["samples"]:
        assert sample["tuned"].strip() == sample["reference"].strip()
    texts = {entry["name"]: entry["examples"][0]["text"] for entry in report["sets"]}
    assert [(part["text"], part["learned"]) for part in texts["facts"]] == [
        ("Q: say 0\nA:", False),
        (" 0 it is<|im_end|>", True),
    ]
    assert texts["tasks"][0]["text"].startswith("### Instruction:\ncount to 0")


@pytest.mark.parametrize(
    ("template", "records", "code", "said"),
    [
        (QA, [*FACTS, {"question": "x"}], 11, "line 41: spec.data.template uses what the record does not have"),
        ("{{ question }}{{ answer }}", FACTS, 10, "does not say what the model shall learn"),
        ("chatml", [{"text": "so"}] * 9, 10, "spec.data.template (chatml) is used by no file"),
        ("{% for %}", FACTS, 10, "spec.data.template is no valid Jinja (line 1"),
        (
            MARKED.replace("m.content", "m.text"),
            tiny.CHATS,
            10,
            "line 1: between the marks of spec.data.template",
        ),
    ],
)
def test_a_template_that_fails_ends_the_run_with_its_reason(trainer, template, records, code, said):
    data = trainer.data(tiny.json_lines(*records))
    ended = trainer.run(data=data | {"template": template})
    assert ended.code == code, ended.message
    assert said in ended.message
