"""The prompt templates that a job may name, in Jinja, as ``data.template: chatml``.

The tokenizer of a base model often has none; data sets often have fields of their own. Each of these is one way that
many models and data sets have in common. They end what the model writes in a way that a server sees: with a token that
the tokenizer must have, or with the tokenizer's own end-of-text token.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedTemplate:
    """A template of ours."""

    summary: str
    """For the reference."""
    text: str
    """Jinja. With the variable ``messages`` it is a chat template, else one over the fields of a record."""
    end: str | None = None
    """The token that ends a turn; None: the tokenizer's own end-of-text token, which it must have."""


_EACH_MESSAGE = (
    "{% if tools %}{{ raise_exception('it has no place for tools') }}{% endif %}"
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.tool_calls %}{{ raise_exception('it has no place for calls of tools') }}{% endif %}"
)

NAMED = {
    "chatml": NamedTemplate(
        "Conversations, as Qwen and many others write them.",
        _EACH_MESSAGE + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        end="<|im_end|>",
    ),
    "llama3": NamedTemplate(
        "Conversations, as Llama 3 writes them.",
        _EACH_MESSAGE + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
        "{{ message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        end="<|eot_id|>",
    ),
    "zephyr": NamedTemplate(
        "Conversations with roles as tags; for any tokenizer.",
        _EACH_MESSAGE + "<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "plain": NamedTemplate(
        "Conversations in words alone; for any tokenizer.",
        _EACH_MESSAGE + "{{ message.role | capitalize }}: {{ message.content }}"
        "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}",
    ),
    "alpaca": NamedTemplate(
        "Records with the fields `instruction`, `output` and, where there is one, `input`.",
        "### Instruction:\n{{ instruction }}\n\n"
        "{% if input is defined and input %}### Input:\n{{ input }}\n\n{% endif %}"
        "### Response:\n{% generation %}{{ output }}{% endgeneration %}",
    ),
    "question-answer": NamedTemplate(
        "Records with the fields `question`, `answer` and, where there is one, `context`.",
        "{% if context is defined and context %}Context: {{ context }}\n\n{% endif %}"
        "Question: {{ question }}\nAnswer:{% generation %} {{ answer }}{% endgeneration %}",
    ),
}
