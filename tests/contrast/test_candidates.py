"""Which stored keys a step looks at, beside a sort in plain Python."""

import pytest
import torch
import torch.nn.functional as F

from pixcon_core.contrast.candidates import StoredKeys, class_block, class_slots, sample_size, shared_columns

NOTHING = 2**32
CLASSES, KINDS, SIZE, DIM = 4, 2, 6, 5


@pytest.fixture
def stored():
    """A memory of four classes, filled in part; each key is another."""
    generator = torch.Generator().manual_seed(3)
    keys = F.normalize(torch.randn(CLASSES, KINDS, SIZE, DIM, generator=generator), dim=-1)
    is_filled = torch.rand(CLASSES, KINDS * SIZE, generator=generator) < 0.7
    draws = torch.randint(NOTHING, is_filled.shape, generator=generator)
    return StoredKeys(keys, is_filled, draws)


@pytest.fixture
def batch_draws():
    draws = torch.randint(NOTHING, (10,), generator=torch.Generator().manual_seed(4))
    draws[[2, 7]] = NOTHING
    return draws


def all_of(stored):
    """Return the draw, class and key of each filled slot."""
    flat = stored.keys.flatten(1, 2)
    return [
        (int(stored.draws[name, slot]), name, tuple(flat[name, slot].tolist()))
        for name in range(CLASSES)
        for slot in range(KINDS * SIZE)
        if stored.is_filled[name, slot]
    ]


def found(keys, labels, draws):
    return sorted(
        (float(draw), int(label), tuple(key.tolist()))
        for key, label, draw in zip(keys, labels, draws, strict=True)
        if label >= 0
    )


def rounded(expected):
    """Draws are compared as float32."""
    return sorted((float(torch.tensor(draw).float()), name, key) for draw, name, key in expected)


@pytest.mark.parametrize("size", [1, 7, 20, 35, 40, None])
def test_the_shared_sample_is_the_beginning_of_the_order_of_batch_and_memory(stored, batch_draws, size):
    columns, is_sampled = shared_columns(stored, batch_draws, size)
    batch = [(int(draw), index) for index, draw in enumerate(batch_draws) if draw < NOTHING]
    order = sorted([*batch, *all_of(stored)], key=lambda one: one[0])[:size]
    assert found(columns.keys, columns.labels, columns.draws) == rounded([one for one in order if len(one) == 3])
    assert is_sampled.nonzero().flatten().tolist() == sorted(one[1] for one in order if len(one) == 2)


@pytest.mark.parametrize("size", [1, 3, 11, None])
def test_a_class_s_sample_is_the_beginning_of_its_own_order(stored, size):
    label = torch.tensor([2, 0, 2])
    block = class_block(stored, label, class_slots(stored, size), torch.float32)
    for name, keys, is_filled, draws in zip(label, *block, strict=True):
        labels = torch.where(is_filled, name, -1)
        own = sorted(one for one in all_of(stored) if one[1] == name)[:size]
        assert found(keys, labels, draws) == rounded(own)


def test_the_sample_is_large_enough_for_what_is_drawn_from_it():
    assert sample_size(None, "random", 100) is sample_size(5, "hardest", 100) is sample_size(5, "random", None) is None
    assert sample_size(100, "random", 24576) == 8192
    assert sample_size(4096, "random", 24576) == 4 * 4096
    assert sample_size(100, "semi_hard", 24576) == 24576
    assert sample_size(4096, "semi_hard", 24576) == 12 * 4096
