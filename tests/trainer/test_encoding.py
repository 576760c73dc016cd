"""Which tokens are learned, compared token by token with the text they stand for."""

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.encoder import Encoder
from finetune_trainer.errors import TrainerError
from finetune_trainer.records import Record
from tests import tiny

SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "say 1"}
FIRST = {"role": "assistant", "content": "one it is"}
AGAIN = {"role": "user", "content": "say 2"}
SECOND = {"role": "assistant", "content": " two it is"}

MARKED = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
THINKING = (  # as some reasoning models': earlier turns lose what the last one has
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDED = (  # writes the end token only behind the last message
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
BACKWARDS = "{% for m in messages | reverse %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}hi"


def encoder(template: str | None = tiny.CHAT_TEMPLATE, max_length: int = 256) -> Encoder:
    return Encoder(tiny.tokenizer(chat_template=template), max_length)


def pieces(example, learned: int) -> str:
    """The text of the tokens that are (1) or are not (0) learned."""
    ids = [token for token, mark in zip(example.ids, example.learned, strict=True) if mark == learned]
    return tiny.tokenizer().decode(ids)


def chat(*messages, learn_from: int = 0) -> Record:
    return Record("s3://team-a/chat.jsonl line 7", messages=messages, learn_from=learn_from)


@pytest.mark.parametrize(
    ("template", "messages", "learned"),
    [
        (tiny.CHAT_TEMPLATE, (USER, FIRST), "one it is<|im_end|>\n"),
        (tiny.CHAT_TEMPLATE, (SYSTEM, USER, FIRST, AGAIN, SECOND), "one it is<|im_end|>\n two it is<|im_end|>\n"),
        (tiny.CHAT_TEMPLATE, (USER, FIRST, AGAIN), "one it is<|im_end|>\n"),
        (tiny.CHAT_TEMPLATE, (FIRST, USER, SECOND), "one it is<|im_end|>\n two it is<|im_end|>\n"),
        (MARKED, (SYSTEM, USER, FIRST, AGAIN, SECOND), "one it is<|im_end|> two it is<|im_end|>"),
        (
            THINKING,
            (USER, FIRST, AGAIN, SECOND),
            "one it is<|im_end|>\n<think>\n\n</think>\n\ntwo it is<|im_end|>\n",
        ),
        (ENDED, (USER, FIRST, AGAIN, SECOND), "one it is<|im_end|>\n two it is<|im_end|>\n<|im_end|>"),
    ],
)
def test_every_assistant_turn_is_learned_and_nothing_else(template, messages, learned):
    (example,) = encoder(template).encode([chat(*messages)], "training")
    assert pieces(example, 1) == learned
    whole = tiny.tokenizer().decode(list(example.ids))
    assert len(pieces(example, 0)) + len(learned) == len(whole)
    for message in messages:
        assert message["content"].strip() in whole


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, MARKED])
def test_of_a_conversational_prompt_and_completion_only_the_completion_is_learned(template):
    record = chat(USER, FIRST, AGAIN, SECOND, learn_from=3)
    (example,) = encoder(template).encode([record], "training")
    assert pieces(example, 1).startswith(" two it is<|im_end|>")
    assert "one it is" in pieces(example, 0)


def test_a_prompt_and_its_completion_are_joined_as_they_are():
    record = Record("line 1", prompt="say 1", completion=" one it is")
    (example,) = encoder().encode([record], "training")
    assert tiny.tokenizer().decode(list(example.ids)) == "say 1 one it is<|im_end|>"
    assert (pieces(example, 0), pieces(example, 1)) == ("say 1", " one it is<|im_end|>")


def test_a_token_across_the_border_of_prompt_and_completion_is_learned():
    """The tokenizer joins the space with the word; the completion would otherwise lose its beginning."""
    tokenizer = tiny.tokenizer(text=("hello world " * 50,))
    assert tokenizer.tokenize("hello world")[-1] == "Ġworld"
    record = Record("line 1", prompt="hello ", completion="world")
    (example,) = Encoder(tokenizer, 32).encode([record], "training")
    learned = [token for token, mark in zip(example.ids, example.learned, strict=True) if mark]
    assert tokenizer.decode(learned) == " world<|im_end|>"


def test_of_a_text_all_is_learned_but_the_first_token_which_nothing_predicts():
    (example,) = encoder().encode([Record("line 1", text="hello world é 🦊")], "training")
    assert tiny.tokenizer().decode(list(example.ids)) == "hello world é 🦊<|im_end|>"
    assert list(example.learned) == [0] + [1] * (len(example.ids) - 1)


def test_a_long_text_is_cut_into_blocks_and_loses_nothing():
    text = "the quick brown fox " * 40
    encoded = encoder(max_length=32).encode([Record("line 1", text=text)], "training")
    assert len(encoded) > 3
    assert all(len(example.ids) <= 32 for example in encoded)
    assert "".join(tiny.tokenizer().decode(list(e.ids)) for e in encoded) == f"{text}<|im_end|>"


def test_a_long_conversation_is_cut_at_its_end():
    whole = encoder().encode([chat(USER, FIRST, AGAIN, SECOND)], "training")[0]
    cut = encoder(max_length=30).encode([chat(USER, FIRST, AGAIN, SECOND)], "training")[0]
    assert list(cut.ids) == list(whole.ids)[:30]
    assert cut.learned == whole.learned[:30]


def test_records_with_nothing_left_to_learn_are_counted_and_left_out():
    long = Record("line 2", prompt="say " * 50, completion="1")
    encoded = encoder(max_length=16).encode([Record("line 1", prompt="1", completion="2"), long], "training")
    assert (len(encoded), encoded.dropped) == (1, 1)


def test_a_set_with_nothing_left_to_learn_is_refused():
    long = Record("line 2", prompt="say " * 50, completion="1")
    with pytest.raises(TrainerError, match=r"None of the 1 validation records .* Raise spec.training.maxLength"):
        encoder(max_length=16).encode([long], "validation")


def test_conversations_need_a_chat_template():
    with pytest.raises(TrainerError) as caught:
        encoder(template=None).encode([chat(USER, FIRST)], "training")
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert "no chat template" in caught.value.message


def test_a_broken_template_is_the_models_fault_and_not_that_of_the_data():
    with pytest.raises(TrainerError, match="chat template is no valid Jinja") as caught:
        encoder(template="{% for message in messages %}").encode([chat(USER, FIRST)], "training")
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert "chat_template.jinja" in caught.value.message


def test_prompts_with_completions_need_none():
    record = Record("line 1", prompt="a", completion="b")
    assert encoder(template=None).encode([record], "training")


def test_a_template_under_which_turns_cannot_be_found_is_refused_not_guessed():
    with pytest.raises(TrainerError) as caught:
        encoder(BACKWARDS).encode([chat(USER, FIRST)], "training")
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert "{% generation %}" in caught.value.message


def test_what_a_template_says_against_a_conversation_reaches_the_user_with_the_line():
    with pytest.raises(TrainerError) as caught:
        encoder(STRICT).encode([chat(SYSTEM, USER, FIRST)], "training")
    assert caught.value.code is ExitCode.DATA_INVALID
    assert caught.value.message.startswith("s3://team-a/chat.jsonl line 7")
    assert "no system role here" in caught.value.message


def test_a_template_runs_in_a_sandbox():
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(TrainerError, match="unsafe"):
        encoder(escape).encode([chat(USER, FIRST)], "training")


@pytest.mark.parametrize(
    ("record", "given", "reference"),
    [
        (chat(USER, FIRST, AGAIN, SECOND), "say 2<|im_end|>\n<|im_start|>assistant\n", " two it is"),
        (Record("line 1", prompt="say 1 ", completion="one"), "say 1 ", "one"),
        (Record("line 1", prompt="", completion="one"), "<|im_end|>", "one"),
    ],
)
def test_a_sample_gives_what_is_given_in_use(record, given, reference):
    ids, answer = encoder().prompt(record)
    assert tiny.tokenizer().decode(ids).endswith(given)
    assert answer == reference


def test_a_sample_of_a_text_is_its_beginning():
    ids, answer = encoder().prompt(Record("line 1", text="the quick brown fox jumps"))
    assert tiny.tokenizer().decode(ids) + answer == "the quick brown fox jumps"
    assert answer
