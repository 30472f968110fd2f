"""What the page says of figures: its verdict, and which classes it shows first."""

from pipeline.report.folder import Dataset, Run
from pipeline.report.scores import class_table, verdict
from pipeline.report.text import percent, signed, spread


def test_the_verdict_says_no_more_than_the_interval():
    def say(mean, low, high, seeds=None):
        over_seeds = None if seeds is None else {"mean": mean, "low": seeds[0], "high": seeds[1]}
        return verdict({"mean": mean, "low": low, "high": high}, [mean], ["baseline", "contrast"], over_seeds)

    assert say(0.012, 0.003, 0.021) == "Contrast gained 1.2 points of mIoU (95 % interval +0.3 to +2.1 by images)."
    assert say(-0.012, -0.021, -0.003).startswith("Contrast lost 1.2 points")
    assert say(0.012, -0.001, 0.02).startswith("No difference shown: +1.2 points")
    assert say(0.012, 0.0, 0.02).startswith("No difference shown")
    assert say(0.0004, 0.0002, 0.0006).startswith("Contrast gained 0.04 points of mIoU (95 % interval +0.02 to +0.06")
    assert say(0.012, 0.003, 0.021, (0.001, 0.023)) == (
        "Contrast gained 1.2 points of mIoU (95 % interval +0.3 to +2.1 by images, +0.1 to +2.3 by seeds)."
    )
    by_both = say(0.012, 0.003, 0.021, (-0.001, 0.025))
    assert by_both.startswith("No difference shown: +1.2 points")
    assert by_both.endswith("\N{MINUS SIGN}0.1 to +2.5 by seeds; 0 lies in that by seeds).")
    assert "no finished run of contrast" in verdict(None, [], ["baseline"])


def test_of_many_classes_those_that_changed_most_come_first(tmp_path):
    def run(method, values):
        result = {"per_class_iou": {f"class {i}": value for i, value in enumerate(values)}}
        return Run(tmp_path, method, 0, "done", result, {})

    before, after = [0.5] * 40, [0.5 + 0.01 * i for i in range(39)] + [None]
    dataset = Dataset("many", (run("baseline", before), run("contrast", after)))
    table = class_table(dataset, {})
    assert [row.name for row in table.shown[:2]] == ["class 38", "class 37"]
    assert len(table.shown) == 30
    assert table.folded[-1].name == "class 39"
    assert table.folded[-1].difference is None


def test_numbers_are_written_as_a_person_reads_them():
    assert [signed(value) for value in (0.0123, -0.0123, 0.0001, -0.0001, None, float("nan"))] == [
        "+1.2", "\N{MINUS SIGN}1.2", "0.0", "0.0", "\N{EN DASH}", "\N{EN DASH}",
    ]  # fmt: skip
    assert percent(0.12345) == "12.3"
    assert [spread(values) for values in ([], [0.5], [0.4, 0.6])] == ["\N{EN DASH}", "50.0", "50.0 ± 14.1"]
