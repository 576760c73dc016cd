"""Asks a published adapter, with nothing but transformers and PEFT.

python examples/quickstart/ask.py build/quickstart/adapter "What does shutil.copy(src, dst) do?"
"""

import sys

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer


def answer(adapter: str, question: str) -> str:
    """The likeliest answer. The adapter's adapter_config.json says where its base lies."""
    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    prompt = tokenizer(f"{question}\n", return_tensors="pt")
    tokens = model.generate(
        input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=40, do_sample=False
    )
    return str(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(answer(sys.argv[1], sys.argv[2]))
