"""The short way to an assistant's turns tells what the long way does, which renders the conversation for each turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.chat import ChatTemplate
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.texts import MESSAGE_LIMIT
from tests import tiny
from tests.chat_templates import CHATML, PARTED, REASONING, STYLES, TRIMMING

SHARED = {style: ChatTemplate(tiny.tokenizer(chat_template=template)) for style, template in STYLES.items()}
"""Used by all examples, so that most meet a wording that another conversation has taught."""

contents = st.sampled_from(
    ["yes", "yes", "a b\nc", " lead", "trail \n", "\n\n", "", "<think>\nhm\n</think>\n\nso", "no</think>", "<|im_end|>"]
) | st.text(max_size=5)
calls = st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": contents})}), min_size=1, max_size=2)


def messages(roles: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    plain = st.fixed_dictionaries({"role": roles, "content": contents})
    return st.one_of(
        plain, plain, plain, st.fixed_dictionaries({"role": roles, "content": contents, "tool_calls": calls})
    )


turns = st.tuples(messages(st.just("user")), messages(st.just("assistant")))
orderly = st.lists(turns, min_size=1, max_size=6).map(lambda pairs: [message for pair in pairs for message in pair])
led = st.tuples(messages(st.just("system")), orderly).map(lambda parts: [parts[0], *parts[1]])
wild = st.lists(
    messages(st.sampled_from(["system", "user", "assistant", "assistant", "tool"])), min_size=1, max_size=12
)
records = st.builds(
    lambda given, learn_from, tools: Record("line 1", messages=tuple(given), learn_from=learn_from, tools=tools),
    st.one_of(orderly, led, wild),
    st.sampled_from([0, 0, 0, 1, 3]),
    st.sampled_from([(), (), ({"type": "function", "function": {"name": "f"}},)]),
)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "marked"])
@settings(deadline=None)
@given(record=records)
def test_both_ways_lead_to_the_same_turns(style, record):
    template = SHARED[style]
    try:
        text = template._render(record.messages, record.tools)[0]
        long_way = template._turns(record, text)
    except Exception:  # this style cannot write the conversation, or does not show its turns
        return
    assert template.conversation(record) == (text, long_way)
    assert ChatTemplate(tiny.tokenizer(chat_template=STYLES[style])).conversation(record) == (text, long_way)


def agent(steps: int, said: str = "") -> tuple[dict, ...]:
    """A question, ``steps`` calls of tools with their results, and an answer."""
    loop = (
        message
        for n in range(steps)
        for message in (
            {"role": "assistant", "content": said, "tool_calls": [{"function": {"name": "look", "arguments": n}}]},
            {"role": "tool", "content": f"result {n}"},
        )
    )
    return ({"role": "user", "content": "what is it?"}, *loop, {"role": "assistant", "content": "that"})


def talk(pairs: int, answer: str = "yes") -> tuple[dict, ...]:
    asked = {"role": "user", "content": "what is it?"}
    return (asked, {"role": "assistant", "content": answer}) * pairs


def count_messages(template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Messages of each render from now on."""
    counted: list[int] = []
    render = template._render

    def counting(messages, tools, prompt=False):
        counted.append(len(messages))
        return render(messages, tools, prompt)

    monkeypatch.setattr(template, "_render", counting)
    return counted


def test_a_conversation_of_known_roles_is_rendered_once(monkeypatch):
    template = ChatTemplate(tiny.tokenizer(chat_template=CHATML))
    template.conversation(Record("line 1", messages=talk(3, "yes")))
    counted = count_messages(template, monkeypatch)
    template.conversation(Record("line 2", messages=talk(3, " no\n")))
    assert counted == [6]


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (CHATML, talk(500)),
        (CHATML, agent(500)),
        (TRIMMING, talk(500, " yes\n")),
        (REASONING, agent(500)),
        (REASONING, agent(500, "let us see")),
        (REASONING, talk(500, "<think>\nhm\n</think>\n\nyes")),
    ],
    ids=["talk", "agent", "trimmed", "reasoning agent", "talking agent", "thoughts"],
)
def test_the_work_for_a_long_conversation_grows_with_its_length_alone(monkeypatch, template, messages):
    made = ChatTemplate(tiny.tokenizer(chat_template=template))
    counted = count_messages(made, monkeypatch)
    _, spans = made.conversation(Record("line 1", messages=messages))
    assert len(spans) == sum(message["role"] == "assistant" for message in messages)
    assert sum(counted) <= 12 * len(messages)


def test_a_template_that_would_take_hours_for_a_long_conversation_is_refused_in_seconds():
    record = Record("data.jsonl line 3", messages=agent(MESSAGE_LIMIT // 2 - 1, "so"))
    with pytest.raises(TrainerError, match=r"data.jsonl line 3: .* Split the conversation") as caught:
        ChatTemplate(tiny.tokenizer(chat_template=PARTED)).conversation(record)
    assert caught.value.code is ExitCode.DATA_INVALID


def test_no_content_is_taken_for_a_stand_in():
    template = ChatTemplate(tiny.tokenizer(chat_template=CHATML))
    words = ("said-4c1d80b6e7-1;", "said-4c1d80b6e7", "said-4c1d80b6e70")
    roles = ("user", "assistant", "user", "assistant", "assistant", "user")
    record = Record("line 1", messages=tuple({"role": r, "content": w} for r, w in zip(roles, words * 2, strict=True)))
    text, spans = template.conversation(record)
    assert [text[start:end] for start, end in spans] == [
        f"{record.messages[index]['content']}<|im_end|>\n" for index in (1, 3, 4)
    ]
    assert template._turns(record, text) == spans
