"""The interval over seeds, and the table that shows it."""

import pytest
from scipy.stats import ttest_rel

from pipeline.reproducing.summary import format_summary, mean_interval


def test_the_interval_of_paired_gains_is_that_of_a_paired_t_test():
    contrast, baseline = [0.561, 0.570, 0.549, 0.566, 0.559], [0.550, 0.552, 0.551, 0.549, 0.540]
    found = mean_interval([one - other for one, other in zip(contrast, baseline, strict=True)])
    expected = ttest_rel(contrast, baseline).confidence_interval(0.95)
    assert found == pytest.approx({"mean": 0.0126, "low": expected.low, "high": expected.high})
    assert found["low"] < found["mean"] < found["high"]


def test_one_seed_has_no_interval():
    assert mean_interval([0.01]) is None


@pytest.mark.parametrize("over_seeds", [None, {"mean": 0.012, "low": -0.001, "high": 0.025}])
def test_the_table_has_both_intervals(over_seeds):
    method = {"miou": [0.5, 0.52], "images": 80}
    found = {
        "contrast": method,
        "baseline": method,
        "difference": {"mean": 0.012, "low": 0.01, "high": 0.014},
        "over_seeds": over_seeds,
    }
    table = format_summary({"camvid": found}, [])
    assert "+1.2 (+1.0 to +1.4)" in table
    assert ("over seeds" in table) == ("+1.2 (-0.1 to +2.5)" in table) == (over_seeds is not None)
    assert max(map(len, table.splitlines())) <= 80


def test_a_narrow_interval_has_digits_enough_to_be_one():
    method = {"miou": [0.5, 0.52], "images": 80}
    difference = {"mean": -0.0004, "low": -0.0006, "high": -0.0002}
    found = {"contrast": method, "baseline": method, "difference": difference, "over_seeds": None}
    table = format_summary({"camvid": found}, [])
    assert "-0.04 (-0.06 to -0.02)" in table
    assert max(map(len, table.splitlines())) <= 80
