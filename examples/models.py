"""``python -m examples.models``: the small models that the examples tune, in ``examples/models/<kind>``.

Each has a few hundred thousand weights and a tokenizer of its own, both made on the spot from what Python's standard
library says of itself, and was trained on that for some seconds: an adapter beside random weights could learn nothing.
"""

import argparse
import fcntl
import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from examples.quickstart.stdlib_docs import read_standard_library

HERE = Path(__file__).parent / "models"
VOCABULARY = 1024
WIDTH, LAYERS, HEADS = 64, 2, 4
POSITIONS = 256
SEED = 7
STEPS, BATCH, LENGTH = 100, 24, 40
"""Of the pre-training: optimizer steps, texts a step, tokens a text."""
RATE = 4e-3
MASKED = 0.15
"""Share of the tokens that BERT and T5 have to guess."""
SPAN = 3
"""Tokens that T5 has to guess in a row."""

Batches = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One architecture."""

    tokenizer: Callable[[Sequence[str]], Any]
    model: Callable[[Any], Any]
    """From a tokenizer to a model with random weights."""
    batches: Callable[[Any, "random.Random", Any], Batches]
    """What it is pre-trained on: from the tokenizer, chance and the ids of all texts in one row."""


def make(kind: str, directory: Path) -> float:
    """Makes a model and its tokenizer; returns its loss on the last batches of the pre-training (nats a token)."""
    import torch

    torch.set_num_threads(1)  # so small tensors are fastest on one, and all the more so on a busy machine
    texts = prose()
    how = KINDS[kind]
    torch.manual_seed(SEED)
    tokenizer = how.tokenizer(texts)
    model = how.model(tokenizer)
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = torch.tensor([token for text in encoded for token in text.ids])
    loss = _train(model, how.batches(tokenizer, random.Random(SEED), ids))  # noqa: S311 - no secret is made of it
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return loss


def _train(model: Any, batches: Batches) -> float:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    losses = []
    model.train()
    for _, batch in zip(range(STEPS), batches, strict=False):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return sum(losses[-10:]) / 10


@cache
def prose() -> tuple[str, ...]:
    """What the models are trained on."""
    return read_standard_library().prose[:800]


# Tokenizers ---------------------------------------------------------------------------------------------------------

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _byte_pairs(texts: Sequence[str], special: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrapped(tokenizer: Any, **special: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **special)


def _chat_tokenizer(texts: Sequence[str]) -> Any:
    pad, _, end = names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made = _byte_pairs(texts, names)
    return _wrapped(made, eos_token=end, pad_token=pad, chat_template=CHAT)


def _text_tokenizer(texts: Sequence[str]) -> Any:
    end = "<|endoftext|>"
    return _wrapped(_byte_pairs(texts, (end,)), bos_token=end, eos_token=end, pad_token=end)


def _word_pieces(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    unknown, pad, first, last, mask = names = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(names), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [(name, tokenizer.token_to_id(name)) for name in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=numbers
    )
    named = {"unk_token": unknown, "pad_token": pad, "cls_token": first, "sep_token": last, "mask_token": mask}
    return _wrapped(tokenizer, **named, model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def _sentinel_tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import processors

    pad, end, unknown = "<pad>", "</s>", "<unk>"
    sentinels = [f"<extra_id_{number}>" for number in range(16)]
    made = _byte_pairs(texts, (pad, end, unknown, *sentinels))
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.token_to_id(end))]
    )
    return _wrapped(made, pad_token=pad, eos_token=end, unk_token=unknown, extra_special_tokens=sentinels)


# Models -------------------------------------------------------------------------------------------------------------


def _llama(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _gpt2(tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return GPT2LMHeadModel(config)


def _bert(tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


def _t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=3 * WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


# What they are pre-trained on ---------------------------------------------------------------------------------------


def _windows(ids: Any, chance: random.Random, length: int = LENGTH) -> Any:
    """[BATCH, length] tokens, each row from somewhere in the texts."""
    import torch

    starts = [chance.randrange(len(ids) - length) for _ in range(BATCH)]
    return torch.stack([ids[start : start + length] for start in starts])


def _next_tokens(tokenizer: Any, chance: random.Random, ids: Any) -> Batches:
    while True:
        rows = _windows(ids, chance)
        yield {"input_ids": rows, "labels": rows}


def _masked(tokenizer: Any, chance: random.Random, ids: Any) -> Batches:
    import torch

    while True:
        rows = _windows(ids, chance, LENGTH - 2)
        hidden = torch.rand(rows.shape) < MASKED
        edge = torch.full((BATCH, 1), tokenizer.cls_token_id), torch.full((BATCH, 1), tokenizer.sep_token_id)
        none = torch.full((BATCH, 1), -100)
        inputs = torch.cat([edge[0], rows.masked_fill(hidden, tokenizer.mask_token_id), edge[1]], 1)
        yield {"input_ids": inputs, "labels": torch.cat([none, rows.masked_fill(~hidden, -100), none], 1)}


def _spans(tokenizer: Any, chance: random.Random, ids: Any) -> Batches:
    """As T5 was: spans become a sentinel each, and are to be told in their order. All rows have equally many."""
    import torch

    count = round(LENGTH * MASKED / SPAN)
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(count)]
    room = LENGTH // count
    while True:
        inputs, labels = [], []
        for row in _windows(ids, chance).tolist():
            shown, told = [], []
            for number, sentinel in enumerate(sentinels):
                part = row[number * room : (number + 1) * room]
                at = chance.randrange(1, room - SPAN)
                shown += [*part[:at], sentinel, *part[at + SPAN :]]
                told += [sentinel, *part[at : at + SPAN]]
            inputs.append([*shown, tokenizer.eos_token_id])
            labels.append([*told, tokenizer.eos_token_id])
        yield {"input_ids": torch.tensor(inputs), "labels": torch.tensor(labels)}


KINDS = {
    "llama": Kind(_chat_tokenizer, _llama, _next_tokens),
    "gpt2": Kind(_text_tokenizer, _gpt2, _next_tokens),
    "bert": Kind(_word_pieces, _bert, _masked),
    "t5": Kind(_sentinel_tokenizer, _t5, _spans),
}


# The command --------------------------------------------------------------------------------------------------------


def prepare(folder: Path = HERE, tell: Callable[[str], None] = print) -> None:
    """Makes the models that are not there, or that another version of this module made."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder.mkdir(exist_ok=True)
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    with (folder / ".lock").open("w") as lock:  # two that begin at once make each model once
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind in KINDS:
            mark = folder / f".{kind}"
            if mark.exists() and mark.read_text() == made_by:
                continue
            began = time.monotonic()
            shutil.rmtree(folder / kind, ignore_errors=True)
            loss = make(kind, folder / kind)
            mark.write_text(made_by)
            tell(f"{folder / kind}: loss {loss:.2f} after {time.monotonic() - began:.1f} s")


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m examples.models", description=__doc__)
    parser.parse_args()
    prepare()


if __name__ == "__main__":
    main()
