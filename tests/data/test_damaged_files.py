"""Files with any bytes in them: they load, or are refused as bad pairs, and nothing else happens."""

import functools
import io

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.files import encoded, picture, with_orientation, with_palette
from pixcon_core.data import DATASETS, BadPairError, Pair, load_folder_spec, load_pair
from pixcon_core.data.palette import bit_palette

LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8) % 11


def mat(key):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"names": "x", key: LABEL}, do_compression=True)
    return buffer.getvalue()


IMAGES = {
    "jpg": encoded(picture(), "JPEG", exif=with_orientation(3)),
    "progressive.jpg": encoded(picture(), "JPEG", progressive=True),
    "png": encoded(picture()),
    "palette.png": encoded(with_palette(LABEL, bit_palette(16)), transparency=bytes(range(16))),
    "deep.png": encoded(LABEL.astype(np.uint16)),
    "tif": encoded(picture(), "TIFF", compression="tiff_lzw"),
    "webp": encoded(picture(), "WEBP"),
    "bmp": encoded(picture(), "BMP"),
    "gif": encoded(picture(), "GIF"),
}
LABELS = {
    "grey.png": encoded(LABEL),
    "palette.png": encoded(with_palette(LABEL, bit_palette(16))),
    "bits.png": encoded(LABEL > 5),
    "deep.png": encoded(LABEL.astype(np.uint16)),
    "colours.png": encoded(np.array(DATASETS["camvid"].palette, np.uint8)[LABEL]),
    "tif": encoded(LABEL, "TIFF"),
}
SPECS = {
    "camvid": list(LABELS.values()),
    "cityscapes": list(LABELS.values()),
    "coco-stuff": list(LABELS.values()),
    "pascal-context": [*LABELS.values(), mat("LabelMap")],
    "coco-stuff-10k": [mat("S")],
    "own": list(LABELS.values()),
}


@pytest.fixture(autouse=True)
def _no_large_images(monkeypatch):
    """Damaged headers claim sizes that are still allowed, and that take seconds."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


@st.composite
def damaged(draw, originals):
    """One of the originals with some bytes changed, cut out, put in or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.integers(0, 8))
        data[start:stop] = draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(stop - start)), st.just(b"\xff" * (stop - start)))
        )
        if draw(st.integers(0, 9)) == 0:
            del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory):
    """A data set by its name; "own" has colours, so that both numbers and colours of its masks count."""

    @functools.cache
    def spec_of(name):
        if name in DATASETS:
            return DATASETS[name]
        path = tmp_path_factory.mktemp("own") / "own.toml"
        colours = [list(colour) for colour in bit_palette(11)]
        classes = [f"c{i}" for i in range(11)]
        splits = "".join(f'[splits.{split}]\nimages = "i"\nmasks = "m"\n' for split in ("train", "val"))
        path.write_text(f"classes = {classes}\ncolours = {colours}\n{splits}")
        return load_folder_spec(path)

    return spec_of


def load_or_refuse(folder, spec, image, label):
    """Load a pair of these bytes, and check that all that comes of it is a sample or a refusal in one line."""
    suffix = "mat" if label[:6] == b"MATLAB" or spec.name == "coco-stuff-10k" else "png"
    pair = Pair("a", folder / "a.jpg", folder / f"a.{suffix}")
    pair.image.write_bytes(image)
    pair.label.write_bytes(label)
    try:
        sample = load_pair(spec, pair)
    except BadPairError as error:
        text = str(error)
        assert text.startswith((f"{pair.image}: ", f"{pair.label}: "))
        assert "\n" not in text
        return
    assert sample.label.shape == (sample.height, sample.width)
    assert set(np.unique(sample.label)) <= {*range(len(spec.classes)), 255}


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IMAGES)
@fuzz
@given(data=st.data())
def test_a_damaged_image_loads_or_is_refused(name, tmp_path, data):
    image = data.draw(damaged([IMAGES[name]]))
    load_or_refuse(tmp_path, DATASETS["camvid"], image, LABELS["grey.png"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SPECS)
@fuzz
@given(data=st.data())
def test_a_damaged_label_loads_or_is_refused(name, tmp_path, spec_of, data):
    load_or_refuse(tmp_path, spec_of(name), IMAGES["png"], data.draw(damaged(SPECS[name])))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SPECS)
@fuzz
@given(image=st.binary(max_size=300), label=st.binary(max_size=300))
def test_files_of_any_bytes_are_refused(name, tmp_path, spec_of, image, label):
    load_or_refuse(tmp_path, spec_of(name), image, label)


@pytest.mark.parametrize("name", SPECS)
def test_undamaged_files_load(name, tmp_path, spec_of):
    """Without this the tests above might say nothing."""
    spec = spec_of(name)
    loaded = 0
    for label in SPECS[name]:
        suffix = "mat" if label[:6] == b"MATLAB" else "png"
        pair = Pair("a", tmp_path / "a.jpg", tmp_path / f"a.{suffix}")
        pair.image.write_bytes(IMAGES["jpg"])
        pair.label.write_bytes(label)
        try:
            loaded += load_pair(spec, pair).label.shape == (6, 8)
        except BadPairError:
            continue
    assert loaded >= len(SPECS[name]) / 2
