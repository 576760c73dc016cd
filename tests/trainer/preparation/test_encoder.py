"""Which tokens are learned, compared token by token with the text they stand for."""

import copy

import pytest
from tokenizers import Regex, pre_tokenizers, processors

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.pieces import PIECE
from finetune_trainer.preparation.record import Record
from tests import tiny
from tests.chat_templates import ENDED, MARKED, THINKING

SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "say 1"}
FIRST = {"role": "assistant", "content": "one it is"}
AGAIN = {"role": "user", "content": "say 2"}
SECOND = {"role": "assistant", "content": " two it is"}

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
    (example,) = encoder(template).encode([chat(*messages)])
    assert pieces(example, 1) == learned
    whole = tiny.tokenizer().decode(list(example.ids))
    assert len(pieces(example, 0)) + len(learned) == len(whole)
    for message in messages:
        assert message["content"].strip() in whole


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, MARKED])
def test_of_a_conversational_prompt_and_completion_only_the_completion_is_learned(template):
    record = chat(USER, FIRST, AGAIN, SECOND, learn_from=3)
    (example,) = encoder(template).encode([record])
    assert pieces(example, 1).startswith(" two it is<|im_end|>")
    assert "one it is" in pieces(example, 0)


def test_a_prompt_and_its_completion_are_joined_as_they_are():
    record = Record("line 1", prompt="say 1", completion=" one it is")
    (example,) = encoder().encode([record])
    assert tiny.tokenizer().decode(list(example.ids)) == "say 1 one it is<|im_end|>"
    assert (pieces(example, 0), pieces(example, 1)) == ("say 1", " one it is<|im_end|>")


def test_a_token_across_the_border_of_prompt_and_completion_is_learned():
    """The tokenizer joins the space with the word; the completion would otherwise lose its beginning."""
    tokenizer = tiny.tokenizer(text=("hello world " * 50,))
    assert tokenizer.tokenize("hello world")[-1] == "Ġworld"
    record = Record("line 1", prompt="hello ", completion="world")
    (example,) = Encoder(tokenizer, 32).encode([record])
    learned = [token for token, mark in zip(example.ids, example.learned, strict=True) if mark]
    assert tokenizer.decode(learned) == " world<|im_end|>"


def test_of_a_text_all_is_learned_but_the_first_token_which_nothing_predicts():
    (example,) = encoder().encode([Record("line 1", text="hello world é 🦊")])
    assert tiny.tokenizer().decode(list(example.ids)) == "hello world é 🦊<|im_end|>"
    assert list(example.learned) == [0] + [1] * (len(example.ids) - 1)


def test_a_long_text_is_cut_into_blocks_and_loses_nothing():
    text = "the quick brown fox " * 40
    encoded = encoder(max_length=32).encode([Record("line 1", text=text)])
    assert len(encoded) > 3
    assert all(len(example.ids) <= 32 for example in encoded)
    assert "".join(tiny.tokenizer().decode(list(e.ids)) for e in encoded) == f"{text}<|im_end|>"


def test_a_long_conversation_is_cut_at_its_end():
    whole = encoder().encode([chat(USER, FIRST, AGAIN, SECOND)])[0]
    cut = encoder(max_length=30).encode([chat(USER, FIRST, AGAIN, SECOND)])[0]
    assert list(cut.ids) == list(whole.ids)[:30]
    assert cut.learned == whole.learned[:30]


def test_records_that_lose_their_end_are_counted_and_text_loses_nothing():
    completion = Record("line 1", prompt="say", completion=" 1 2 3")
    length = len(encoder().encode([completion])[0].ids)
    assert encoder(max_length=length).encode([completion]).cut == 0
    assert encoder(max_length=length - 1).encode([completion, completion]).cut == 2
    assert encoder(max_length=30).encode([chat(USER, FIRST), chat(USER, FIRST, AGAIN, SECOND)]).cut == 1
    assert encoder(max_length=30).encode([Record("line 1", text="the quick brown fox " * 40)]).cut == 0
    far = chat(USER, {"role": "assistant", "content": "one two " * PIECE})
    assert encoder(max_length=50).encode([far]).cut == 1


def test_records_with_nothing_left_to_learn_are_counted_and_left_out():
    long = Record("line 2", prompt="say " * 50, completion="1")
    encoded = encoder(max_length=16).encode([Record("line 1", prompt="1", completion="2"), long])
    assert (len(encoded), encoded.dropped, encoded.cut) == (1, 1, 0)


def test_conversations_need_a_chat_template():
    with pytest.raises(TrainerError) as caught:
        encoder(template=None).encode([chat(USER, FIRST)])
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert "no chat template" in caught.value.message


def test_a_broken_template_is_the_models_fault_and_not_that_of_the_data():
    with pytest.raises(TrainerError, match="chat template is no valid Jinja") as caught:
        encoder(template="{% for message in messages %}").encode([chat(USER, FIRST)])
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert "chat_template.jinja" in caught.value.message


def test_prompts_with_completions_need_none():
    record = Record("line 1", prompt="a", completion="b")
    assert encoder(template=None).encode([record])


def test_a_template_under_which_turns_cannot_be_found_is_refused_not_guessed():
    with pytest.raises(TrainerError) as caught:
        encoder(BACKWARDS).encode([chat(USER, FIRST)])
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert "{% generation %}" in caught.value.message


def test_what_a_template_says_against_a_conversation_reaches_the_user_with_the_line():
    with pytest.raises(TrainerError) as caught:
        encoder(STRICT).encode([chat(SYSTEM, USER, FIRST)])
    assert caught.value.code is ExitCode.DATA_INVALID
    assert caught.value.message.startswith("s3://team-a/chat.jsonl line 7")
    assert "no system role here" in caught.value.message


def test_a_text_of_many_pieces_has_the_tokens_of_the_whole():
    """Longer texts than the tokenizer is given at once; broken at spaces, which it does not reach across."""
    text = "the quick brown fox, jumps over 2 lazy dogs.\nWhat is é? " * 3000
    assert len(text) > 2 * PIECE
    encoded = encoder(max_length=1000).encode([Record("line 1", text=text)])
    ids = [token for example in encoded for token in example.ids]
    end = tiny.tokenizer().eos_token_id
    assert ids == [*tiny.tokenizer()(text)["input_ids"], end]
    assert [example.learned.count(1) for example in encoded] == [len(example.ids) - 1 for example in encoded]


def test_turns_are_learned_in_every_piece_of_a_long_conversation():
    many = (USER, FIRST) * 3000
    (example,) = encoder(max_length=200_000).encode([chat(*many)])
    assert len(tiny.tokenizer().decode(list(example.ids))) > 2 * PIECE
    assert pieces(example, 1) == "one it is<|im_end|>\n" * 3000


def test_of_a_record_far_longer_than_max_length_only_what_can_be_kept_is_tokenized(monkeypatch):
    long = chat(USER, {"role": "assistant", "content": "one two " * 500_000})
    made = encoder(max_length=50)
    given = []
    encode = made._encode
    monkeypatch.setattr(made, "_encode", lambda texts: given.extend(texts) or encode(texts))
    (example,) = made.encode([long])
    assert len(example.ids) == 50
    assert sum(map(len, given)) < 2 * PIECE


def test_the_tokens_that_a_tokenizer_adds_of_its_own_accord_are_there_and_not_learned():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    start, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", start), ("<|im_end|>", end)]
    )
    (example,) = Encoder(tokenizer, 64).encode([Record("line 1", text="hello world")])
    assert list(example.ids) == tokenizer("hello world")["input_ids"]
    assert example.ids[0] == start
    assert list(example.learned) == [0] + [1] * (len(example.ids) - 1)
    (of_template,) = Encoder(tokenizer, 64).encode([chat(USER, FIRST)])
    assert start not in of_template.ids


def test_spaces_are_learned_also_where_the_tokenizer_does_not_count_them_as_characters():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.backend_tokenizer.post_processor = trimming = processors.ByteLevel(trim_offsets=True)
    (example,) = Encoder(tokenizer, 64).encode([Record("line 1", prompt="say", completion="    x =  1")])
    assert pieces(example, 1) == "    x =  1<|im_end|>"
    assert tokenizer.backend_tokenizer.post_processor.__getstate__() == trimming.__getstate__()


def test_a_tokenizer_that_breaks_on_a_record_names_it():
    """The library's panics are no Exception."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    records = [Record("line 1", text="b"), Record("line 2", text="a" * 40 + "b"), Record("line 3", text="b")]
    with pytest.raises(TrainerError, match="line 2: the model's tokenizer breaks on this record") as caught:
        Encoder(tokenizer, 64).encode(records)
    assert caught.value.code is ExitCode.MODEL_INVALID


def test_a_fault_in_the_data_ends_the_work_with_its_own_error():
    def records():
        yield from (Record(f"line {n}", text="hello " * 1000) for n in range(300))
        raise TrainerError(ExitCode.DATA_INVALID, "line 301 is broken")

    with pytest.raises(TrainerError, match="line 301 is broken"):
        encoder().encode(records())


def test_a_template_runs_in_a_sandbox():
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(TrainerError, match="unsafe"):
        encoder(escape).encode([chat(USER, FIRST)])


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


@pytest.mark.parametrize("times", [20, 200_000])
def test_a_sample_of_a_prompt_longer_than_max_length_gives_its_end(times):
    record = Record("line 1", prompt="one two " * times + "three", completion=" four")
    ids, answer = encoder(max_length=16).prompt(record)
    assert len(ids) == 16
    assert tiny.tokenizer().decode(ids).endswith("one two three")
    assert answer == " four"


def test_a_sample_of_a_text_is_its_beginning():
    ids, answer = encoder().prompt(Record("line 1", text="the quick brown fox jumps"))
    assert tiny.tokenizer().decode(ids) + answer == "the quick brown fox jumps"
    assert answer
