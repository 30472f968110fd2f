"""Station 6: what a folder holds -> one HTML page that explains it, by itself, without network or scripts.

folder.py       what lies in the folder of a run, a search or a reproduction
scores.py       figures by data set: headline, classes, confusion
curves.py       training curves
pictures.py     the images where contrast helped and hurt most
separation.py   features of pixels by class: how far apart, and as a map
trials.py       a search: its trials, history, importance of settings
plots.py        charts as SVG that takes the page's colours
page.py         all of it -> report.html

Also a command: `python -m pipeline.report FOLDER`.
"""

from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with the number of images predicted and of all."""


def write_report(folder: Path, *, progress: Progress | None = None) -> Path:
    """Write `report.html` into the folder of a run, a search or a reproduction.

    The same folder gives the same page again. It reads that folder, the search's that it names, and for pictures and
    maps the prepared images; what of these is missing is left out, and the page says so.

    Args:
        folder: As `pipeline.run`, `pipeline.run --search` or `pipeline.reproduce` leaves it, finished or not.
        progress: Called with the number of images predicted and of all.

    Returns:
        The page's path.

    Raises:
        ValueError: If the folder is none of these.
    """
    from pipeline.report.folder import read_folder
    from pipeline.report.page import render  # some seconds: scikit-learn, matplotlib, Optuna

    text = render(read_folder(folder), progress)
    file = folder / "report.html"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(file)
    return file


def try_report(folder: Path, *, progress: Progress | None = None) -> None:
    """Write the page at the end of longer work, which is not to fail because of it, and say where it is."""
    try:
        print(f"Page:  {write_report(folder, progress=progress)}")
    except Exception as error:  # whatever it is, what the page was to show is on disk
        print(f"note: no page: {error}. To try again: python -m pipeline.report {folder}")
