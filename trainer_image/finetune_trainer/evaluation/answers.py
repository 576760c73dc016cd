"""Measures of answers in words: exact match and F1 by the rules of SQuAD (Rajpurkar et al., EMNLP 2016, section 6.1).

Case, punctuation and the articles a, an, the do not count. Of several right answers the best match counts. Where no
answer is the right one, only no answer matches (Rajpurkar et al., ACL 2018).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def answer_measures(given: Sequence[tuple[Sequence[str], str]]) -> dict[str, float]:
    """Of (right answers, answer that was given) each: means of F1 and of exact match, between 0 and 1."""
    best = [
        (max(f1(one, said) for one in right or [""]), max(exact(one, said) for one in right or [""]))
        for right, said in given
    ]
    return {"f1": sum(each[0] for each in best) / len(best), "exact_match": sum(each[1] for each in best) / len(best)}


def exact(right: str, said: str) -> float:
    """1 where both have the same words in the same order, else 0."""
    return float(words(right) == words(said))


def f1(right: str, said: str) -> float:
    """The harmonic mean of precision and recall of the words of ``said``, as often as they come."""
    one, other = words(right), words(said)
    if not one or not other:
        return float(one == other)
    common = (Counter(one) & Counter(other)).total()
    return 2 * common / (len(one) + len(other))


def words(answer: str) -> list[str]:
    """The words that count."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()
