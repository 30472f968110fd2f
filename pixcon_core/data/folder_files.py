"""Finds the images and masks of a user's own data: pairs them by name, takes suffixes off, keeps to lists of names."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from pixcon_core.data.spec import Pair, no_pairs, visible_files

IMAGE_ENDINGS: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_ENDINGS: tuple[str, ...] = (".png", ".tif", ".tiff", ".bmp")
NUM_NAMED = 5
"""So many listed names without an image are named."""


@dataclass(frozen=True)
class FolderSplit:
    """Where the files of a split lie, relative to the root, and which of the folders' files they are."""

    images: str
    """A folder, or many: each * stands for any name, which then is part of NAME."""
    masks: str
    """The same of masks."""
    image_suffix: str = ""
    """What the names of images end in, before the ending or with it; what is before it is NAME."""
    mask_suffix: str = ""
    """The same of masks."""
    list: str = ""
    """A text file with one NAME a line; empty for all of the folder."""

    @property
    def shared(self) -> bool:
        """Whether images and masks lie in one folder."""
        return Path(self.images) == Path(self.masks)


@dataclass(frozen=True)
class FindInFolders:
    """Finds the pairs of one's own data, as `DatasetSpec.find_pairs`; relative folders are looked up in the root."""

    name: str
    """Of the data set, for messages."""
    splits: Mapping[str, FolderSplit]

    def __call__(self, root: Path, split: str) -> list[Pair]:
        """Return the pairs of a split, each with NAME as its id.

        Raises:
            ValueError: If there is no such split, it has no image, none of its images has a mask, two of its files
                have one NAME, or its list cannot be read or names an image that is not there.
        """
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; there are {', '.join(self.splits)}.")
        where = self.splits[split]
        images, masks = root / where.images, root / where.masks
        found = self._by_name(root, "images", where)
        if not found:
            named = f"images {f'*{where.image_suffix} ' if where.image_suffix else ''}with one of the endings"
            expected = f"{named} {' '.join(IMAGE_ENDINGS)}"
            deeper = (path for path in visible_files(images, "**/*/*") if path.suffix.lower() in IMAGE_ENDINGS)
            if (one := next(deeper, None)) is not None:
                stars = "/*" * (len(one.relative_to(images).parts) - 1)
                expected += f"; its sub-folders have some, which splits.{split}.images = '{where.images}{stars}' takes"
            raise no_pairs(self.name, split, images, expected)
        labels = self._by_name(root, "masks", where)
        if where.list:
            found = self._listed(root / where.list, split, found, images)
        if not any(name in labels for name in found):
            raise self._no_masks(split, *min(found.items()), masks)
        return sorted(Pair(name, image, labels.get(name)) for name, image in found.items())

    def _by_name(self, root: Path, kind: str, where: FolderSplit) -> dict[str, Path]:
        folder, endings, suffix, other_suffix = where.images, IMAGE_ENDINGS, where.image_suffix, where.mask_suffix
        if kind == "masks":
            folder, endings, suffix, other_suffix = where.masks, MASK_ENDINGS, where.mask_suffix, where.image_suffix
        files: dict[str, Path] = {}
        for before, path in _files(root / folder):
            name, other = _before(suffix, path), _before(other_suffix, path)
            # In a folder that they share, a file is of the kind whose suffix says more about it.
            is_other = where.shared and other and (len(other), -len(other_suffix)) < (len(name), -len(suffix))
            if not name or is_other or path.suffix.lower() not in endings:
                continue
            name = before + name
            if name in files:
                raise ValueError(f"{self.name}: {path.parent} has two {kind} of the name {name!r}. Rename one of them.")
            files[name] = path
        return files

    def _listed(self, file: Path, split: str, found: Mapping[str, Path], images: Path) -> dict[str, Path]:
        try:
            lines = file.read_text("utf-8-sig").splitlines() if file.is_file() else []
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: {file} is not text in UTF-8, which a list of names must be.") from error
        listed = dict.fromkeys(line.strip() for line in lines if line.strip())
        if not listed:
            raise no_pairs(self.name, split, file, "a text file of the images' names, one a line")
        by_spelling = _by_spelling(found)
        names = {line: next(filter(None, map(by_spelling.get, _spellings(line))), None) for line in listed}
        if missing := [line for line, name in names.items() if name is None]:
            raise ValueError(
                f"{self.name}: {len(missing)} of the {len(names)} names in {file} have no image in {images}, such"
                f" as {', '.join(map(repr, missing[:NUM_NAMED]))}. Correct the list, or splits.{split}."
            )
        return {name: found[name] for name in names.values() if name is not None}

    def _no_masks(self, split: str, name: str, image: Path, masks: Path) -> ValueError:
        labels = [path for _, path in _files(masks) if path.suffix.lower() in MASK_ENDINGS]
        is_there = masks.is_dir() or "*" in str(masks)
        there = f"holds {min(labels).name}" if labels else "holds no masks" if is_there else "does not exist"
        return ValueError(
            f"{self.name}: no image of split {split!r} has a mask: {masks} {there}, but the mask of {image.name} is"
            f" {name}{self.splits[split].mask_suffix} with one of the endings {' '.join(MASK_ENDINGS)}. Rename the"
            f" masks, or correct splits.{split}.masks, or say what their names have more by splits.{split}.mask_suffix."
        )


def _before(suffix: str, path: Path) -> str:
    """Return what is before the suffix in a file's name, without the ending; nothing where it has no such suffix."""
    whole = next((whole for whole in (path.stem, path.name) if whole.endswith(suffix)), suffix)
    return whole.removesuffix(suffix)


def _files(folder: Path) -> list[tuple[str, Path]]:
    """List the files of a folder, or of all that its stars match, each with the names that these stand for."""
    first = next((i for i, part in enumerate(folder.parts) if "*" in part), len(folder.parts))
    base, parts = Path(*folder.parts[:first]), folder.parts[first:]
    found = []
    for path in sorted(visible_files(base, "/".join([*map(_only_stars, parts), "*"]))):
        names = [name for part, name in zip(parts, path.relative_to(base).parts, strict=False) if "*" in part]
        if not any(name.startswith(".") for name in names):
            found.append(("".join(f"{name}/" for name in names), path))
    return found


def _only_stars(part: str) -> str:
    """Return a pattern of which nothing but stars stands for something else."""
    return glob.escape(part).replace("[*]", "*")


def _by_spelling(found: Mapping[str, Path]) -> dict[str, str]:
    """Return names by what a list may call them: NAME or the file's name, without folders where that means one."""
    whole = {f"{name.rpartition('/')[0]}/{path.stem}".lstrip("/"): name for name, path in found.items()}
    whole |= {name: name for name in found}
    short: dict[str, set[str]] = {}
    for spelling, name in whole.items():
        short.setdefault(spelling.rpartition("/")[2], set()).add(name)
    return {spelling: min(names) for spelling, names in short.items() if len(names) == 1} | whole


def _spellings(line: str) -> list[str]:
    """Return what a line of a list may mean: without an image's ending, with all its folders, with fewer, with none."""
    path = PureWindowsPath(line)  # takes both kinds of slashes
    name = path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name
    return ["/".join([*path.parts[first:-1], name]) for first in range(len(path.parts))]
