"""The benchmark of the operator measures what it says, at a hundredth of the size; the figures are another matter."""

import math

import pytest

from benchmarks.operator import SECTIONS, burst, churn, lifecycle, live, pace, reports, restart
from benchmarks.operator.rig import p99


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("FINETUNE_BENCH_SHARE", "0.02")
    monkeypatch.setattr(lifecycle, "_QUIET", 1.0)
    monkeypatch.setattr(live, "_SIZES", ((1000, 1e9, 1e9),))
    monkeypatch.setattr(reports, "_PODS", 10)
    monkeypatch.setattr(reports, "_SECONDS", 2.0)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (lifecycle, {"writes a successful life, Events excluded": (2, 4), "GETs a life": (1, 1)}),
        (restart, {"restart over 100 settled jobs: writes": (0, 0), "restart over 100 settled jobs: calls": (8, 20)}),
    ],
    ids=["lifecycle", "restart"],
)
def test_a_section_measures_a_running_operator(section, told):
    rows = section.rows()
    found = {row.name: row.value for row in rows}
    assert all(math.isfinite(row.value) for row in rows)
    for name, (least, most) in told.items():
        assert least <= found[name] <= most, (name, found[name])


@pytest.mark.long
@pytest.mark.parametrize(
    "section", [burst, pace, live, reports, churn], ids=["burst", "pace", "live", "reports", "churn"]
)
def test_the_other_sections_measure_too(section):
    assert all(math.isfinite(row.value) for row in section.rows())


def test_every_section_has_its_module():
    assert list(SECTIONS) == ["lifecycle", "burst", "pace", "live", "reports", "restart", "churn"]


def test_p99_is_the_value_that_one_of_a_hundred_exceeds():
    assert p99([float(n) for n in range(1, 101)]) == 99
    assert p99([float(n) for n in range(1, 1001)]) == 990
    assert p99([5.0]) == 5
