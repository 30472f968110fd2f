"""The heads against plain re-implementations in double precision."""

import math

import pytest
import torch

from pixcon_core.models.deeplabv3 import DeepLabV3Head, ImagePool
from pixcon_core.models.heads import FCNHead, HRNetHead
from pixcon_core.models.ocr import OCRHead, attend, object_regions


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def convolved(features, weight, dilation):
    """A 3x3 convolution with zeros around, pixel by pixel."""
    batch, _, height, width = features.shape
    result = torch.zeros(batch, len(weight), height, width, dtype=features.dtype)
    for y in range(height):
        for x in range(width):
            for i in range(3):
                for j in range(3):
                    row, column = y + (i - 1) * dilation, x + (j - 1) * dilation
                    if 0 <= row < height and 0 <= column < width:
                        result[:, :, y, x] += features[:, :, row, column] @ weight[:, :, i, j].T
    return result


def normed(features, norm):
    """Batch norm with running statistics, then ReLU."""
    mean, scale = norm.running_mean, norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shifted = (features - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    return shifted.clamp(min=0)


def with_random_norms(module):
    generator = torch.Generator().manual_seed(5)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values in (norm.running_mean, norm.bias):
                values.data.copy_(torch.randn(values.shape, generator=generator, dtype=torch.double))
            for values in (norm.running_var, norm.weight):
                values.data.copy_(torch.rand(values.shape, generator=generator, dtype=torch.double) + 0.5)
    return module.double().eval()


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_deeplabv3_matches_a_plain_pyramid(output_stride, rates):
    head = with_random_norms(DeepLabV3Head(5, 6, 8, 3, output_stride=output_stride))
    middle, deep = random(2, 5, 9, 20), random(2, 6, 9, 20, seed=1)

    point, *atrous, pool = head.branches
    parts = [normed(torch.einsum("bchw,oc->bohw", deep, point[0].weight[:, :, 0, 0]), point[1])]
    parts += [normed(convolved(deep, b[0].weight, r), b[1]) for b, r in zip(atrous, rates, strict=True)]
    mean = torch.einsum("bchw,oc->bo", deep, pool.layers[0].weight[:, :, 0, 0]) / (9 * 20)
    parts.append(normed(mean[:, :, None, None], pool.layers[1]).expand(-1, -1, 9, 20))
    joined = normed(convolved(torch.cat(parts, dim=1), head.join[0].weight, 1), head.join[1])
    refined = normed(convolved(joined, head.refine[0].weight, 1), head.refine[1])
    last = head.classifier[-1]
    expected = torch.einsum("bchw,oc->bohw", refined, last.weight[:, :, 0, 0]) + last.bias[:, None, None]

    torch.testing.assert_close(head([middle, deep]).logits, expected)


def test_object_regions_match_a_plain_loop():
    features, logits = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    expected = torch.zeros(2, 3, 6, 1, dtype=torch.double)
    for image in range(2):
        for k in range(6):
            shares = [math.exp(value) for value in logits[image, k].flatten().tolist()]
            pixels = features[image].flatten(1).T
            expected[image, :, k, 0] = sum(s * p for s, p in zip(shares, pixels, strict=True)) / sum(shares)
    torch.testing.assert_close(object_regions(features, logits), expected)


def test_attention_matches_a_plain_loop():
    queries, keys, values = random(2, 4, 3, 5), random(2, 4, 6, 1, seed=1), random(2, 7, 6, 1, seed=2)
    expected = torch.zeros(2, 7, 3, 5, dtype=torch.double)
    for image in range(2):
        for y in range(3):
            for x in range(5):
                shares = [
                    math.exp(float(queries[image, :, y, x] @ keys[image, :, k, 0]) / math.sqrt(4)) for k in range(6)
                ]
                for share, value in zip(shares, values[image, :, :, 0].T, strict=True):
                    expected[image, :, y, x] += share / sum(shares) * value
    torch.testing.assert_close(attend(queries, keys, values), expected)


def test_ocr_works_the_context_of_the_auxiliary_prediction_into_the_pixels():
    head = with_random_norms(OCRHead([3, 4], 16, 5))
    levels = [random(2, 3, 8, 8), random(2, 4, 4, 4, seed=1)]
    output = head(levels)
    context, pixels = head.context, head.reduce(output.pixels)
    regions = object_regions(pixels, head.aux(output.pixels))
    attended = attend(context.query(pixels), context.key(regions), context.value(regions))
    expected = head.classifier(context.join(torch.cat([context.out(attended), pixels], dim=1)))
    torch.testing.assert_close(output.logits, expected)
    assert output.pixels.shape == (2, 7, 8, 8)
    torch.testing.assert_close(output.pixels[:, :3], levels[0])


def test_image_pool_of_one_image_uses_running_statistics_and_keeps_them():
    pool = with_random_norms(ImagePool(6, 8)).train()
    before = {name: value.clone() for name, value in pool.state_dict().items()}
    image = random(1, 6, 4, 5)
    trained = pool(image)
    torch.testing.assert_close(pool.state_dict(), before)
    torch.testing.assert_close(trained, pool.eval()(image))


def test_image_pool_of_several_images_uses_theirs():
    pool = with_random_norms(ImagePool(6, 8)).train()
    before = pool.layers[1].running_mean.clone()
    pooled = pool(random(3, 6, 4, 5))
    assert (pool.layers[1].running_mean != before).all()
    assert pooled.shape == (3, 8, 4, 5)


@pytest.mark.parametrize("make", [lambda: FCNHead(4, 6, 16, 7), lambda: HRNetHead([4, 6], 7)], ids=["fcn", "hrnet"])
def test_logits_have_the_finer_levels_resolution(make):
    output = make()([torch.randn(2, 4, 9, 11), torch.randn(2, 6, 5, 6)])
    assert output.logits.shape == (2, 7, 9, 11)
    assert output.pixels.shape[2:] == (9, 11)
    assert output.aux_logits is None
