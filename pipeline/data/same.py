"""Whether the data of a run folder are still those that it began with."""

import json
from pathlib import Path
from typing import Any

from pipeline.data.shards import Shards

DATA = "data.json"


def keep_to_data(folder: Path, shards: Shards, *, again: str) -> None:
    """Take down what data a folder's runs train on, or refuse to go on with others.

    Compared is what is in the data: files that were copied, touched or drawn again are the same.

    Args:
        folder: Of a run, a search, or a reproduction's data set; one of an earlier version, without such a note, takes
            what it gets.
        shards: The data.
        again: How the user begins anew.

    Raises:
        ValueError: If the folder was begun with others; the message says what is different.
    """
    file, now = folder / DATA, _describe(shards)
    try:
        then = json.loads(file.read_text())
        changes = [_change(name, then[name], now[name]) for name in now if then[name] != now[name]]
    except FileNotFoundError:
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(now, indent=1) + "\n")
        temporary.rename(file)
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} does not say what data {folder} was begun with ({error!r}). Remove it to go on all the same, or"
            f" begin anew: {again}."
        ) from error
    if changes:
        raise ValueError(
            f"{folder} was begun with other data of {shards.dataset} than there are now: {'; '.join(changes)}. Restore"
            f" the data to go on with it, or begin anew: {again}."
        )


def _describe(shards: Shards) -> dict[str, Any]:
    return {
        "images": {name: split.num_images for name, split in shards.splits.items()},
        "classes": list(shards.classes),
        "content": shards.content,
    }


def _change(name: str, then: Any, now: Any) -> str:
    if name == "images":
        counts = [" and ".join(f"{number} in {split}" for split, number in one.items()) for one in (then, now)]
        return f"{counts[0]} images then, {counts[1]} now"
    if name == "classes":
        return f"classes {', '.join(then)} then, {', '.join(now)} now"
    return f"content of images or labels {then[:12]} then, {now[:12]} now"
