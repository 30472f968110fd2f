"""The page: every section from what is there, each by itself, so that one that cannot be made costs no other."""

import importlib.metadata
import platform
import shlex
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.progress import duration
from pipeline.report.curves import curves
from pipeline.report.folder import METHODS, Contents, Dataset, Run, find_shards, read_folder
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
    points,
    signed,
)
from pipeline.report.separation import (
    FROM_EACH,
    MAX_IMAGES,
    MAX_PIXELS,
    Separation,
    map_of,
    sample_pixels,
    separation,
)
from pipeline.report.trials import FEW_TRIALS, Search, read_search
from pipeline.shards import Shards
from pixcon_core.config import RunConfig, flatten, override
from pixcon_core.presets import PRESETS

PAGE = "report.html"
PICTURE_WIDTH = 1100
PACKAGES = ("pixcon", "torch", "timm", "ray", "optuna", "numpy")
Progress = Callable[[int, int], None]
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
    contents = read_folder(folder)
    text = render(contents, progress)
    file = folder / PAGE
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(file)
    return file


def render(contents: Contents, progress: Progress | None = None) -> str:
    """Return the page of what a folder holds."""
    there = [one for one in contents.datasets if one.methods]
    count = _Counter(progress, len(there))
    parts = [_part(contents, one, count) for one in there]
    shortened = bool(contents.facts.get("shortened"))
    headlines = [headline(one, shortened=shortened) for one in there]
    is_comparison = contents.kind == "reproduce"
    search, search_note = _search(contents)
    runs = [run for one in contents.datasets for run in one.runs]
    settings = next((run.settings for run in reversed(runs) if run.settings), {})
    commands = _commands(contents, search)
    versions, versions_caption = _versions(contents)
    ablations = [_ablation(one) for one in contents.ablations]
    titles = [
        *([("result", "Result")] if headlines or is_comparison else []),
        *([("settings", "Settings")] if settings else []),
        *((f"data-{place}", one.name) for place, one in enumerate(parts, start=1)),
        *([("search", "Search")] if search or search_note else []),
        *([("ablations", "Ablations")] if ablations else []),
        ("origin", "Runs, versions and commands"),
    ]
    return _environment().get_template("page.html").render(
        title={
            "reproduce": "Pixel contrast against cross-entropy alone",
            "search": "Search for settings of pixel contrast",
            "run": f"Run on {contents.datasets[0].name}" if contents.datasets else "Run",
        }[contents.kind],
        subtitle=contents.folder.resolve().name,
        folder=contents.folder.resolve().name,
        style=Markup(_environment().get_template("style.css").render()),  # noqa: S704
        kind=contents.kind,
        contents=titles,
        is_comparison=is_comparison,
        headlines=headlines,
        interval_chart=interval_chart(headlines),
        absent=[one for one in contents.datasets if one.absent],
        methods=[method for method in METHODS if any(method in one.methods for one in there)],
        facts=_facts(contents),
        changes=_changes(contents, settings),
        settings=sorted(_flat(settings).items()),
        datasets=parts,
        change_colours=[hex_colour(one) for one in (BETTER, WORSE, SAME)],
        search=search,
        search_note=search_note,
        **_about_search(search),
        few_trials=FEW_TRIALS,
        ablations=ablations,
        commands=commands,
        runs=[_run_row(contents, one.name, run) for one in contents.datasets for run in one.runs],
        versions=versions,
        versions_caption=versions_caption,
    )


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


def _part(contents: Contents, dataset: Dataset, count: _Counter) -> Part:
    notes: list[str] = []
    shards = _attempt("Images and features", notes, lambda: find_shards(contents, dataset))
    colours = {name: hex_colour(rgb) for name, rgb in zip(shards.classes, shards.palette, strict=True)} if shards else {}
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
        file_uri(picture, PICTURE_WIDTH) if pictures is None and picture.exists() else None,
        features,
    )


def _attempt(what: str, notes: list[str], make: Callable[[], T]) -> T | None:
    """Return what a section is made of; None, and a note for the reader, where it cannot be made."""
    try:
        return make()
    except Exception as error:  # whatever it is: hours of training are behind it, and the rest of the page is good
        if not isinstance(error, ValueError | OSError):
            traceback.print_exc(file=sys.stderr)
        reason = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"{what}: left out. {reason[0].upper()}{reason[1:].rstrip('.')}.")
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
            map_of(one),
            sample.labels,
            names,
            palette,
        )
        for run, one in zip(runs, sample.features, strict=True)
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


def _about_search(search: Search | None) -> dict[str, Any]:
    if search is None:
        return {}
    found = search.best
    columns = [(name, found[name]) for name in ("best", "start", "baseline") if found.get(name)]
    start = found.get("start_values") or {}
    without = [name for name in start if name.startswith("contrast.") and name != "contrast.weight"]
    rows: list[tuple[str, list[str]]] = [("trial", [str(one["number"]) for _, one in columns])]
    for name, value in start.items():
        cells = [
            "–" if column == "baseline" and name in without else short(one["changes"].get(name, value))
            for column, one in columns
        ]
        rows.append((name, cells))
    rows.append(("state", [one["state"] for _, one in columns]))
    rows.append(("val mIoU, %", [percent(one["miou"]) for _, one in columns]))
    gain, sentence = found.get("improvement"), ""
    if gain is not None:
        sentence = f"The best trial is {signed(gain)} points of mIoU above the one without contrast, of one seed each."
    elif found.get("best") is None:
        sentence = "No trial with contrast has come to its end."
    counts = ", ".join(f"{count} {state}" for state, count in (found.get("trials") or {}).items() if count)
    facts = [
        f"Trials: {counts}" if counts else "",
        f"{found['trial_steps']} steps each" if "trial_steps" in found else "",
        f"scored on {found['val_images']}" if "val_images" in found else "",
        f"{duration(found['seconds'])} in all" if "seconds" in found else "",
        f"early stopping saved {duration(3600 * found['trial_hours_saved'])} of trials" if "trial_hours_saved" in found
        else "",
    ]
    return {
        "search_sentence": sentence,
        "search_facts": "; ".join(filter(None, facts)) + ".",
        "search_columns": [column for column, _ in columns],
        "search_rows": rows if columns else [],
        "best_trial": (found.get("best") or {}).get("number"),
        "has_reasons": any(one.reason for one in search.trials),
    }


def _ablation(stored: dict[str, Any]) -> dict[str, Any]:
    seeds = [str(seed) for seed in stored.get("seeds") or ()]
    listed = [row for row in stored.get("rows") or () if isinstance(row, dict)]
    best = max((row["mean"] for row in listed if row.get("mean") is not None), default=None)
    rows = []
    for row in listed:
        mean, std = row.get("mean"), row.get("std")
        changes = row.get("changes") or {}
        rows.append(
            {
                "label": row.get("label", ""),
                "changes": ", ".join(f"{name} {short(value)}" for name, value in changes.items())
                if isinstance(changes, dict)
                else str(changes),
                "mean": mean,
                "text": percent(mean) + (f" ± {points(std)}" if std is not None and len(seeds) > 1 else ""),
                "by_seed": list(row.get("miou") or ()),
                "is_best": mean is not None and mean == best,
            }
        )
    spread = ", mean and standard deviation over seeds" if len(seeds) > 1 else ", of one seed"
    name, dataset = stored.get("ablation", ""), stored.get("dataset", "")
    return {
        "title": f"{name} on {dataset}",
        "caption": f"mIoU in %{spread}; bars are out of 100 %.",
        "seeds": seeds,
        "rows": rows,
    }


def _facts(contents: Contents) -> list[tuple[str, str]]:
    facts = contents.facts
    names = ("preset", "trial", "search", "seeds", "steps", "shortened")
    found = [(name, facts[name]) for name in names if facts.get(name) not in (None, "", [], {})]
    return [(name, _plain(value)) for name, value in found]


def _plain(value: object) -> str:
    """Return a value of JSON as a person reads it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(map(_plain, value))
        case None:
            return "–"
    return short(value)


def _changes(contents: Contents, settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that a reproduction says it changed; of a run, those that its preset has otherwise."""
    stated = contents.facts.get("changes")
    if isinstance(stated, dict):
        return [(name, _plain(value)) for name, value in stated.items()]
    preset = PRESETS.get(str(contents.facts.get("preset")))
    if preset is None or not settings:
        return []
    try:
        wanted, given = flatten(override(RunConfig(), settings)), flatten(preset)
    except ValueError:  # written by another version
        return []
    return [(name, _plain(wanted[name])) for name in wanted if wanted[name] != given[name]]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": _plain(value)}
    return found


def _commands(contents: Contents, search: Search | None) -> list[tuple[str, str]]:
    folder = shlex.quote(str(contents.folder))
    commands = []
    if contents.facts.get("command"):
        commands.append(("All of this again:", str(contents.facts["command"])))
    if search is not None and search.best.get("command"):
        commands.append(("The best trial's settings, trained again as one run:", str(search.best["command"])))
    if contents.search is not None:
        study = shlex.quote(str(contents.search / "study.db"))
        commands.append(("The study of the search, to explore:", f"optuna-dashboard sqlite:///{study}"))
    if contents.kind != "search":
        commands.append(("Losses by step:", f"tensorboard --logdir {folder}"))
    commands.append(("This page again:", f"python -m pipeline.report {folder}"))
    return commands


def _run_row(contents: Contents, dataset: str, run: Run) -> list[str]:
    result = run.result or {}
    rate = result.get("images_per_second")
    seconds = result.get("seconds")
    inside = run.folder.resolve().is_relative_to(contents.folder.resolve())
    place = run.folder.resolve().relative_to(contents.folder.resolve()) if inside else run.folder
    return [
        dataset,
        run.method,
        str(run.seed),
        run.state,
        percent(result.get("miou")),
        str(result.get("steps", "–")),
        "–" if seconds is None else f"{seconds / 60:.1f}",
        "–" if rate is None else f"{rate:.1f}",
        str(len(result["skipped"])) if "skipped" in result else "–",
        contents.folder.resolve().name if str(place) == "." else str(place),
    ]


def _versions(contents: Contents) -> tuple[list[tuple[str, str]], str]:
    stated = contents.facts.get("versions")
    if isinstance(stated, dict) and stated:
        return [(str(name), _plain(value)) for name, value in stated.items()], "Versions that the runs were made with"
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return found, "Versions that this page was made with"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def short(value: object) -> str:
    """Return a setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spread(values: Iterable[float]) -> str:
    found = list(values)
    if not found:
        return "–"
    mean = percent(statistics.fmean(found))
    return f"{mean} ± {points(statistics.stdev(found))}" if len(found) > 1 else mean


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
        "signed": lambda value: "–" if value is None else signed(value),
        "short": short,
        "spread": _spread,
        "width": lambda value: f"{100 * (value or 0):.1f}",
        "cell": lambda share: "–" if share != share else f"{100 * share:.0f}" if share >= 0.005 else "",
    }
    return environment


