"""The memory: ring buffers by class and kind."""

import io
import math
from collections import deque

import pytest
import torch
from safetensors.torch import load, save

from pixcon_core.contrast.anchors import shuffle_by_class
from pixcon_core.contrast.keys import Keys, pixel_keys, region_keys
from pixcon_core.contrast.memory import ClassMemory


def rows(values):
    """Keys that can be told apart by their first coordinate."""
    return torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 2).clone()


def content(memory, kind=0):
    """What each class's ring holds, oldest first."""
    out = []
    for keys, written in zip(memory.keys[:, kind], memory.written[:, kind].tolist(), strict=True):
        size = len(keys)
        out.append([int(keys[i % size, 0]) for i in range(max(0, written - size), written)])
    return out


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_each_ring_is_a_fifo_of_its_class(size):
    memory = ClassMemory(3, 2, size, 2)
    expected = [deque(maxlen=size) for _ in range(3)]
    value = 1
    for step in range(12):
        labels = torch.randint(-1, 3, (step % 7,))
        new = list(range(value, value + len(labels)))
        value += len(labels)
        memory.store(1, Keys(rows(new) if new else torch.zeros(0, 2), labels))
        for key, label in zip(new, labels.tolist(), strict=True):
            if label >= 0:
                expected[label].append(key)
        assert content(memory, 1) == [list(ring) for ring in expected]
    assert content(memory, 0) == [[], [], []]
    assert memory.is_filled()[:, 1].sum(dim=1).tolist() == [len(ring) for ring in expected]


@pytest.mark.parametrize("new_size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("number", [0, 2, 5, 13])
def test_loading_into_another_size_keeps_the_newest(new_size, number):
    old = ClassMemory(2, 1, 5, 2)
    old.store(0, Keys(rows([*range(1, number + 1)]), torch.zeros(number, dtype=torch.int64)))
    new = ClassMemory(2, 1, new_size, 2)
    new.load_state_dict(old.state_dict())
    kept = content(old)[0][-new_size:]
    assert content(new) == [kept, []]
    new.store(0, Keys(rows([100]), torch.tensor([0])))
    assert content(new) == [[*kept, 100][-new_size:], []]
    assert torch.equal(old.state_dict()["keys"], old.keys), "the stored state is left alone"


def test_a_memory_of_other_classes_or_kinds_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        ClassMemory(2, 2, 5, 2).load_state_dict(ClassMemory(2, 1, 4, 2).state_dict())


def test_its_state_can_be_saved_as_safetensors_and_as_weights_only():
    memory = ClassMemory(2, 1, 5, 2, dtype=torch.bfloat16)
    memory.store(0, Keys(rows([1, 2, 3]), torch.tensor([0, 1, 1])))
    buffer = io.BytesIO()
    torch.save(memory.state_dict(), buffer)
    buffer.seek(0)
    for state in (load(save(memory.state_dict())), torch.load(buffer, weights_only=True)):
        again = ClassMemory(2, 1, 5, 2, dtype=torch.bfloat16)
        again.load_state_dict(state)
        assert content(again) == [[1], [2, 3]]


def test_regions_are_the_normalised_means_of_unit_embeddings():
    embeddings = torch.randn(2, 4, 3, 5, dtype=torch.float64) * 10
    labels = torch.randint(-1, 2, (2, 3, 5))
    keys = region_keys(embeddings, labels, 3)
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    for image in range(2):
        for label in range(3):
            place = image * 3 + label
            if label == 2:
                assert keys.labels[place] == -1
                continue
            mean = unit[image][:, labels[image] == label].mean(dim=1)
            assert keys.labels[place] == label
            torch.testing.assert_close(keys.embeddings[place], mean / mean.norm())


def test_pixels_are_distinct_pixels_of_their_class_at_most_so_many_an_image():
    embeddings = torch.randn(2, 4, 6, 6)
    labels = torch.randint(-1, 3, (2, 6, 6))
    labels[1][labels[1] == 0] = 1
    keys = pixel_keys(embeddings, shuffle_by_class(labels, 3, torch.tensor(0)), 3, 5)
    unit = torch.nn.functional.normalize(embeddings, dim=1).permute(0, 2, 3, 1)
    counts = []
    for place, (image, label) in enumerate((i, c) for i in range(2) for c in range(3)):
        got = keys.embeddings[place * 5 : place * 5 + 5][keys.labels[place * 5 : place * 5 + 5] == label]
        own = unit[image][labels[image] == label]
        distance = torch.cdist(got, own) if len(own) else torch.zeros(len(got), 0)
        assert (distance < 1e-5).sum(dim=1).tolist() == [1] * len(got)
        assert (distance < 1e-5).sum(dim=0).le(1).all()
        counts.append(len(got))
    assert counts == [5, 5, 5, 0, 5, 5]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -torch.inf, 0.0, 1e-13, 1e200])
@pytest.mark.parametrize("label", [0, 1, -1])
def test_a_pixel_without_a_direction_takes_itself_alone_out_of_its_region(spoilt, label):
    embeddings = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    labels = torch.arange(8).view(1, 2, 4).expand(2, 2, 4) % 2
    labels = torch.where(torch.tensor([[True], [False]]).view(2, 1, 1), labels, 2)
    labels[0, 0, 1], labels[0, 1, 1] = label, 2
    embeddings[0, :, 0, 1] = 0
    embeddings[0, 1, 0, 1] = spoilt
    embeddings[0, :, 1, 1] = spoilt  # the only pixel of class 2 in this image
    keys = region_keys(embeddings, labels, 3)
    expected = {}
    for image in range(2):
        for name in range(3):
            total, number = [0.0, 0.0, 0.0], 0
            for y in range(2):
                for x in range(4):
                    vector = embeddings[image, :, y, x].tolist()
                    length = math.hypot(*vector) if all(abs(v) < 1e100 for v in vector) else math.inf
                    if int(labels[image, y, x]) == name and 1e-12 < length < math.inf:
                        total, number = [a + b / length for a, b in zip(total, vector, strict=True)], number + 1
            if number:
                expected[image * 3 + name] = [a / math.hypot(*total) for a in total]
    assert [place for place, name in enumerate(keys.labels.tolist()) if name >= 0] == sorted(expected) == [0, 1, 5]
    for place, mean in expected.items():
        assert keys.labels[place] == place % 3
        assert keys.embeddings[place].tolist() == pytest.approx(mean)


def test_embeddings_without_a_direction_are_not_stored():
    embeddings = torch.randn(1, 4, 2, 3)
    embeddings[0, 0, 0, 0] = torch.inf
    embeddings[0, 1, 0, 1] = torch.nan
    embeddings[0, :, 0, 2] = 0
    embeddings[0, :, 1, 0] = 1e25  # finite, but not its square
    labels = torch.zeros(1, 2, 3, dtype=torch.int64)
    keys = pixel_keys(embeddings, shuffle_by_class(labels, 1, torch.tensor(0)), 1, 10)
    assert int((keys.labels >= 0).sum()) == 2
    torch.testing.assert_close(keys.embeddings[keys.labels >= 0].norm(dim=1), torch.ones(2))
    zeros = region_keys(torch.zeros(1, 4, 2, 3), labels, 1)
    assert zeros.labels.tolist() == [-1]
