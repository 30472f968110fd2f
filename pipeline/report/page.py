"""The page: every section from what is there, each by itself, so that one that cannot be made costs no other."""

import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.data.shards import Shards
from pipeline.report import Progress
from pipeline.report.ablations import ablation
from pipeline.report.curves import curves
from pipeline.report.folder import CONTRAST, METHODS, Contents, Dataset, Run, find_shards
from pipeline.report.origin import changes, commands, facts, flat, run_row, unlike_preset, versions
from pipeline.report.pictures import BETTER, EACH, SAME, WORSE, Pictures, best_and_worst, data_uri, file_uri, hex_colour
from pipeline.report.plots import scatter_map
from pipeline.report.scores import (
    MANY_CLASSES,
    Classes,
    Confusion,
    class_table,
    confusion,
    headline,
    interval_chart,
    other_scores,
    training_speed,
)
from pipeline.report.separation import (
    MAX_IMAGES,
    MAX_PIXELS,
    Separation,
    maps_of,
    sample_pixels,
    separation,
)
from pipeline.report.text import percent, short, signed, spread
from pipeline.report.trial_charts import by_step, history, slices
from pipeline.report.trials import FEW_TRIALS, Search, about_search, read_search

PICTURE_WIDTH = 1100
T = TypeVar("T")


class Features(NamedTuple):
    """Features of pixels by class, of each method."""

    maps: dict[str, Markup]
    separation: dict[str, Separation]
    classes: list[str]
    of_classes: int
    pixels: int
    each: int
    images: int
    seed: int


class Part(NamedTuple):
    """The sections of a data set; those that there are not are None or empty."""

    name: str
    methods: list[str]
    notes: list[str]
    scores: list[tuple[str, dict[str, float]]]
    classes: Classes | None
    confusion: Confusion | None
    heat_picture: str
    """Of many classes, instead of a table."""
    curves: list[Markup]
    pictures: Pictures | None
    predictions: tuple[str, int, int] | None
    features: Features | None
    speed: dict[str, float]
    """Images trained per second, by method."""


def render(contents: Contents, progress: Progress | None = None) -> str:
    """Return the page of what a folder holds."""
    there = [one for one in contents.datasets if one.methods]
    count = _Counter(progress, len(there))
    parts = [_part(contents, one, count) for one in there]
    headlines = [headline(one) for one in there]
    is_comparison = contents.kind == "reproduce"
    search, search_note = _search(contents)
    runs = [run for one in contents.datasets for run in one.runs]
    first = next((run for run in sorted(runs, key=lambda run: run.method != CONTRAST) if run.settings), None)
    settings = {} if first is None else first.settings
    found_versions, versions_caption = versions(contents)
    ablations = [ablation(one) for one in contents.ablations]
    titles = [
        *([("result", "Result")] if headlines or (is_comparison and not ablations) else []),
        *([("settings", "Settings")] if settings else []),
        *((f"data-{place}", one.name) for place, one in enumerate(parts, start=1)),
        *([("search", "Search")] if search or search_note else []),
        *([("ablations", "Ablations")] if ablations else []),
        ("origin", "Runs, versions and commands"),
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title={
                "reproduce": "Pixel contrast against cross-entropy alone",
                "search": "Search for settings of pixel contrast",
                "run": f"Run on {contents.datasets[0].name}" if contents.datasets else "Run",
            }[contents.kind],
            subtitle=contents.folder.resolve().name,
            folder=contents.folder.resolve().name,
            style=Markup(_environment().get_template("style.css").render()),
            kind=contents.kind,
            contents=titles,
            is_comparison=is_comparison,
            headlines=headlines,
            interval_chart=interval_chart(headlines),
            left_out=_without_stand_in(contents),
            absent=_absent(contents),
            methods=[method for method in METHODS if any(method in one.methods for one in there)],
            facts=facts(contents),
            changes=changes(contents),
            unlike_preset=[] if first is None else unlike_preset(first),
            settings=sorted(flat(settings).items()),
            datasets=parts,
            change_colours=[hex_colour(one) for one in (BETTER, WORSE, SAME)],
            search=search,
            search_note=search_note,
            **(about_search(search) if search else {}),
            history=[one for one in (history(search.trials), by_step(search.trials)) if one] if search else [],
            slices=slices(search) if search else [],
            few_trials=FEW_TRIALS,
            ablations=ablations,
            commands=commands(contents, search),
            runs=[run_row(contents, one.name, run) for one in contents.datasets for run in one.runs],
            versions=found_versions,
            versions_caption=versions_caption,
        )
    )


def _absent(contents: Contents) -> list[tuple[str, list[str]]]:
    """Return why real data sets are not there, each reason once, with the miniatures that stand in."""
    reasons: dict[str, list[str]] = {}
    for one in contents.datasets:
        if one.absent:
            reasons.setdefault(one.absent, []).append(one.name)
    return list(reasons.items())


class _Counter:
    """Adds up the images that the parts of a page predict."""

    def __init__(self, progress: Progress | None, datasets: int) -> None:
        self._progress, self._before = progress, 0
        self._total = datasets * (2 * EACH + MAX_IMAGES)

    def part(self, planned: int) -> Progress:
        """Return what a part is to call that is planned to predict so many images."""
        before, self._before = self._before, self._before + planned

        def on_progress(done: int, total: int) -> None:
            if self._progress:
                self._progress(before + round(planned * done / max(1, total)), self._total)

        return on_progress


def _without_stand_in(contents: Contents) -> dict[str, str]:
    """Return the data sets that were left out, and why; of those whose miniature stands in, that part says it."""
    there = {one.name for one in contents.datasets}
    return {name: why for name, why in contents.left_out.items() if f"mini-{name}" not in there}


def _part(contents: Contents, dataset: Dataset, count: _Counter) -> Part:
    notes: list[str] = []
    shards = _attempt("Images and features", notes, lambda: find_shards(contents, dataset))
    colours = (
        {name: hex_colour(rgb) for name, rgb in zip(shards.classes, shards.palette, strict=True)} if shards else {}
    )
    confused = _attempt("Confusion", notes, lambda: confusion(dataset))
    is_large = confused is not None and len(confused.names) > MANY_CLASSES
    pair = next(iter(dataset.pairs()), None)
    on_picture, on_features = count.part(2 * EACH), count.part(MAX_IMAGES)
    pictures = features = None
    if shards and pair:
        pictures = _attempt("Images", notes, lambda: best_and_worst(*pair, shards, on_picture))
    shown = list(pair) if pair else [dataset.finished(method)[0] for method in dataset.methods]
    if shards:
        features = _attempt("Features", notes, lambda: _features(shown, shards, on_features))
    picture = shown[0].folder / "predictions.png"
    return Part(
        dataset.name,
        dataset.methods,
        notes,
        other_scores(dataset),
        _attempt("IoU by class", notes, lambda: class_table(dataset, colours)),
        confused,
        _heat_picture(confused) if confused is not None and is_large else "",
        _attempt("Training curves", notes, lambda: curves(dataset)) or [],
        pictures,
        _attempt("Predictions", notes, lambda: file_uri(picture, PICTURE_WIDTH))
        if pictures is None and picture.exists()
        else None,
        features,
        training_speed(dataset),
    )


def _attempt(what: str, notes: list[str], make: Callable[[], T]) -> T | None:
    """Return what a section is made of; None, and a note for the reader, where it cannot be made."""
    try:
        return make()
    except Exception as error:  # whatever it is: hours of training are behind it, and the rest of the page is good
        if not isinstance(error, ValueError | OSError):
            traceback.print_exc(file=sys.stderr)
        reason = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"{what}: left out, because {reason.rstrip('.')}.")
        return None


def _features(runs: list[Run], shards: Shards, on_progress: Progress) -> Features:
    missing = [run.folder.name for run in runs if run.checkpoint is None]
    if missing:
        raise ValueError(f"the checkpoint of {', '.join(missing)} is no longer there")
    sample = sample_pixels([run.checkpoint for run in runs if run.checkpoint], shards, on_progress=on_progress)
    used = sorted({int(i) for i in sample.labels})
    names = {i: shards.classes[i] for i in used}
    palette = {i: hex_colour(shards.palette[i]) for i in used}
    found = {run.method: separation(one, sample.labels) for run, one in zip(runs, sample.features, strict=True)}
    maps = {
        run.method: scatter_map(
            f"Map by t-SNE of features of {len(sample.labels)} pixels, {run.method}: silhouette"
            f" {found[run.method].silhouette:.2f}. Classes: {', '.join(names.values())}.",
            places,
            sample.labels,
            names,
            palette,
        )
        for run, places in zip(runs, maps_of(sample.features), strict=True)
    }
    return Features(
        maps,
        found,
        list(names.values()),
        sum(count > 0 for count in shards.splits["val"].class_pixels),
        len(sample.labels),
        max(2, MAX_PIXELS // len(used)),
        sample.images,
        runs[0].seed,
    )


def _heat_picture(confused: Confusion) -> str:
    shares = np.nan_to_num(confused.shares)
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = 60, 145, 215  # to be seen on light and dark
    pixels[..., 3] = np.round(255 * shares**0.5)
    return data_uri(Image.fromarray(pixels), "PNG")


def _search(contents: Contents) -> tuple[Search | None, str]:
    notes: list[str] = []
    folder = contents.search
    if folder is not None:
        found = _attempt("The search", notes, lambda: read_search(folder))
        return found, " ".join(notes)
    missing = contents.search_missing
    return None, f"The search's folder, {missing}, is no longer there." if missing else ""


def _environment() -> jinja2.Environment:
    """Return the templates. Names of classes, images and paths are others' text: all is escaped that is not ours."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "short": short,
        "spread": spread,
        "width": lambda value: f"{100 * (value or 0):.1f}",
        "cell": lambda share: "" if share < 0.005 else percent(share, 0),
    }
    return environment
