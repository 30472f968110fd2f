"""A user's own data: folders of images and masks, described by a short TOML or YAML file.

For example `fields.toml`, next to the folders that it names::

    classes = ["soil", "crop", "weed"]
    ignore = [3]                                  # optional: more ids to leave out, besides 255
    colours = [[90, 60, 40], [0, 160, 0], [200, 0, 60]]   # optional

    [splits.train]
    images = "train/images"
    masks = "train/masks"

    [splits.val]
    images = "val/images"
    masks = "val/masks"

A mask has the name of its image and holds ids 0, 1, 2 in the order of `classes`, or the classes' `colours`.
Other ids are given with the names: `classes = { soil = 0, crop = 7, weed = 12 }`.

For black and white masks, `classes = ["ground", "plant"]` with `colours = [[0, 0, 0], [255, 255, 255]]`: where all
colours are greys, a grey mask holds them instead of ids. Without `colours`, 255 is ignored.

Where names are longer, or splits share a folder, a split says so::

    [splits.train]
    images = "data"
    masks = "data"
    image_suffix = "_rgb"     # NAME_rgb.jpg is the image NAME,
    mask_suffix = "_mask"     # NAME_mask.png its mask
    list = "train.txt"        # only the images named there, one a line

and where they lie in sub-folders, a star stands for these: `images = "scenes/*/rgb"`, `masks = "scenes/*/mask"`.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]
from jaxtyping import Shaped, UInt8

from pixcon_core.data.decode import as_stored, open_whole, read_label_png, to_rgb
from pixcon_core.data.folder_files import MASK_ENDINGS, FindInFolders, FolderSplit
from pixcon_core.data.labels import IGNORE_INDEX, Colour, IdTable, colours_to_ids
from pixcon_core.data.palette import bit_palette
from pixcon_core.data.spec import DatasetSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

FIELDS = ("name", "classes", "ignore", "colours", "splits")
SPLIT_FIELDS = tuple(field.name for field in fields(FolderSplit))


@dataclass(frozen=True)
class _ToTrainIds:
    """Translates masks of ids, and of colours where there are any."""

    name: str
    table: IdTable
    colours: Mapping[Colour, int]

    def __call__(self, raw: Shaped[np.ndarray, "height width *colour"]) -> UInt8[np.ndarray, "height width"]:
        if raw.ndim == 3 and self.colours:
            return colours_to_ids(raw, self.colours, self.name)
        return self.table(raw)


@dataclass(frozen=True)
class _ReadMask:
    """Reads masks that may be painted in the classes' colours.

    A palette image has both numbers and colours. Some programs keep ids in the numbers; those that make files smaller
    deal out numbers as they like, so that only the colours mean something.
    """

    to_train_ids: _ToTrainIds

    def __call__(self, path: Path) -> Shaped[np.ndarray, "height width *colour"]:
        image = open_whole(path.read_bytes())
        numbers = as_stored(image)
        if image.mode not in ("P", "1"):
            return numbers
        painted = np.asarray(to_rgb(image))
        by_colour, by_number = self._classes(painted), self._classes(numbers)
        if by_colour is None:
            return numbers
        if by_number is not None and (by_colour != by_number).any():
            raise ValueError(
                "the colours of its palette mean other classes than their numbers do; save it as RGB or as grey ids"
            )
        return painted

    def _classes(self, raw: Shaped[np.ndarray, "height width *colour"]) -> UInt8[np.ndarray, "height width"] | None:
        try:
            return self.to_train_ids(raw)
        except ValueError:
            return None


def load_folder_spec(path: Path) -> DatasetSpec:
    """Read a description of own data (see the module's example).

    Args:
        path: A .toml, .yaml or .yml file. Its folders are relative to the root that `find_pairs` is given;
            take the file's own folder unless the data lie elsewhere.

    Raises:
        ValueError: If the file is missing, does not parse, or says something that does not fit; the message
            lists all of it.
    """
    text = _parse(path)
    wrong = [
        f"there is no field {key!r}; there are {', '.join(FIELDS)}"
        + "; it is given below each split" * (key in SPLIT_FIELDS)
        for key in text
        if key not in FIELDS
    ]
    name = text.get("name", path.stem)
    if not isinstance(name, str):
        wrong.append(f"name must be a text, but is {name!r}")
    elif not _is_file_name(name):
        of_file = "" if "name" in text else ", after the file; give another one: name = ..."
        wrong.append(f"name must be printable, without / and \\, and not begin with a dot, but is {name!r}{of_file}")
    ids = _class_ids(text.get("classes"), wrong)
    ignored = text.get("ignore", [])
    if not (isinstance(ignored, list) and all(_is_id(i) for i in ignored)):
        wrong.append(f"ignore must be a list of ids in 0..255, but is {ignored!r}")
        ignored = []
    colours = _colours(text.get("colours"), len(ids), wrong)
    if isinstance(text.get("classes"), list) and all(len(set(colour)) == 1 for colour in colours):
        ids |= {name: level for name, (level, _, _) in zip(ids, colours, strict=False)}
    if both := sorted(set(ignored) & set(ids.values())):
        wrong.append(f"ids {both} are both ignored and of a class")
    splits = _splits(text.get("splits"), wrong)
    if wrong:
        raise ValueError(f"{path}: " + "; ".join(wrong) + '. An example is in the README under "Datasets".')
    train_ids = dict.fromkeys([*ignored, IGNORE_INDEX], IGNORE_INDEX)
    train_ids |= {raw: i for i, raw in enumerate(ids.values())}
    table = IdTable(name, train_ids, ", ".join(_said(raw, train_ids[raw]) for raw in sorted(train_ids)))
    to_train_ids = _ToTrainIds(name, table, {colour: i for i, colour in enumerate(colours)})
    return DatasetSpec(
        name=name,
        classes=tuple(ids),
        palette=colours or bit_palette(len(ids)),
        splits=tuple(splits),
        find_pairs=FindInFolders(name, splits),
        to_train_ids=to_train_ids,
        layout=f"a mask of the image's name in splits.{{split}}.masks, one of {' '.join(MASK_ENDINGS)}",
        read_label=_ReadMask(to_train_ids) if colours else read_label_png,
    )


def _said(raw: int, train_id: int) -> str:
    return f"{raw} (ignored)" if train_id == IGNORE_INDEX else str(raw)


def _parse(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise ValueError(f"{path}: a description of data ends in .toml, .yaml or .yml.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from error
    try:
        text = tomllib.loads(data.decode("utf-8-sig")) if path.suffix == ".toml" else yaml.safe_load(data)
    except (yaml.YAMLError, ValueError) as error:  # TOML's errors, and that of a date that is none, are ValueErrors
        raise ValueError(f"{path}: is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(text, dict):
        raise ValueError(f"{path}: must have fields {', '.join(FIELDS)}, but holds {text!r}.")
    return text


def _class_ids(classes: object, wrong: list[str]) -> dict[str, int]:
    """Return raw ids by class name; what is wrong is added to `wrong`."""
    names = list(classes) if isinstance(classes, (list, dict)) else []
    if len(names) < 2:
        wrong.append(f"classes must be two names or more, or a table of name = id, but is {classes!r}")
        return {}
    if not all(isinstance(name, str) for name in names):
        wrong.append(f"names of classes must be texts, but are {names}")
        return {}
    if odd := [name for name in names if not name.isprintable()]:  # no checkpoint would be loaded with such a name
        wrong.append(
            "names of classes must be of printable characters, without tabs, line breaks and special spaces, but"
            f" {odd[0]!r} is not"
        )
    if len(set(names)) < len(names):
        wrong.append(f"classes has a name twice: {names}")
    ids = classes if isinstance(classes, dict) else {name: i for i, name in enumerate(names)}
    if not all(_is_id(i) and i != IGNORE_INDEX for i in ids.values()):
        wrong.append(
            f"ids of classes must be numbers in 0..254, but are {list(ids.values())}; "
            "for black and white masks name the classes in a list and give their colours"
        )
        return {}
    if len(set(ids.values())) < len(ids):
        wrong.append(f"two classes have the same id: {ids}")
    return ids


def _colours(colours: object, count: int, wrong: list[str]) -> tuple[Colour, ...]:
    if colours is None:
        return ()
    if not (isinstance(colours, list) and all(_is_colour(c) for c in colours)):
        wrong.append(f"colours must be a list of [red, green, blue], each in 0..255, but is {colours!r}")
        return ()
    if count and len(colours) != count:
        wrong.append(f"there must be one colour for each class, but there are {len(colours)} for {count} classes")
    if len({tuple(c) for c in colours}) < len(colours):
        wrong.append("two classes have the same colour")
    return tuple((red, green, blue) for red, green, blue in colours)


def _splits(splits: object, wrong: list[str]) -> dict[str, FolderSplit]:
    if not isinstance(splits, dict) or not {"train", "val"} <= set(splits):
        wrong.append(f"there must be sections splits.train and splits.val, but splits is {splits!r}")
        return {}
    read = {}
    for name, split in splits.items():
        faults = len(wrong)
        if isinstance(name, str) and not _is_file_name(name):
            wrong.append(
                "splits must have names that are printable, without / and \\, and not begin with a dot, but one is"
                f" {name!r}"
            )
        section = split if isinstance(split, dict) else {}
        if not (isinstance(name, str) and all(isinstance(section.get(key), str) for key in ("images", "masks"))):
            wrong.append(f"splits.{name} must name the folders images and masks, but is {split!r}")
        for key, value in section.items():
            if key not in SPLIT_FIELDS:
                wrong.append(f"there is no field splits.{name}.{key}; there are {', '.join(SPLIT_FIELDS)}")
            elif key not in ("images", "masks") and not isinstance(value, str):
                wrong.append(f"splits.{name}.{key} must be a text, but is {value!r}")
            elif key in ("images", "masks") and "**" in str(value):
                wrong.append(f"splits.{name}.{key} must have one * for each level of folders, but is {value!r}")
        if len(wrong) > faults:
            continue
        read[name] = FolderSplit(**section)
        if read[name].shared and read[name].image_suffix == read[name].mask_suffix:
            wrong.append(
                f"splits.{name} has images and masks in one folder, {read[name].images!r}, so that image_suffix or"
                " mask_suffix must tell them apart"
            )
    return read


def _is_file_name(name: str) -> bool:
    """Return whether files and folders may begin with this name: those of shards and of runs do."""
    return name.isprintable() and bool(name) and not name.startswith(".") and not set("/\\") & set(name)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_colour(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_id, value))
