"""Which keys an anchor takes."""

import math

import pytest
import torch

from pixcon_core.contrast.sampling import choose_keys


def taken(similarities, is_allowed, *, num, key_sampling, hard_is_similar=True, seed=0):
    """The set of chosen columns of each row."""
    draws = torch.rand(similarities.shape[1], generator=torch.Generator().manual_seed(seed))[None]
    choice = choose_keys(
        similarities, is_allowed, draws, num=num, key_sampling=key_sampling, hard_is_similar=hard_is_similar
    )
    assert choice.columns is not None
    torch.testing.assert_close(
        choice.similarities[choice.is_chosen], similarities.gather(1, choice.columns)[choice.is_chosen]
    )
    rows = zip(choice.columns, choice.is_chosen, strict=True)
    lists = [columns[kept].tolist() for columns, kept in rows]
    assert all(len(set(row)) == len(row) for row in lists), "no key twice"
    return [set(row) for row in lists]


@pytest.fixture
def similarities():
    return torch.randn(6, 200)


@pytest.fixture
def is_allowed():
    allowed = torch.rand(6, 200) < torch.tensor([0.0, 0.01, 0.3, 0.5, 0.9, 1.0])[:, None]
    allowed[1, 7] = True
    return allowed


def hardest(row, allowed, number, hard_is_similar):
    allowed_columns = torch.nonzero(allowed).flatten().tolist()
    return set(sorted(allowed_columns, key=lambda k: row[k].item(), reverse=hard_is_similar)[:number])


@pytest.mark.parametrize("hard_is_similar", [True, False])
@pytest.mark.parametrize("num", [1, 7, 300])
def test_hardest_are_the_first_of_all(similarities, is_allowed, num, hard_is_similar):
    got = taken(similarities, is_allowed, num=num, key_sampling="hardest", hard_is_similar=hard_is_similar)
    expected = [hardest(*row, num, hard_is_similar) for row in zip(similarities, is_allowed, strict=True)]
    assert got == expected


@pytest.mark.parametrize("hard_is_similar", [True, False])
@pytest.mark.parametrize("num", [1, 7, 300])
def test_semi_hard_is_a_draw_out_of_the_hardest_tenth(similarities, is_allowed, num, hard_is_similar):
    pools = [
        hardest(row, allowed, math.ceil(int(allowed.sum()) / 10), hard_is_similar)
        for row, allowed in zip(similarities, is_allowed, strict=True)
    ]
    seen = [set() for _ in pools]
    for seed in range(300):
        got = taken(
            similarities,
            is_allowed,
            num=num,
            key_sampling="semi_hard",
            hard_is_similar=hard_is_similar,
            seed=seed,
        )
        for chosen, pool, all_chosen in zip(got, pools, seen, strict=True):
            assert chosen <= pool
            assert len(chosen) == min(num, len(pool))
            all_chosen |= chosen
    assert seen == pools, "every key of the tenth has its chance"


@pytest.mark.parametrize("num", [1, 7, 300])
def test_random_is_a_draw_out_of_all_that_are_allowed(similarities, is_allowed, num):
    counts = torch.zeros(similarities.shape)
    for seed in range(100):
        got = taken(similarities, is_allowed, num=num, key_sampling="random", seed=seed)
        for row, (chosen, allowed) in enumerate(zip(got, is_allowed, strict=True)):
            assert len(chosen) == min(num, int(allowed.sum()))
            counts[row, list(chosen)] += 1
    assert (counts[~is_allowed] == 0).all()
    if num == 7:
        assert counts[5].max() < 15


def test_without_a_number_all_are_taken(similarities, is_allowed):
    for key_sampling in ("random", "hardest", "semi_hard"):
        choice = choose_keys(similarities, is_allowed, None, num=None, key_sampling=key_sampling, hard_is_similar=True)
        assert choice.columns is None
        assert torch.equal(choice.is_chosen, is_allowed)
