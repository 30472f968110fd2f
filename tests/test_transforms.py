import dataclasses

import cv2
import numpy as np
import pytest

from pixcon_core.config import IngestConfig
from pixcon_core.data.transforms import Crop, _take, augment

PLAIN = IngestConfig(crop=(64, 96), scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, brightness=0, max_class_share=1.0)


def sample(height=120, width=160, seed=0):
    """An image whose colours say where a pixel was: red its row, green its column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    blue = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    return np.stack([rows, columns, blue], axis=2), (rows // 10 % 11).astype(np.uint8)


def test_without_a_resize_the_crop_is_a_piece_of_the_image():
    image, label = sample()
    for seed in range(10):
        crop, labels = augment(image, label, PLAIN, np.random.default_rng(seed))
        top, left = crop[0, 0, :2]
        np.testing.assert_array_equal(crop, image[top : top + 64, left : left + 96])
        np.testing.assert_array_equal(labels, label[top : top + 64, left : left + 96])


def test_every_place_can_be_cropped():
    image, label = sample()
    corners = {tuple(augment(image, label, PLAIN, np.random.default_rng(s))[0][0, 0, :2]) for s in range(4000)}
    tops, lefts = zip(*corners, strict=True)
    assert set(tops) == set(range(120 - 64 + 1))
    assert set(lefts) == set(range(160 - 96 + 1))


def resized_by_loop(pixels, height, width, *, nearest):
    """Pixel centres on pixel centres, edges repeated; in double precision."""
    rows, columns = pixels.shape[:2]
    result = np.zeros((height, width, *pixels.shape[2:]))
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
            if nearest:
                result[y, x] = pixels[int((y + 0.5) * rows / height), int((x + 0.5) * columns / width)]
                continue
            top, left = int(np.floor(v)), int(np.floor(u))
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(v - top - i)) * (1 - abs(u - left - j))
                result[y, x] += weight * pixels[np.clip(top + i, 0, rows - 1), np.clip(left + j, 0, columns - 1)]
    return result


@pytest.mark.parametrize(
    "crop",  # sizes whose pixel centres never fall between two pixels, where nearest is a matter of taste
    [Crop(7, 13, 40, 60, (48, 64)), Crop(0, 0, 120, 160, (64, 96)), Crop(9, 2, 48, 64, (48, 64))],
)
def test_a_part_is_resized_as_by_a_plain_loop(crop):
    image, label = sample()
    size = (80, 96)
    for pixels, interpolation, fill in ((image, cv2.INTER_LINEAR, 128), (label, cv2.INTER_NEAREST_EXACT, 255)):
        part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        expected = resized_by_loop(part, *crop.resized, nearest=pixels is label)
        taken = _take(pixels, crop, size, interpolation, fill=fill).astype(float)
        rows, columns = crop.resized
        assert np.abs(taken[:rows, :columns] - expected).max() <= (0 if pixels is label else 1)
        assert (taken[rows:] == fill).all()
        assert (taken[:, columns:] == fill).all()


def test_image_and_labels_stay_aligned_through_everything():
    image, label = np.zeros((90, 130, 3), np.uint8), np.zeros((90, 130), np.uint8)
    image[30:60, 40:90], label[30:60, 40:90] = 200, 1
    config = dataclasses.replace(PLAIN, scale=(0.5, 2.0), aspect=(0.9, 1.1), flip=0.5)
    for seed in range(50):
        crop, labels = augment(image, label, config, np.random.default_rng(seed))
        assert crop.shape == (64, 96, 3)
        inside = labels != 255
        wrong = ((crop[..., 0] > 100) != (labels == 1)) & inside
        assert wrong.mean() < 0.02  # the blurred edge


def test_a_small_image_is_filled_up_with_grey_that_is_ignored():
    image, label = sample(40, 50)
    crop, labels = augment(image, label, PLAIN, np.random.default_rng(0))
    np.testing.assert_array_equal(crop[:40, :50], image)
    np.testing.assert_array_equal(labels[:40, :50], label)
    assert (labels[40:] == 255).all()
    assert (labels[:, 50:] == 255).all()
    assert (crop[40:] == 128).all()


def test_flips_and_brightness_happen_as_often_and_as_much_as_asked():
    image, label = sample(64, 96)
    image[..., 2] = 100
    config = dataclasses.replace(PLAIN, flip=0.25, brightness=10)
    results = [augment(image, label, config, np.random.default_rng(s))[0] for s in range(1000)]
    flipped = np.mean([r[0, 0, 1] > r[0, -1, 1] for r in results])
    shifts = [int(r[0, 0, 2]) - 100 for r in results]
    assert 0.2 < flipped < 0.3
    assert set(shifts) == set(range(-10, 11))


def test_brightness_stops_at_black_and_white():
    image = np.full((64, 96, 3), 250, np.uint8)
    config = dataclasses.replace(PLAIN, brightness=100)
    values = {int(augment(image, image[..., 0] * 0, config, np.random.default_rng(s))[0].max()) for s in range(200)}
    assert max(values) == 255
    assert min(values) >= 150


def test_scale_is_drawn_evenly_over_its_range():
    image, label = sample(100, 100)
    label[:] = np.arange(100)[None, :]  # the width of what is seen tells the scale
    config = dataclasses.replace(PLAIN, crop=(32, 32), scale=(0.5, 2.0))
    seen = [np.ptp(augment(image, label, config, np.random.default_rng(s))[1][0].astype(int)) for s in range(2000)]
    scales = 31 / np.array(seen)
    for middle in (0.8, 1.0, 1.25, 1.7):
        assert abs(np.mean(scales < middle) - (middle - 0.5) / 1.5) < 0.05
    assert 0.48 < scales.min() < 0.53
    assert 1.9 < scales.max() < 2.2


def test_a_crop_that_one_class_fills_is_drawn_again():
    image, label = sample(64, 960)
    label[:] = 0
    label[:, :200] = np.arange(200) // 50  # diverse at the left end only
    strict = dataclasses.replace(PLAIN, crop=(64, 96), max_class_share=0.75)

    def diverse(config):
        crops = [augment(image, label, config, np.random.default_rng(s))[1] for s in range(300)]
        return np.mean([np.bincount(c.ravel()).max() < 0.8 * c.size for c in crops])

    assert diverse(strict) > 2 * diverse(PLAIN)


def test_an_image_of_one_class_or_of_void_is_taken_after_all():
    image, label = sample(100, 100)
    for value in (3, 255):
        crop, labels = augment(image, np.full_like(label, value), IngestConfig(crop=(64, 64)), np.random.default_rng(0))
        assert crop.shape == (64, 64, 3)
        assert set(np.unique(labels)) <= {value, 255}


def test_the_same_generator_gives_the_same_crop():
    image, label = sample()
    first, second = (augment(image, label, IngestConfig(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_short_side_is_what_scales_count_from():
    image, label = sample(100, 140)
    for height, width in ((100, 140), (140, 100)):
        label = np.arange(height, dtype=np.uint8)[:, None].repeat(width, axis=1)
        image = np.zeros((height, width, 3), np.uint8)
        config = dataclasses.replace(PLAIN, crop=(200, 280), short_side=200)
        _, labels = augment(image, label, config, np.random.default_rng(0))
        inside = labels != 255
        assert inside.any(axis=1).sum() == min(200, height * 2)
        assert inside.any(axis=0).sum() == min(280, width * 2)


def jittered(image, seed=0, **changes):
    """What `augment` makes of an image as large as the crop, when it only changes colours."""
    config = dataclasses.replace(PLAIN, crop=image.shape[:2], **changes)
    return augment(image, image[..., 0] * 0, config, np.random.default_rng(seed))[0]


def colourful():
    return np.random.default_rng(3).integers(60, 190, (64, 96, 3), dtype=np.uint8)


def test_contrast_stretches_about_the_mean_grey():
    image = colourful()
    factors = set()
    for seed in range(20):
        changed = jittered(image, seed, contrast=0.3).astype(float)
        slope, _ = np.polyfit(image.ravel().astype(float), changed.ravel(), 1)
        factors.add(round(slope, 3))
        grey = image @ [0.299, 0.587, 0.114]
        assert abs(changed.mean() - (grey.mean() + slope * (image.mean() - grey.mean()))) < 1
    assert min(factors) < 0.8
    assert max(factors) > 1.2
    assert all(0.69 < factor < 1.31 for factor in factors)


def test_saturation_leaves_grey_as_it_is_and_hue_turns_colours():
    grey = np.full((64, 96, 3), 120, np.uint8)
    np.testing.assert_array_equal(jittered(grey, saturation=0.5, hue=0.5), grey)
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 200
    turned = {tuple(jittered(red, seed, hue=0.5)[0, 0]) for seed in range(40)}
    assert {int(np.argmax(colour)) for colour in turned} == {0, 1, 2}
    slightly = [jittered(red, seed, hue=0.02)[0, 0] for seed in range(40)]
    assert all(colour[0] == 200 and max(colour[1:]) < 40 for colour in slightly)
    paler = [jittered(red, seed, saturation=0.5)[0, 0] for seed in range(40)]
    assert min(colour[0] for colour in paler) < 150
