"""Chat templates in the styles of models in use: each has a way of its own to write what is said."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (  # headers, contents without white space around them, the system's part always there
    "<|begin|>"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|header|>system<|end|>\n\nToday is a day.\n\n"
    "{% if tools %}Functions:\n{% for tool in tools %}{{ tool | tojson(indent=2) }}\n{% endfor %}{% endif %}"
    "{{ system }}<|eot|>"
    "{% for m in messages %}"
    "{% if 'tool_calls' in m %}<|header|>assistant<|end|>\n\n{{ m.tool_calls[0] | tojson }}<|eot|>"
    "{% elif m.role == 'tool' %}<|header|>ipython<|end|>\n\n{{ m.content | tojson }}<|eot|>"
    "{% else %}{{ '<|header|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|end|>\n\n{% endif %}"
)
REASONING = (  # keeps the reasoning of the answers behind the last question only
    "{% set seen = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set seen.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set content = m.content %}{% set thought = '' %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > seen.last and (loop.last or thought) %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ content.lstrip('\n') }}{% else %}{{ content }}{% endif %}"
    "{% for call in m.tool_calls %}{% if not loop.first or content %}\n{% endif %}"
    "<tool_call>\n{{ call | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (  # no generation prompt; the system's part goes into the last question
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"
    "<s>{% for m in turns %}{% if m['role'] == 'user' %}"
    "{% if loop.last and system is defined %}[INST] {{ system + '\n\n' + m['content'] }}[/INST]"
    "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
RENAMING = (  # the assistant has another name, the system's part leads the first question
    "<bos>{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set lead = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<start_of_turn>{{ role }}\n{{ lead if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
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
PARTED = (  # writes contents twice, empty ones not at all, and in capitals what a tool says
    "{% for m in messages %}{% if m['content'] %}({{ m['role'] }}) "
    "{% if m.role == 'tool' %}{{ m['content'] | upper }}{% else %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'user' %} / {{ m['content'] | trim }}{% endif %};\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}(assistant) {% endif %}"
)

STYLES = {
    "chatml": CHATML,
    "trimming": TRIMMING,
    "reasoning": REASONING,
    "instruct": INSTRUCT,
    "renaming": RENAMING,
    "marked": MARKED,
    "thinking": THINKING,
    "ended": ENDED,
    "parted": PARTED,
}
