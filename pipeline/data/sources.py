"""What there is before station 1: a data set by its name, and its raw files."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.meaning import meaning
from pipeline.data.storage import is_url
from pipeline.progress import Bar
from pixcon_core.data import DATASETS, DatasetSpec, Pair, load_folder_spec, make_miniature

NEEDED_SPLITS = ("train", "val")
"""What training and evaluation need."""


def dataset_spec(dataset: str) -> DatasetSpec:
    """Return a data set by its name, or a user's own by the path of its description.

    Raises:
        ValueError: If there is none of that name, or the description is wrong.
    """
    if dataset in DATASETS:
        return DATASETS[dataset]
    if Path(dataset).suffix in (".toml", ".yaml", ".yml"):
        return load_folder_spec(Path(dataset))
    near = difflib.get_close_matches(dataset.lower(), DATASETS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"There is no data set {dataset!r}.{hint} There are: {', '.join(DATASETS)}; and your own, by the path of a"
        " .toml or .yaml file (README, 'Datasets')."
    )


def find_root(spec: DatasetSpec, dataset: str, data_root: str | None, out: Path) -> Path:
    """Return where the raw files lie; a miniature is drawn, below `out` unless told where, if it is not there.

    Raises:
        ValueError: If that is not known, or not local.
    """
    if data_root is not None and is_url(data_root):
        raise ValueError(
            f"data_root: {data_root} holds no prepared data (dataset.json), and raw files are read from local folders"
            " only. On a machine that has these: python -m pipeline.prepare --dataset"
            f" {dataset} --data_root FOLDER --out {data_root}"
        )
    if spec.mini is None:
        if data_root is None and Path(dataset).suffix:
            return Path(dataset).parent
        if data_root is None:
            raise ValueError(
                f"data_root must be given for {spec.name}: the folder of its files (README, 'Datasets'). To try without"
                " data: --dataset mini-camvid."
            )
        return Path(data_root)
    root = Path(data_root) if data_root is not None else out / "data" / spec.name
    bar = Bar(f"Drawing {spec.name}", "image")
    make_miniature(spec.name, root, progress=bar.update)
    bar.close()
    return root


def find_all_pairs(spec: DatasetSpec, root: Path, splits: Sequence[str] = NEEDED_SPLITS) -> dict[str, list[Pair]]:
    """List the images and labels of some splits.

    Raises:
        ValueError: If there is no such split, if a folder is missing or empty, if no image of a split has a label, or
            if a file has a name that is no text.
    """
    for split in splits:
        if split not in spec.splits:
            raise ValueError(f"{spec.name} has no split {split!r}; there are {', '.join(spec.splits)}.")
    found = {split: spec.find_pairs(root, split) for split in splits}
    for split, pairs in found.items():
        _refuse_odd_names(spec, pairs)
        if not any(pair.label for pair in pairs):
            raise ValueError(
                f"{spec.name}: none of the {len(pairs)} images of split {split} under {root} has a label file, for"
                f" example {pairs[0].image}. Expected {spec.layout.replace('{split}', split)}. See README, 'Datasets'."
            )
    return found


def _refuse_odd_names(spec: DatasetSpec, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        for file in (pair.image, pair.label):
            # What is not UTF-8 comes as surrogates, which neither a shard nor JSON can hold.
            if file is not None and any("\ud800" <= letter <= "\udfff" for letter in f"{pair.id}{file.name}"):
                raise ValueError(f"{spec.name}: a name in {str(file)!r} is not UTF-8. Rename it, and others like it.")


def fingerprint(spec: DatasetSpec, pairs: dict[str, list[Pair]]) -> str:
    """Return a short hash of names, sizes and times of all files and of what their ids and colours mean.

    Where the folder lies is not in it: a data set that was moved, or is named by another path, is the same.
    """
    digest = hashlib.sha256(meaning(spec).encode())
    for split, listed in pairs.items():
        for pair in listed:
            for file in (pair.image, pair.label):
                state = file.stat() if file and file.exists() else None  # one of a list may be missing
                stamp = (state.st_size, state.st_mtime_ns) if state else None
                digest.update(f"{split} {pair.id} {file.name if file else None} {stamp}\n".encode())
    return digest.hexdigest()[:12]
