"""Quantities: read in every spelling, reckoned with exactly, told in the API server's."""

import pytest

from finetune_local.quantities import Quantity


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0", "0"), (0, "0"), ("0Gi", "0"), ("4", "4"), (4, "4"), ("2000m", "2"), ("1500m", "1500m"), ("0.5", "500m"),
        (".5", "500m"), ("1.", "1"), ("+2", "2"), ("-1", "-1"), ("1000", "1k"), ("1500", "1500"), ("0.0001", "100u"),
        ("1e3", "1k"), ("1E3", "1k"), ("2E", "2E"), ("1M", "1M"), ("16Gi", "16Gi"), ("1.5Gi", "1536Mi"),
        ("1024Mi", "1Gi"), ("1000Ki", "1000Ki"), ("0.5Ki", "512"), ("17179869184", "17179869184"), ("3n", "3n"),
        ("0.1n", "1n"), ("1e-99", "1n"), ("99E", "9223372036854775807"), ("1e999", "9223372036854775807"),
    ],
)  # fmt: skip
def test_a_quantity_is_told_as_the_shortest_whole_number_with_a_unit(text: str | int, told: str) -> None:
    assert str(Quantity.of(text)) == told


@pytest.mark.parametrize("text", ["", "lots", "1 Gi", "1gi", "1KI", "Gi", "1e", "1..2", "0x1", "1Gim", "1e9999"])
def test_what_is_no_quantity_is_refused_in_the_api_servers_words(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        Quantity.of(text)


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        ("1", "500m", "1500m"),
        ("8Gi", "8Gi", "16Gi"),
        ("0", "8Gi", "8Gi"),
        ("24Ki", "1024", "25Ki"),
        ("1k", "1Ki", "2024"),
    ],
)
def test_a_sum_is_told_as_the_first_of_both_that_is_something(one: str, other: str, total: str) -> None:
    assert str(Quantity.of(one) + Quantity.of(other)) == total
