"""Makes small models on the spot: a Llama of a few thousand weights and a BPE tokenizer trained on a given text."""

import functools
import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = (
    "The quick brown fox jumps over the lazy dog. What is the capital of France? Paris is the capital of France.",
    "user assistant system hello world yes no red green blue one two three four five six seven eight nine ten",
    "0 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k l m n o p q r s t u v w x y z : = + - ? ! . , ' \" \n",
)

CHATS = tuple(
    {"messages": [{"role": "user", "content": f"say {n % 5}"}, {"role": "assistant", "content": f"{n % 5} it is"}]}
    for n in range(40)
)
PAIRS = tuple({"prompt": f"say {n % 5}", "completion": f" {n % 5} it is"} for n in range(40))
"""Forty small tasks each, as conversations and as prompts with completions."""


@functools.cache
def tokenizer(vocabulary: int = 320, chat_template: str | None = CHAT_TEMPLATE, text: tuple[str, ...] = TEXT) -> Any:
    """A byte-level BPE tokenizer with ``<|im_end|>`` as its end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=chat_template)


def save_model(
    directory: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    hidden: int = 32,
    layers: int = 2,
    vocabulary: int = 320,
    positions: int = 256,
    seed: int = 0,
) -> Path:
    """Writes a Llama with random weights and its tokenizer into ``directory``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,  # with the usual 0.02 a frozen head of this size could hardly prefer any token
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer(vocabulary, chat_template).save_pretrained(directory)
    return directory


def save_reader_and_writer(directory: Path, kind: str = "t5", hidden: int = 32, seed: int = 0) -> Path:
    """Writes a T5 or a BART with random weights into ``directory``, and a tokenizer that ends each text of its own
    accord; BART's begins each, too."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(seed)
    padding, begin, end = SPECIAL_TOKENS
    single, pair = (
        (f"$A {end}", f"$A {end} $B {end}") if kind == "t5" else (f"{begin} $A {end}", f"{begin} $A {end} $B {end}")
    )
    made = tokenizer(chat_template=None).backend_tokenizer.__class__.from_str(
        tokenizer(chat_template=None).backend_tokenizer.to_str()
    )
    made.post_processor = TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (begin, end)]
    )
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token=padding, bos_token=begin, eos_token=end).save_pretrained(
        directory
    )
    if kind == "t5":
        model: Any = T5ForConditionalGeneration(
            T5Config(
                vocab_size=320, d_model=hidden, d_kv=hidden // 2, d_ff=2 * hidden, num_layers=2, num_heads=2,
                dropout_rate=0.0, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
            )
        )  # fmt: skip
    else:
        model = BartForConditionalGeneration(
            BartConfig(
                vocab_size=320, d_model=hidden, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=2 * hidden,
                decoder_ffn_dim=2 * hidden, encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0,
                max_position_embeddings=64, init_std=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=2, forced_eos_token_id=2,
            )
        )  # fmt: skip
    model.save_pretrained(directory)
    return directory


def json_lines(*records: object) -> bytes:
    """Records as JSON Lines."""
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records).encode()
