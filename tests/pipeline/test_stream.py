"""The stream of batches, through Ray."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.cache import fetch, keep_decoded
from pipeline.data.rows import Stored, read_rows, split_rows
from pipeline.data.sources import find_all_pairs
from pipeline.ingest import stream
from pipeline.prepare import prepare
from pipeline.train import Job, Worker
from pixcon_core.config import IngestConfig, RunConfig, TrainConfig
from pixcon_core.data import DATASETS

CONFIG = RunConfig(
    ingest=IngestConfig(crop=(64, 64), window=8), train=TrainConfig(batch_size=4, steps=14, num_workers=1)
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def shards(ray_cluster, tiny_camvid, tmp_path_factory):
    spec = DATASETS["camvid"]
    pairs = find_all_pairs(spec, tiny_camvid)
    return prepare(spec, pairs, tmp_path_factory.mktemp("shards") / "camvid", max_bad_share=0)


def with_ingest(**changes):
    return dataclasses.replace(CONFIG, ingest=dataclasses.replace(CONFIG.ingest, **changes))


def batches(shards, config, *, first=0, worker=None, cache=None):
    plan = Job(config, shards, cache).plan(worker or Worker())
    return list(stream(plan, config.ingest, first_step=first, last_step=config.train.steps))


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels) for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def plain(shards):
    return batches(shards, with_ingest(cache="off"))


def test_batches_have_the_size_of_the_crop_and_are_as_many_as_steps(plain):
    assert len(plain) == 14
    for batch in plain:
        assert batch.images.shape == (4, 64, 64, 3)
        assert batch.labels.shape == (4, 64, 64)
        assert batch.images.dtype == batch.labels.dtype == np.uint8


def test_the_same_seed_gives_the_same_batches_and_another_gives_others(shards, plain):
    assert same(batches(shards, with_ingest(cache="off")), plain)
    assert not same(batches(shards, dataclasses.replace(CONFIG, seed=1)), plain)


def test_cached_images_give_the_same_batches(shards, plain):
    config = with_ingest(cache="on")
    cache = keep_decoded(shards, "train", config)
    assert same(batches(shards, config, cache=cache), plain)


def test_the_cache_holds_what_the_shards_hold(shards):
    cache = keep_decoded(shards, "train", with_ingest(cache="on"))
    rows = split_rows(shards, "train")[::-1]
    for kept, stored in zip(fetch(cache, rows), read_rows(shards.folder, rows), strict=True):
        assert isinstance(stored, Stored)
        assert kept.id == stored.id
        np.testing.assert_array_equal(kept.image, stored.image)
        np.testing.assert_array_equal(kept.label, stored.label)


@pytest.mark.parametrize("first", [3, 5, 13])
def test_going_on_in_the_middle_of_an_epoch_gives_the_rest(shards, plain, first):
    assert same(batches(shards, CONFIG, first=first), plain[first:])


def test_two_workers_together_see_what_one_would(shards, plain):
    parts = [batches(shards, CONFIG, worker=Worker(rank, 2)) for rank in (0, 1)]
    for whole, left, right in zip(plain, *parts, strict=True):
        np.testing.assert_array_equal(whole.images, np.concatenate([left.images, right.images]))


def test_auto_keeps_images_that_are_seen_more_than_once_and_fit(shards):
    assert keep_decoded(shards, "train", CONFIG) is not None
    once = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=5))
    assert keep_decoded(shards, "train", once) is None
    assert keep_decoded(shards, "train", with_ingest(cache="off")) is None
    assert keep_decoded(shards, "train", with_ingest(cache_share=1e-9)) is None


def test_what_does_not_fit_is_refused_with_its_size(shards):
    size = 20 * 192 * 144 * 4
    assert shards.splits["train"].num_pixels * 4 == size
    message = f"ingest.cache=on: the 20 images of split train take {size / 1e9:.1f} GB"
    with pytest.raises(ValueError, match=re.escape(message)):
        keep_decoded(shards, "train", with_ingest(cache="on", cache_share=1e-9))


def test_a_damaged_image_is_replaced_from_the_cache_as_from_the_shards(shards, tmp_path):
    folder = Path(shutil.copytree(shards.folder, tmp_path / "damaged"))
    file = folder / shards.splits["train"].groups[0].file
    data = bytearray(file.read_bytes())
    data[data.find(b"\x89PNG") + 60] ^= 0xFF
    file.write_bytes(data)
    damaged = dataclasses.replace(shards, folder=str(folder))
    results = []
    for mode in ("off", "on"):
        config, named = with_ingest(cache=mode), []
        plan = Job(config, damaged, keep_decoded(damaged, "train", config)).plan(Worker())
        made = list(stream(plan, config.ingest, first_step=0, last_step=5, on_unreadable=named.append))
        results.append((made, named))
    (first, named), (second, named_too) = results
    assert same(first, second)
    assert len(named) == 1
    assert named == named_too
