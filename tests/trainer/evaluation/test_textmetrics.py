"""Measures of answers: by hand, and by what the libraries say of whole texts."""

import math

import pytest

from finetune_api.spec import TextMetric
from finetune_trainer.evaluation.textmetrics import NAMES, score


def test_bleu_is_what_its_definition_gives_by_hand():
    """Of "the cat sat on the mat today" beside "the cat sat on a mat now": of 7 words 5 are right ("the" counts once),
    of 6 pairs 3, of 5 triples 2, of 4 fours 1; both are equally long."""
    found = score(["bleu"], ["the cat sat on the mat today"], ["the cat sat on a mat now"])
    expected = 100 * math.exp(sum(map(math.log, (5 / 7, 3 / 6, 2 / 5, 1 / 4))) / 4)
    assert found == {"bleu": pytest.approx(expected, rel=1e-6)}


def test_a_short_answer_pays_for_what_it_leaves_out():
    found = score(["bleu"], ["the cat sat on"], ["the cat sat on the mat"])
    assert found["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4), rel=1e-6)


def test_chrf_is_the_mean_of_characters_in_a_row():
    """Of "abcd" beside "abce" 3 of 4, 2 of 3, 1 of 2 and 0 of 1 groups are right, both ways, and none is longer."""
    assert score(["chrf"], ["abcd"], ["abce"])["chrf"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4, rel=1e-6)


def test_rouge_is_what_its_definition_gives_by_hand():
    """ "the cat lay there" beside "the cat sat on the mat": 2 words of 4 and of 6, one pair of 3 and of 5, "the cat"
    in a row."""
    found = score(["rouge1", "rouge2", "rougeL"], ["the cat lay there"], ["the cat sat on the mat"])
    assert found == pytest.approx({"rouge1": 2 * 2 / (4 + 6), "rouge2": 2 * 1 / (3 + 5), "rougeL": 2 * 2 / (4 + 6)})


@pytest.mark.parametrize("text", ["Привет, мир", "größer als Ärger", "今天天气很好"])
def test_rouge_knows_all_letters(text):
    assert score(["rouge1"], [text], [text]) == {"rouge1": 1.0}
    assert score(["rouge1"], ["nothing of it"], [text]) == {"rouge1": 0.0}


def test_of_latin_text_rouge_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    said, meant = "He's bought 3 well-known_books, hasn't he?", "He bought three (3) well known books!"
    own = RougeScorer(["rougeL"]).score(meant, said)["rougeL"].fmeasure
    assert score(["rougeL"], [said], [meant])["rougeL"] == pytest.approx(own)


def test_rouge_and_exact_match_are_means_over_texts_in_the_order_that_was_asked_for():
    found = score(["exact_match", "rouge1"], [" yes\n", "no"], ["yes", "yes no"])
    assert list(found.items()) == [("exact_match", 0.5), ("rouge1", pytest.approx((1 + 2 / 3) / 2))]


def test_an_empty_answer_is_worth_nothing():
    assert set(score(NAMES, [""], ["a b c d e"]).values()) == {0.0}


def test_what_the_schema_names_is_what_there_is():
    assert set(TextMetric.__args__) == set(NAMES)
