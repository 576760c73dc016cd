"""Measures of labels, entities and answers, by hand-made cases."""

import pytest

from finetune_trainer.evaluation.answers import answer_measures, exact, f1
from finetune_trainer.evaluation.classified import are_entities, entities, several_labels, single_label


def test_of_one_label_the_means_are_over_those_that_occur():
    """Label 0: precision 2/2, recall 2/3. Label 1: precision 1/2, recall 1. Others occur nowhere and count nowhere."""
    found = single_label([(0, 0), (0, 0), (0, 1), (1, 1)])
    assert found == pytest.approx({"f1": (0.8 + 2 / 3) / 2, "accuracy": 0.75, "precision": 0.75, "recall": 5 / 6})


def test_a_label_that_is_said_and_never_right_counts_as_zero():
    assert single_label([(0, 0), (0, 3)]) == pytest.approx(
        {"f1": (2 / 3 + 0) / 2, "accuracy": 0.5, "precision": 0.5, "recall": 0.25}
    )


def test_of_several_labels_each_is_a_decision():
    found = several_labels([((0, 2), (0,)), ((), ()), ((2,), (2, 0))])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_where_no_label_is_right_and_none_is_said_all_is_right():
    assert set(several_labels([((), ()), ((), ())]).values()) == {1.0}


@pytest.mark.parametrize(
    ("tags", "are"),
    [
        (["B-PER", "I-PER", "O"], True),
        (["B-PER", "L-PER", "U-LOC", "O"], True),
        (["NOUN", "VERB", "X"], False),
        (["O"], False),
    ],
)
def test_entities_are_known_by_their_tags(tags, are):
    assert are_entities(tags) is are


def test_an_entity_is_right_only_as_a_whole():
    right = ["B-PER", "I-PER", "O", "B-LOC"]
    assert entities([(right, ["B-PER", "O", "O", "B-LOC"])]) == pytest.approx(
        {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75}
    )
    assert entities([(["B-PER", "L-PER", "U-LOC"], ["B-PER", "L-PER", "U-LOC"])])["f1"] == 1
    assert entities([(["B-PER", "L-PER", "U-LOC"], ["B-PER", "L-PER", "U-PER"])])["f1"] == 0.5


def test_where_no_entity_is_found_the_measures_are_zero_and_no_fault():
    assert entities([(["B-PER"], ["O"])]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 0}
    assert entities([(["O"], ["O"])])["f1"] == 0


@pytest.mark.parametrize(
    ("right", "said", "same", "score"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1.0),
        ("the Eiffel Tower in Paris", "Eiffel Tower", 0, 2 / 3),
        ("one one two", "one", 0, 0.5),
        ("Rome", "Paris", 0, 0.0),
        ("", "", 1, 1.0),
        ("", "Paris", 0, 0.0),
    ],
)
def test_answers_are_compared_by_the_rules_of_squad(right, said, same, score):
    assert (exact(right, said), f1(right, said)) == (same, pytest.approx(score))


def test_the_best_of_several_right_answers_counts():
    found = answer_measures([(["in Paris", "Paris"], "Paris"), ([], ""), ([], "Rome"), (["Rome"], "")])
    assert found == {"f1": 0.5, "exact_match": 0.5}
