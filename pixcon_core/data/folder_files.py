"""Finds the images and masks of a user's own data: pairs them by name, takes suffixes off, keeps to lists of names."""

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
    masks: str
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
        found = self._by_name(images, "images", where)
        if not found:
            named = f"images {f'*{where.image_suffix} ' if where.image_suffix else ''}with one of the endings"
            raise no_pairs(self.name, split, images, f"{named} {' '.join(IMAGE_ENDINGS)}")
        labels = self._by_name(masks, "masks", where)
        if where.list:
            found = self._listed(root / where.list, split, found, images)
        if not any(name in labels for name in found):
            raise self._no_masks(split, *min(found.items()), masks)
        return sorted(Pair(name, image, labels.get(name)) for name, image in found.items())

    def _by_name(self, folder: Path, kind: str, where: FolderSplit) -> dict[str, Path]:
        endings, suffix, other_suffix = IMAGE_ENDINGS, where.image_suffix, where.mask_suffix
        if kind == "masks":
            endings, suffix, other_suffix = MASK_ENDINGS, where.mask_suffix, where.image_suffix
        files: dict[str, Path] = {}
        for path in sorted(visible_files(folder, "*")):
            name, other = _before(suffix, path), _before(other_suffix, path)
            # In a folder that they share, a file is of the kind whose suffix says more about it.
            is_other = where.shared and other and (len(other), -len(other_suffix)) < (len(name), -len(suffix))
            if not name or is_other or path.suffix.lower() not in endings:
                continue
            if name in files:
                raise ValueError(f"{self.name}: {folder} has two {kind} of the name {name!r}. Rename one of them.")
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
        by_spelling = {path.stem: name for name, path in found.items()} | {name: name for name in found}
        names = {line: by_spelling.get(_without_ending(line)) for line in listed}
        if missing := [line for line, name in names.items() if name is None]:
            raise ValueError(
                f"{self.name}: {len(missing)} of the {len(names)} names in {file} have no image in {images}, such"
                f" as {', '.join(map(repr, missing[:NUM_NAMED]))}. Correct the list, or splits.{split}."
            )
        return {name: found[name] for name in names.values() if name is not None}

    def _no_masks(self, split: str, name: str, image: Path, masks: Path) -> ValueError:
        labels = [p for p in visible_files(masks, "*") if p.suffix.lower() in MASK_ENDINGS]
        there = f"holds {min(labels).name}" if labels else "holds no masks" if masks.is_dir() else "does not exist"
        return ValueError(
            f"{self.name}: no image of split {split!r} has a mask: {masks} {there}, but the mask of {image.name} is"
            f" {name}{self.splits[split].mask_suffix} with one of the endings {' '.join(MASK_ENDINGS)}. Rename the"
            f" masks, or correct splits.{split}.masks, or say what their names have more by splits.{split}.mask_suffix."
        )


def _before(suffix: str, path: Path) -> str:
    """Return what is before the suffix in a file's name, without the ending; nothing where it has no such suffix."""
    whole = next((whole for whole in (path.stem, path.name) if whole.endswith(suffix)), suffix)
    return whole.removesuffix(suffix)


def _without_ending(line: str) -> str:
    """Return the name in a line of a list, without folders, be they of Windows, and without an image's ending."""
    path = PureWindowsPath(line)
    return path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name
