"""Label maps in MATLAB files, as PASCAL-Context and COCO-Stuff 10k come."""

from pathlib import Path

import numpy as np
import scipy.io  # type: ignore[import-untyped, unused-ignore]
from jaxtyping import Shaped


def read_label_mat(path: Path, key: str) -> Shaped[np.ndarray, "height width"]:
    """Read one matrix of a .mat file.

    Raises:
        ValueError: If the file is damaged or has no such matrix.
    """
    try:
        found = scipy.io.loadmat(path, variable_names=[key])
    except FileNotFoundError:
        raise
    except (
        Exception
    ) as error:  # for damaged files scipy raises what it meets: zlib.error, TypeError, OSError, ...
        raise ValueError(f"it cannot be read as a MATLAB file: {error}") from error
    if key not in found:
        raise ValueError(f"it has no matrix {key!r}")
    return np.asarray(found[key])
