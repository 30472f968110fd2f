"""Reads one pair and checks it: the gate between files on disk and everything else."""

from pixcon_core.data.decode import decode_image
from pixcon_core.data.spec import DatasetSpec, Pair, Sample


class BadPairError(ValueError):
    """A pair that cannot be used; the message names the file and what is wrong with it."""


def load_pair(spec: DatasetSpec, pair: Pair) -> Sample:
    """Read image and label, decode both wholly and check that they fit.

    Raises:
        BadPairError: If the label is missing, a file is damaged, it has unknown ids, or sizes differ.
    """
    if pair.label is None:
        raise BadPairError(f"{pair.image}: has no label file.")
    try:
        label = spec.to_train_ids(spec.read_label(pair.label))
    except (OSError, ValueError) as error:
        raise BadPairError(f"{pair.label}: {_one_line(error)}.") from error
    height, width = label.shape
    try:
        data = pair.image.read_bytes()
        image = decode_image(data, (height, width))
    except (OSError, ValueError) as error:
        raise BadPairError(f"{pair.image}: {_one_line(error)}.") from error
    if image.shape[:2] != (height, width):
        raise BadPairError(
            f"{pair.image}: is {image.shape[1]}x{image.shape[0]} pixels, "
            f"but its label {pair.label} is {width}x{height}."
        )
    return Sample(pair.id, data, label, height, width)


def _one_line(error: Exception) -> str:
    # An OSError's full text would name the file a second time.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".")
