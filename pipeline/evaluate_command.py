"""Command line: score a checkpoint on a split of a data set.

python -m pipeline.evaluate --checkpoint runs/NAME/checkpoint
python -m pipeline.evaluate --checkpoint runs/NAME/checkpoint --evaluate.scales 0.5 1 1.5 2 --evaluate.flip
python -m pipeline.evaluate --checkpoint runs/NAME/checkpoint --baseline runs/OTHER/checkpoint
python -m pipeline.evaluate --help

Light to import, so that `--help` and mistakes in flags are answered at once.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pipeline.command import check_folder, exit_codes, parse_flags
from pipeline.options import RESULT
from pixcon_core.config import Device, EvaluateConfig, RunConfig

if TYPE_CHECKING:
    from pipeline.data.shards import Shards
    from pipeline.evaluate import Evaluation

PROGRAM = "python -m pipeline.evaluate"
LEVEL = 0.95
Flags = TypeVar("Flags")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score a checkpoint: IoU, boundary IoU and accuracies at the labels' resolution, void left out."""

    checkpoint: Path
    """A checkpoint folder."""

    dataset: str | None = None
    """Data set by name, with the checkpoint's classes. Without it, the one that the checkpoint was trained on."""

    data_root: str | None = None
    """As for pipeline.run. Without it, and without --dataset, where the checkpoint's data lay."""

    split: str = "val"
    """Which of its splits."""

    out: Path | None = None
    """Folder for result.json and evaluation.npz. Without it, a new one in --runs."""

    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write over results that are in --out already."""

    baseline: Path | None = None
    """Another checkpoint, scored in the same way: by how much mIoU is above its, with a 95 % interval over images."""

    num_workers: int | None = None
    """Processes that predict side by side. Without it, one for each GPU, or on CPUs one with all cores."""

    device: Device = "auto"
    """auto: on GPUs where the cluster has any."""

    runs: Path = Path("runs")
    """Where pipeline.run keeps prepared data and miniature data: its --out."""

    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate; end with code 2 for mistakes of the user, 1 for failures. The last line is the path of result.json."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped="; nothing was written."):
        options = parse_flags(Options, PROGRAM, given, _defaults(given))
        print(run(options))


def protocol_of(checkpoint: Path) -> EvaluateConfig:
    """Return the protocol in a checkpoint's configuration.

    Raises:
        ValueError: If it is not a checkpoint.
    """
    from pipeline.training.checkpoint import load_meta  # some seconds: torch

    return load_meta(checkpoint).config.evaluate


def given_checkpoint(arguments: Sequence[str]) -> Path | None:
    """Return what --checkpoint says: its protocol is what the other flags start from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, nargs="?")
    found: Path | None = parser.parse_known_args(arguments)[0].checkpoint
    return found


def _defaults(arguments: Sequence[str]) -> Options | None:
    checkpoint = given_checkpoint(arguments)
    if checkpoint is None or {"-h", "--help"} & {*arguments}:
        return None
    return Options(checkpoint=checkpoint, evaluate=protocol_of(checkpoint))


def run(options: Options) -> Path:
    """Do what the command line asks for and return the path of `result.json`.

    Raises:
        ValueError: If checkpoints and data do not go together, or results would be written over.
        OSError: If results cannot be written.
    """
    from pipeline.data.sources import dataset_spec
    from pipeline.evaluate import STORED, check_classes, evaluate, save_evaluation
    from pipeline.journey import new_folder
    from pipeline.predicting.predictor import has_gpu, may_use_gpu, predicts_here
    from pipeline.progress import Bar
    from pipeline.session import ray_session
    from pipeline.training.checkpoint import load_meta, load_segmentor  # some seconds: torch, Ray

    check_folder("--runs", options.runs)
    if options.out is not None:
        check_folder("--out", options.out)
    if options.out is not None and not options.overwrite:
        there = [name for name in (RESULT, STORED) if (options.out / name).exists()]
        if there:
            raise ValueError(f"{options.out} has a {there[0]} already; --overwrite writes over it.")
    meta = load_meta(options.checkpoint)
    if options.baseline is not None:
        _check_baseline(options, meta.classes, load_meta(options.baseline).classes)
    spec = dataset_spec(options.dataset or meta.config.dataset)
    check_classes(options.checkpoint, meta.classes, spec.name, spec.classes)
    # Damaged weights are told before shards are written or images scored.
    loaded = {one: load_segmentor(one) for one in (options.checkpoint, options.baseline) if one is not None}
    is_here = predicts_here(options.num_workers, use_gpu=may_use_gpu(options.device))
    with contextlib.nullcontext() if is_here else ray_session():
        use_gpu = not is_here and has_gpu(options.device)
        shards = _find_shards(options, meta.config)

        def score(checkpoint: Path, what: str) -> "Evaluation":
            bar = Bar(what, "image")
            try:
                return evaluate(
                    checkpoint,
                    shards,
                    split=options.split,
                    protocol=options.evaluate,
                    use_gpu=use_gpu,
                    num_workers=options.num_workers,
                    loaded=loaded[checkpoint],
                    on_progress=bar.update,
                )
            finally:
                bar.close()

        start = time.monotonic()
        evaluation = score(options.checkpoint, "Evaluating")
        seconds = time.monotonic() - start
        baseline = None if options.baseline is None else score(options.baseline, "Evaluating the baseline")
    result = _result(options, shards, evaluation, seconds)
    if baseline is not None:
        result["baseline"] = _difference(options, evaluation, baseline)
    folder = options.out or new_folder(options.runs, f"evaluate-{shards.dataset}-{options.split}")
    folder.mkdir(parents=True, exist_ok=True)
    save_evaluation(evaluation, folder)
    file = folder / RESULT
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.rename(file)
    _show(result, folder)
    return file


def _check_baseline(options: Options, classes: tuple[str, ...], others: tuple[str, ...]) -> None:
    if classes != others:
        raise ValueError(
            f"--baseline: {options.baseline} is of {len(others)} classes, and {options.checkpoint} of {len(classes)}"
            " others; there is no difference to speak of."
        )


def _find_shards(options: Options, trained: RunConfig) -> "Shards":
    """Return the shards of the data set, which are written below `--runs` where there are none yet."""
    from pipeline.data.checks import find_prepared
    from pipeline.data.shards import INDEX, Shards
    from pipeline.data.sources import NEEDED_SPLITS, dataset_spec, find_all_pairs, find_root, fingerprint
    from pipeline.prepare import prepare_with_bar
    from pipeline.session import ray_session

    dataset = options.dataset or trained.dataset
    data_root = options.data_root or (trained.data_root if dataset == trained.dataset else None)
    config = dataclasses.replace(trained, dataset=dataset, data_root=data_root)
    spec = dataset_spec(dataset)
    prepared = find_prepared(spec, config, (options.split,))
    if prepared is not None:
        return prepared
    root = find_root(spec, dataset, data_root, options.runs)
    pairs = find_all_pairs(spec, root, (options.split,))

    def place(some: dict[str, Any]) -> Path:
        return options.runs / "shards" / f"{spec.name}-{fingerprint(spec, some)}"

    if options.split in NEEDED_SPLITS:  # a run may have written both
        try:
            of_a_run = place(find_all_pairs(spec, root))
        except ValueError:  # there is only this split
            of_a_run = place(pairs)
        if (of_a_run / INDEX).exists():
            return Shards.load(of_a_run)
    with ray_session():
        bad_share = trained.ingest.max_bad_share
        return prepare_with_bar(spec, pairs, str(place(pairs)), bad_share, for_training=False)


def _result(options: Options, shards: "Shards", evaluation: "Evaluation", seconds: float) -> dict[str, Any]:
    from pipeline.result import score_fields

    left_out = [one for one in shards.skipped if one.split == options.split]
    return {
        "checkpoint": str(options.checkpoint),
        "dataset": shards.dataset,
        "split": options.split,
        "evaluate": dataclasses.asdict(options.evaluate),
        **score_fields(shards.classes, evaluation.scores),
        "images": evaluation.num_images,
        "seconds": round(seconds, 1),
        "images_per_second": evaluation.num_images / seconds,
        "skipped": [one._asdict() for one in (*left_out, *evaluation.skipped)],
    }


def _difference(options: Options, evaluation: "Evaluation", baseline: "Evaluation") -> dict[str, Any]:
    from pixcon_core.metrics import paired_bootstrap

    if evaluation.images.ids != baseline.images.ids:
        raise ValueError("--baseline: the two checkpoints were not scored on the same images; some went bad meanwhile.")
    found = paired_bootstrap([baseline.images.counts], [evaluation.images.counts], level=LEVEL)
    return {
        "checkpoint": str(options.baseline),
        "miou": baseline.scores.miou,
        "difference": {**found._asdict(), "level": LEVEL, "over": "images"},
    }


def _show(result: dict[str, Any], folder: Path) -> None:
    from pipeline.evaluate import STORED
    from pipeline.progress import duration
    from pipeline.result import print_scores

    print_scores(result)
    protocol = ", ".join(f"{name} {_words(value)}" for name, value in result["evaluate"].items() if value is not None)
    print(
        f"\n{result['dataset']} {result['split']}, {result['images']} images, void left out; {protocol}\n"
        f"{duration(result['seconds'])} in all, {result['images_per_second']:.1f} images/s"
    )
    if "baseline" in result:
        of, difference = result["baseline"], result["baseline"]["difference"]
        points = {name: 100 * difference[name] for name in ("mean", "low", "high")}
        print(
            f"Baseline: mIoU {100 * of['miou']:.2f} % ({of['checkpoint']})\n"
            f"Difference: {points['mean']:+.2f} points, {100 * LEVEL:.0f} % interval over images"
            f" {points['low']:+.2f} to {points['high']:+.2f}"
        )
    for one in result["skipped"]:
        print(f"Skipped {one['split']}/{one['id']}: {one['reason']}")
    print(f"By image: {folder / STORED}")


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
