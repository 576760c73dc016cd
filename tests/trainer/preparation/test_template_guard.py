"""Templates of strangers: what they may do stays as it is in Jinja, what takes all time or memory is refused."""

import threading
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation import template_guard
from finetune_trainer.preparation.chat import ChatTemplate
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.template_guard import Watch, require_in_proportion
from tests import tiny, tool_templates

CHAT = [
    {"role": "user", "content": "say hi\r\nplease"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nhi"},
]
CALLS = [
    {"role": "user", "content": "how warm is it in Bern?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "123456789", "function": {"name": "warmth", "arguments": {"town": "Bern"}}}],
    },
    {"role": "tool", "content": "21 °C"},
    {"role": "assistant", "content": "It is 21 °C."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "warmth",
            "description": "How warm it is",
            "parameters": {
                "type": "object",
                "properties": {
                    "town": {"type": "string"},
                    "unit": {"enum": ["C", "F"]},
                    "when": {"type": "object", "properties": {"hour": {"type": "integer"}}},
                },
            },
        },
    }
]
TEMPLATES = tool_templates.ALL | {"ChatML": tiny.CHAT_TEMPLATE}
START = "{% set ns = namespace(x='aaaaaaaa', l=[1]) %}"
LARGE = START + "{% for i in range(17) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
"""A text of a million characters, which is still allowed."""


def render(template, messages=CHAT, tools=None, **more):
    """The texts, and the assistant's spans where the template marks them."""
    return render_jinja_template(
        [messages],
        tools=tools,
        chat_template=template,
        return_assistant_tokens_mask="{% generation %}" in template,
        bos_token="<s>",
        eos_token="</s>",
        **more,
    )


def render_plainly(monkeypatch, template, *args, **more):
    """As transformers does by itself. A comment keeps its cache from giving out our template."""
    with monkeypatch.context() as patch:
        patch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
        return render(template + "{# plain #}", *args, **more)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(("messages", "tools"), [(CHAT, None), (CHAT * 20, None), (CALLS, TOOLS), (CHAT[:1], None)])
def test_the_templates_that_people_use_render_as_they_do_without_limits(monkeypatch, name, messages, tools):
    template = TEMPLATES[name]
    assert len(template) < template_guard.LONGEST_TEMPLATE
    for more in ({}, {"add_generation_prompt": True}):
        guarded = render(template, messages, tools, **more)
        assert guarded == render_plainly(monkeypatch, template, messages, tools, **more)
        assert guarded[0][0]


@pytest.mark.parametrize(
    "expression",
    [
        "2 ** 3 ** 2",
        "-2 ** 2",
        "7 % 3 * 2 + 1",
        "2 * 3.5 - 1 / 4 // 2",
        "'ab' * 3 ~ 3 * 'ab'",
        "([1, 2] * 2)|length",
        "'%s: %5.2f%% {}' % ('a', 1.5)",
        "'%(a)s' % {'a': 1}",
        "'%s and %s'|format('x', 'y')",
        "'{}: {:>4} {{}} {a[0]}'.format('x', 1.5, a=[3])",
        "'{{\"name\": \"{}\"}}'.format('x')",
        "'{a}'.format_map({'a': 1})",
        "', '.join(['a', 'b'])",
        "['a', 1, none]|join('-')",
        "[{'a': {'b': 1}}, {'a': {'b': 2}}]|join(',', attribute='a.b')",
        "'aXbX'|replace('X', 'YY')",
        "'aXbX'|replace('X', 'YY', 1)",
        "'a-b-c'.replace('-', '', 1)",
        "'a\\nb'|indent(2, first=true)",
        "'a\\nb'|indent('> ')",
        "{'b': 1, 'a': ['ä', none]}|tojson(indent=2, sort_keys=true)",
        "[{'a': 1}, {'a': 2}]|sum(attribute='a')",
        "2.345|round(1)",
        "2.345|round(1, 'ceil')",
        "2.345|round(precision=1, method='floor')",
        "[1]|sum(start=2)",
        "'aXb'|replace(old='X', new='YY', count=1)",
        "[1, 2]|join(d='+')",
        "'a\\nb'|indent(width=2, first=true, blank=true)",
        "[1, 'ä']|tojson(ensure_ascii=true, separators=(',', ':'))",
        "'%(a)s'|format(a=1)",
        "[1, 2, 3]|batch(linecount=2, fill_with='x')|list",
        "[1, 2, 3]|batch(2, 0)|list",
        "[1, 2, 3]|slice(2)|list",
        "['b', 'a']|sort|map('upper')|map('replace', 'A', 'AA')|list",
        "'a' ~ 1 ~ none ~ " + " ~ ".join("'b'" for _ in range(300)),
        "messages|map(attribute='role')|unique|list",
        "(messages|length) % 2 == 0 and 'a b'.split()[0]|trim|title",
        "cycler('a', 'b').next() ~ joiner(',')() ~ dict(a=1).items()|list",
        "lipsum.__globals__ ~ joiner.__init__",
    ],
)
def test_every_guarded_operation_computes_what_it_does_in_jinja(monkeypatch, expression):
    template = "{{ " + expression + " }}"
    assert render(template) == render_plainly(monkeypatch, template)


AT_ONCE = {
    "'a' * 10 ** 9": "makes a text or list of 1e\\+09 characters",
    "10 ** 9 * 'a'": "makes a text or list",
    "([1] * 10 ** 9)|length": "makes a text or list",
    "10 ** (10 ** 8)": "makes a number of",
    "'%1000000000d' % 1": "formats values to a width that no text needs",
    "'%*d' % (1000000000, 1)": "formats values to a width",
    "'%(a)01000000000d' % {'a': 1}": "formats values to a width",
    "'%.1000000000f' % 1.5": "formats values to a width",
    "'%1000000000d'|format(1)": "formats values to a width",
    "'{:1000000000}'.format(1)": "formats values to a width",
    "'{:{w}}'.format(1, w=1000000000)": "formats values to a width",
    "'{a:>1000000000}'.format_map({'a': 1})": "formats values to a width",
    "'a'.ljust(10 ** 9)|length": "calls ljust, which no chat template needs",
    "'a'['lju' ~ 'st'](10 ** 9)|length": "calls ljust",
    "('a'|attr('zfill'))(10 ** 9)|length": "calls zfill",
    "(5).to_bytes(10 ** 9, 'big')|length": "calls to_bytes",
    "1|round(10 ** 7, 'ceil')": "makes a number of",
    "'a\\nb'|indent(10 ** 9)": "makes a text or list",
    "[1]|tojson(indent=10 ** 9)": "indents JSON by more than eight characters",
    "[1]|batch(10 ** 9, 'x')|list": "makes a text or list",
    "[[1]]|sum(start=[])": "adds up what are no numbers",
    "ns.x|replace('a', ns.x)": "makes a text or list of 1.1e\\+12",
    "ns.x.replace('a', ns.x)": "makes a text or list of 1.1e\\+12",
    "ns.x|join(ns.x)": "makes a text or list of 1.1e\\+12",
    "ns.x.join(ns.x)": "makes a text or list of 1.1e\\+12",
    "('%s' * 1000) % ns.x": "makes a text or list of 1.05e\\+09",
    "('{0}' * 1000).format(ns.x)": "makes a text or list of 1.05e\\+09",
    "ns.x }}{% for i in range(1000) %}{{ ns.x }}{% endfor %}{{ 1": "makes a text or list of 1.05e\\+09",
}


@pytest.mark.parametrize("expression", AT_ONCE)
def test_an_operation_that_makes_something_huge_is_refused_before_it_does(expression):
    begun = time.monotonic()
    with pytest.raises(TrainerError, match=AT_ONCE[expression]) as caught:
        render(LARGE + "{{ " + expression + " }}")
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert time.monotonic() - begun < 5


def test_a_text_that_comes_in_pieces_is_bounded_too():
    with pytest.raises(TrainerError, match=r"makes a text or list of 1\.68e"):
        render(LARGE + "{% generation %}a{% endgeneration %}{% for i in range(1000) %}{{ ns.x }}{% endfor %}")


@pytest.fixture
def hurried(monkeypatch):
    """Less patience than in a run."""
    monkeypatch.setattr(template_guard, "SECONDS", 0.5)
    monkeypatch.setattr(template_guard, "MEMORY", 64 << 20)
    return Watch()


SAID_AGAIN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Python swallows what is raised in a callback of its garbage collector, such as Hypothesis's, of which pytest would
complain; the watch raises again."""


@SAID_AGAIN
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ lipsum(n=10 ** 9) }}",
    ],
)
def test_a_template_without_end_is_ended(hurried, template):
    with pytest.raises(TrainerError, match=r"takes more than 0.5 s to render one conversation") as caught:
        render(template)
    assert caught.value.code is ExitCode.MODEL_INVALID


@SAID_AGAIN
@pytest.mark.parametrize(
    "template",
    [
        START + "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        START + "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        START + "{% for i in range(60) %}{% set ns.x = " + " ~ ".join(["ns.x"] * 1000) + " %}{% endfor %}",
        START + "{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        LARGE + "{% for i in range(100000) %}{% set ns.l = ns.l + [ns.x ~ i] %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}",
        "{% generation %}{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}"
        "{% endgeneration %}",
    ],
)
def test_a_template_that_fills_the_memory_bit_by_bit_is_ended(hurried, monkeypatch, template):
    monkeypatch.setattr(template_guard, "SECONDS", 60.0)
    with pytest.raises(TrainerError, match="takes more than 64 MiB of memory to render one conversation") as caught:
        render(template)
    assert caught.value.code is ExitCode.MODEL_INVALID


@SAID_AGAIN
def test_a_slow_template_is_ended_in_a_thread_of_the_background_too(hurried):
    caught = []

    def work():
        try:
            render("{% for a in range(100000) %}{% for b in range(100000) %}{{ '' }}{% endfor %}{% endfor %}")
        except TrainerError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert [error.code for error in caught] == [ExitCode.MODEL_INVALID]


def test_many_quick_renders_are_none_that_lasts(hurried):
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        render(tiny.CHAT_TEMPLATE)


def test_the_watch_ends_with_its_holder():
    before = set(threading.enumerate())
    watch = Watch()
    (thread,) = (one for one in threading.enumerate() if one.name == "template-watch" and one not in before)
    del watch
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("x" * (50 << 20), "has 52428800 characters, and none needs more than 262144"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "is nested too deeply"),
        ("{{ " + "+".join(["1"] * 30000) + " }}", "is nested too deeply"),
        ("{% for i in [1] %}" * 30 + "x" + "{% endfor %}" * 30, "is nested too deeply"),
        ("{% include 'other' %}", "is made of several files"),
        ("{% import 'os' as os %}{{ os }}", "is made of several files"),
    ],
)
def test_a_template_that_is_no_plain_one_is_refused_when_it_is_compiled(template, said):
    with pytest.raises(TrainerError, match=said) as caught:
        render(template)
    assert caught.value.code is ExitCode.MODEL_INVALID


def test_a_text_far_longer_than_its_conversation_is_refused():
    long = [{"role": "user", "content": "a" * (1 << 20)}]
    require_in_proportion("b" * (2 << 20), long, [])
    require_in_proportion("b" * (1 << 20), CHAT, [])
    with pytest.raises(TrainerError, match="makes 2097152 characters of a conversation that is far shorter"):
        require_in_proportion("b" * (2 << 20), CHAT, [])


@pytest.mark.parametrize(
    ("template", "code", "said"),
    [
        ("{% for a in range(10 ** 9) %}{% endfor %}", ExitCode.MODEL_INVALID, "fails: OverflowError: Range too big"),
        ("{{ ''.__class__.__mro__ }}", ExitCode.MODEL_INVALID, "fails: SecurityError: access to attribute '__class__'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ExitCode.MODEL_INVALID, "fails: RecursionError"),
        ("{{ 1 / 0 }}", ExitCode.MODEL_INVALID, "fails: ZeroDivisionError"),
        ("{{ 'a' * 10 ** 10 }}", ExitCode.MODEL_INVALID, "chat template makes a text or list of 1e+10 characters"),
        ("{% if %}", ExitCode.MODEL_INVALID, "is no valid Jinja (line 1:"),
        ("{{ 'a'|center(10 ** 9) }}", ExitCode.MODEL_INVALID, "No filter named 'center'"),
        ("{{ raise_exception('no system') }}", ExitCode.DATA_INVALID, "refuses the conversation: no system"),
        ("{{ messages[0].nothing.at_all }}", ExitCode.DATA_INVALID, "refuses the conversation"),
    ],
)
def test_a_template_that_fails_is_told_from_a_conversation_that_it_refuses(template, code, said):
    chat = ChatTemplate(tiny.tokenizer(chat_template=template))
    with pytest.raises(TrainerError) as caught:
        chat.conversation(Record("s3://team-a/chat.jsonl line 7", messages=tuple(CHAT)))
    assert (caught.value.code, said in caught.value.message) == (code, True), caught.value.message


def test_a_run_with_a_bad_template_ends_with_a_sentence(s3, trainer, model_directory):
    uri = s3.put_directory("models/bad-template", model_directory)
    s3.put("models/bad-template/chat_template.jinja", b"{{ 'a' * 10 ** 10 }}")
    ended = trainer.run(model={"uri": uri}, data=trainer.data(tiny.json_lines(*tiny.CHATS)))
    assert (ended.code, ended.result.error.reason) == (ExitCode.MODEL_INVALID, "ModelInvalid")
    assert "The model's chat template makes a text or list of 1e+10 characters or items" in ended.message
    assert s3.names(ended.config.output_prefix) == []
