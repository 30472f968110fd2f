"""Charts: what their axes and lines show."""

import re

import pytest

from pipeline.report.plots import Line, Points, chart, intervals


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.011, 0.3, 2.5], {"0.1", "1"}),
        ([52, 760], {"100", "500"}),
        ([0.13, 0.21], {"0.2"}),
        ([1e-5, 1], {"0.001", "1"}),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(values, shown):
    found = texts(chart("", [Points(values, values)], x="weight", y="mIoU", log_x=True))
    assert shown <= set(found)
    assert not [text for text in found if "$" in text]
    assert len(found) < 30


@pytest.mark.parametrize(("xs", "is_there"), [([0, 1, 2, 3], False), ([0, 0.5, 3], True)])
def test_numbers_of_trials_are_whole(xs, is_there):
    assert ("0.5" in texts(chart("", [Points(xs, [10, 20, 30, 40][: len(xs)])], x="trial", y="mIoU"))) == is_there


@pytest.mark.parametrize(("xs", "marks"), [([1.0], 1), ([1.0, 2.0], 0)])
def test_a_line_of_one_point_is_seen_and_names_stay_as_they_are(xs, marks):
    svg = chart("", [Line(xs, xs, "a$b$")], x="step", y="loss")
    assert "a$b$" in texts(svg)
    ticks = len(texts(svg)) - 3  # names of the line and of both axes
    assert svg.count("<use") == ticks + 2 * marks  # in the chart and in the legend


@pytest.mark.parametrize(("others", "is_seen"), [([], False), ([(-0.6, 1.1)], True)])
def test_all_intervals_of_a_value_are_seen(others, is_seen):
    found = texts(intervals("", [("camvid", 0.2, [(0.1, 0.3), *others])], x="points"))
    ticks = [float(text.replace("\N{MINUS SIGN}", "-")) for text in found if re.fullmatch(r"\W?[\d.]+", text)]
    assert (min(ticks) <= -0.5 and max(ticks) >= 1.0) == is_seen
