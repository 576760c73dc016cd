"""Measures of labels, by scikit-learn and seqeval: of texts, of words, of entities.

A measure that is a mean over labels is one over those that occur, as what is right or as what was said; one that
nothing was said of, or that nothing is, has precision, or recall, 0. The libraries are imported when they are needed.
"""

import re
import warnings
from collections.abc import Sequence

_ENTITY = re.compile(r"O|[BIELSU]-.+")
"""A tag of the schemes IOB, IOBES and BILOU."""


def single_label(pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Of (right label, label that was said) each: macro F1, accuracy, macro precision and recall."""
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # type: ignore[import-untyped]

    right, said = zip(*pairs, strict=True)
    precision, recall, f1, _ = precision_recall_fscore_support(right, said, average="macro", zero_division=0)
    return {"f1": f1, "accuracy": accuracy_score(right, said), "precision": precision, "recall": recall}


def several_labels(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, float]:
    """Of (right labels, labels that were said) each: macro F1, micro F1, the share of records with all of them right,
    macro precision and recall. Where there are none and none were said all is right."""
    from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

    columns = sorted({label for pair in pairs for labels in pair for label in labels})
    if not columns:
        return dict.fromkeys(("f1", "micro_f1", "accuracy", "precision", "recall"), 1.0)
    right, said = (
        [[int(column in labels) for column in columns] for labels in side] for side in zip(*pairs, strict=True)
    )
    precision, recall, f1, _ = precision_recall_fscore_support(right, said, average="macro", zero_division=0)
    micro = f1_score(right, said, average="micro", zero_division=0)
    accuracy = accuracy_score(right, said)
    return {"f1": f1, "micro_f1": micro, "accuracy": accuracy, "precision": precision, "recall": recall}


def are_entities(tags: Sequence[str]) -> bool:
    """Whether tags mark the beginnings and insides of entities (IOB, IOBES, BILOU), and are not kinds of words."""
    return all(map(_ENTITY.fullmatch, tags)) and any(tag != "O" for tag in tags)


def entities(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> dict[str, float]:
    """Of (right tags, tags that were said) each: F1, precision and recall of whole entities (micro: each of them counts
    the same), and the share of words whose tag is right."""
    from seqeval.metrics import (  # type: ignore[import-untyped]
        accuracy_score,
        f1_score,
        precision_score,
        recall_score,
    )

    right, said = ([[_as_iobes(tag) for tag in tags] for tags in side] for side in zip(*pairs, strict=True))
    with warnings.catch_warnings(action="ignore"):
        return {
            "f1": float(f1_score(right, said, zero_division=0)),
            "precision": float(precision_score(right, said, zero_division=0)),
            "recall": float(recall_score(right, said, zero_division=0)),
            "accuracy": float(accuracy_score(right, said)),
        }


def _as_iobes(tag: str) -> str:
    return {"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:] if tag[1:2] == "-" else tag
