from collections import Counter

import pytest

from pipeline.ingest import Plan, Row
from pipeline.prepare import RowGroup

GROUPS = tuple(RowGroup(f"train-{i // 3}.parquet", i % 3, 8 if i % 3 else 5) for i in range(9))  # 63 images


def plan(**changes):
    return Plan("folder", GROUPS, window=16, seed=3, batch_size=6, rank=0, world_size=1)._replace(**changes)


def positions(plan, first, last):
    """All that a worker sees from step `first` to before `last`, by position in the run."""
    windows = range(plan.first_window(first), plan.first_window(last) + 1)
    seen = [item for window in windows for item in plan.rows(window, first, last)]
    assert [p for p, _ in seen] == sorted(p for p, _ in seen)
    return dict(seen)


def test_every_epoch_has_every_image_once():
    seen = positions(plan(), 0, 63 * 4 // 6)
    rows = [seen[i] for i in range(63 * 4)]
    everything = {Row(group, i) for group in GROUPS for i in range(group.rows)}
    for epoch in range(4):
        assert Counter(rows[63 * epoch : 63 * (epoch + 1)]) == Counter(everything)


def test_epochs_differ_and_seeds_differ_and_the_same_seed_does_not():
    seen = positions(plan(), 0, 21)
    first, second = ([seen[i] for i in range(63 * e, 63 * e + 63)] for e in (0, 1))
    assert first != second
    assert positions(plan(seed=4), 0, 21) != seen
    assert positions(plan(), 0, 21) == seen


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_workers_share_each_step_equally_and_together_see_what_one_would(world_size):
    alone = positions(plan(), 0, 30)
    together = {}
    for rank in range(world_size):
        mine = positions(plan(rank=rank, world_size=world_size), 0, 30)
        assert Counter(p // 6 for p in mine) == dict.fromkeys(range(30), 6 // world_size)
        assert not together.keys() & mine.keys()
        together |= mine
    assert together == alone


def test_where_a_batch_does_not_divide_the_numbers_differ_by_one():
    alone = positions(plan(), 0, 30)
    together, numbers = {}, []
    for rank in range(4):
        mine = positions(plan(rank=rank, world_size=4), 0, 30)
        (number,) = set(Counter(p // 6 for p in mine).values())
        numbers.append(number)
        assert not together.keys() & mine.keys()
        together |= mine
    assert sorted(numbers) == [1, 1, 2, 2]
    assert together == alone


@pytest.mark.parametrize("step", [1, 9, 10, 11, 21, 29])
def test_going_on_at_a_step_sees_exactly_the_rest(step):
    whole = positions(plan(), 0, 30)
    rest = positions(plan(), step, 30)
    assert rest == {p: row for p, row in whole.items() if p >= step * 6}


def test_a_batch_larger_than_a_window_and_a_window_larger_than_the_data_work():
    assert len(positions(plan(batch_size=40, window=7), 0, 5)) == 200
    assert len(positions(plan(batch_size=6, window=1000), 0, 30)) == 180
