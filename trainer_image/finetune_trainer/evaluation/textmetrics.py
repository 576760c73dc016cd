"""Measures of answers beside the answers that the records hold, by sacrebleu and rouge-score."""

import re
from collections.abc import Callable, Sequence

_LETTERS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
"""Words, and each character of writing that has no spaces between words."""

Texts = Sequence[str]


def score(names: Sequence[str], answers: Texts, references: Texts) -> dict[str, float]:
    """The metrics of these ``names``, of answers [N] and references [N]; spaces around them do not count.

    ``bleu`` and ``chrf`` go from 0 to 100, as in papers, and are made of counts over all texts. ``rouge1``, ``rouge2``
    and ``rougeL`` are the mean F-measures of the texts, and ``exact_match`` the share that is equal, from 0 to 1.
    """
    said, expected = ([text.strip() for text in texts] for texts in (answers, references))
    found = {name: _OTHERS[name](said, expected) for name in names if name in _OTHERS}
    rouge = [name for name in names if name in _ROUGE]
    found |= _rouge(rouge, said, expected) if rouge else {}
    return {name: found[name] for name in names}


def _bleu(answers: Texts, references: Texts) -> float:
    import sacrebleu

    return float(sacrebleu.corpus_bleu(answers, [references]).score)


def _chrf(answers: Texts, references: Texts) -> float:
    import sacrebleu

    return float(sacrebleu.corpus_chrf(answers, [references]).score)


def _exact_match(answers: Texts, references: Texts) -> float:
    return sum(map(str.__eq__, answers, references)) / len(references)


class _Words:
    """As rouge-score takes a text apart, for all writing: its own tokenizer drops everything but a to z and digits."""

    def tokenize(self, text: str) -> list[str]:
        return _LETTERS.findall(text.lower())


def _rouge(names: Sequence[str], answers: Texts, references: Texts) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    scorer = RougeScorer(list(names), tokenizer=_Words())
    scores = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return {name: sum(each[name].fmeasure for each in scores) / len(scores) for name in names}


_ROUGE = ("rouge1", "rouge2", "rougeL")
_OTHERS: dict[str, Callable[[Texts, Texts], float]] = {"bleu": _bleu, "chrf": _chrf, "exact_match": _exact_match}
NAMES = (*_OTHERS, *_ROUGE)
"""Of ``evaluation.metrics``, those that need answers."""
