"""A small BERT on the spot, and data that a right implementation learns and a wrong one cannot."""

import random
from pathlib import Path
from typing import Any

WORDS = ("red", "green", "blue", "small", "large", "old", "new", "house", "tree", "river", "stone", "cloud", "anna",
         "bert", "carla", "paris", "rome", "oslo", "acme", "globex", "sees", "likes", "visits", "and", "then", "in",
         "with", "the", "a", "who", "where", "what", "is", "went", "to", "from")  # fmt: skip
PEOPLE, SURNAMES = ("anna", "bert", "carla"), ("stone", "cloud")
PLACES, FIRMS = ("paris", "rome", "oslo"), ("acme", "globex")
FILLERS = ("sees", "likes", "visits", "and", "then", "in", "with", "the", "a", "old", "new", "house", "tree", "river")


def tokenizer() -> Any:
    """WordPiece over WORDS, with BERT's special tokens and types."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = [f"{prefix}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789.?" for prefix in ("", "##")]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *WORDS, *letters]))}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


def config(**changes: Any) -> Any:
    """Of a BERT of some thousand weights."""
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(
        **{"vocab_size": len(tokenizer()), "max_position_embeddings": 128, "initializer_range": 0.2}
        | sizes
        | dropouts
        | changes
    )


def save(directory: Path, kind: str = "BertForMaskedLM", seed: int = 0, **changes: Any) -> Path:
    """Writes a BERT with random weights, of one of transformers' classes, and its tokenizer into ``directory``."""
    import torch
    import transformers

    torch.manual_seed(seed)
    getattr(transformers, kind)(config(**changes)).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def texts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """What a text is about is told by one word of it."""
    chance = random.Random(seed)
    kinds = {"person": PEOPLE, "place": PLACES, "firm": FIRMS}
    records = []
    for number in range(count):
        label = list(kinds)[number % 3]
        words = chance.choices(FILLERS, k=chance.randint(1, 12))
        words.insert(chance.randrange(len(words) + 1), chance.choice(kinds[label]))
        records.append({"text": " ".join(words), "label": label})
    return records


def many_labels(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Any of three labels, each told by a word; some texts have none."""
    chance = random.Random(seed)
    records = []
    for _ in range(count):
        labels = [name for name in ("red", "green", "blue") if chance.random() < 0.5]
        words = [*chance.choices(FILLERS, k=chance.randint(1, 8)), *labels]
        chance.shuffle(words)
        records.append({"text": " ".join(words), "labels": labels})
    return records


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Persons of one or two words, and places."""
    chance = random.Random(seed)
    records = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(chance.randint(1, 3)):
            for word in chance.choices(FILLERS, k=chance.randint(1, 3)):
                words.append(word)
                tags.append("O")
            if chance.random() < 0.5:
                names = [chance.choice(PEOPLE), chance.choice(SURNAMES)][: chance.randint(1, 2)]
                words += names
                tags += ["B-PER", "I-PER"][: len(names)]
            else:
                words.append(chance.choice(PLACES))
                tags.append("B-LOC")
        records.append({"tokens": words, "tags": tags})
    return records


def questions(count: int, seed: int = 0, filler: int = 6) -> list[dict[str, Any]]:
    """Who, and where, in a text with one person and one place."""
    chance = random.Random(seed)
    records = []
    for number in range(count):
        words = chance.choices(FILLERS, k=chance.randint(2, filler))
        who, where = chance.choice(PEOPLE), chance.choice(PLACES)
        for name in (who, where):
            words.insert(chance.randrange(len(words) + 1), name)
        context = " ".join(words)
        question, answer = ("who is it?", who) if number % 2 else ("where is it?", where)
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        records.append({"question": question, "context": context, "answers": answers})
    return records
