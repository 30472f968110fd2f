"""Command line: images -> label maps, overlays and, if asked for, probabilities.

python -m pipeline.predict --checkpoint runs/NAME/checkpoint --input photos --out predicted
python -m pipeline.predict --checkpoint runs/NAME/checkpoint --input 'photos/**/*.jpg' --out predicted --probabilities
python -m pipeline.predict --help

Light to import, so that `--help` and mistakes in flags are answered at once.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.command import check_folder, exit_codes, fail, parse_flags
from pipeline.evaluate_command import given_checkpoint, protocol_of
from pipeline.predicting.input_files import Input, check_inside, find_inputs
from pixcon_core.config import Device, EvaluateConfig

if TYPE_CHECKING:
    from pipeline.predicting.prediction import Output, Predicted

PROGRAM = "python -m pipeline.predict"
SUMMARY = "predictions.json"
NUM_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predict the class of every pixel of images, of any size."""

    checkpoint: Path
    """A checkpoint folder. Nothing else of its run is needed."""

    input: tuple[str, ...]
    """Folders, searched with their sub-folders; files; or patterns such as 'photos/**/*.jpg'."""

    out: Path
    """Folder for labels/, overlays/, probabilities/ and predictions.json; names and sub-folders are the input's."""

    overlay: bool = True
    """Write the image with the classes' colours over it."""

    probabilities: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the probabilities of all classes, float16 in a .npy of (class, height, width)."""

    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write over predictions that are in --out already."""

    num_workers: int | None = None
    """Processes that predict side by side. Without it, one for each GPU, or on CPUs one with all cores."""

    device: Device = "auto"
    """auto: on GPUs where the cluster has any."""

    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict; end with code 2 for mistakes of the user, 1 for failures. The last line is the summary's path.

    Images that cannot be read are named and counted, and the code is 0 all the same, unless none could.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped=". What was predicted lies in --out; --overwrite begins anew."):
        summary, num_predicted = run(_parse(given))
    print(summary)
    if not num_predicted:
        fail("no image could be read.", code=1)


def _parse(arguments: Sequence[str]) -> Options:
    checkpoint = given_checkpoint(arguments)
    if checkpoint is None or {"-h", "--help"} & {*arguments}:
        return parse_flags(Options, PROGRAM, arguments)
    missing = tyro.MISSING  # what has no default stays required
    default = Options(checkpoint=checkpoint, input=missing, out=missing, evaluate=protocol_of(checkpoint))
    return parse_flags(Options, PROGRAM, arguments, default)


def run(options: Options) -> tuple[Path, int]:
    """Do what the command line asks for; return the path of `predictions.json` and how many images were predicted.

    Raises:
        ValueError: If there are no images, the checkpoint is not one, or predictions would be written over.
        OSError: If something cannot be written.
    """
    inputs = find_inputs(options.input, options.out)
    from pipeline.predicting.prediction import new_output, predict_files, predict_files_here  # some seconds: torch
    from pipeline.predicting.predictor import count_workers, has_gpu, may_use_gpu, predicts_here
    from pipeline.progress import Bar

    output = new_output(options.out, options.checkpoint, overlay=options.overlay, probabilities=options.probabilities)
    _check_out(inputs, output, options.overwrite)
    bar, given = Bar("Predicting", "image"), (options.checkpoint, inputs, output, options.evaluate)
    try:
        if predicts_here(options.num_workers, use_gpu=may_use_gpu(options.device)):
            start = time.monotonic()
            found = predict_files_here(*given, bar.update)
        else:
            from pipeline.session import ray_session

            with ray_session():
                workers = count_workers(options.num_workers, use_gpu=has_gpu(options.device))
                start = time.monotonic()
                found = predict_files(*given, workers, bar.update)
    finally:
        bar.close()
    file = _write_summary(options, inputs, output, found, time.monotonic() - start)
    return file, sum(not one.reason for one in found)


def _check_out(inputs: Sequence[Input], output: "Output", overwrite: bool) -> None:
    """Refuse to write over files, or outside of --out, before anything is done.

    Raises:
        ValueError: If something would be.
    """
    targets = [output.file(kind, one.name) for kind in output.kinds for one in inputs]
    for folder in {target.parent for target in targets}:
        check_folder("--out", folder)
        check_inside(folder, output.folder)
    there = [target for target in (*targets, output.folder / SUMMARY) if target.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} other files" if len(there) > 1 else ""
        raise ValueError(f"--out: {there[0]}{more} would be written over. Give another --out, or --overwrite.")
    output.folder.mkdir(parents=True, exist_ok=True)


def _write_summary(
    options: Options, inputs: Sequence[Input], output: "Output", found: "Sequence[Predicted]", seconds: float
) -> Path:
    from pipeline.training.checkpoint import load_meta

    meta = load_meta(options.checkpoint)
    named = list(zip(inputs, found, strict=True))
    failed = [{"image": given.file, "reason": one.reason} for given, one in named if one.reason]
    predicted = [
        {"image": given.file, "name": given.name, "height": int(one.height), "width": int(one.width)}
        for given, one in named
        if not one.reason
    ]
    summary = {
        "checkpoint": str(options.checkpoint),
        "step": meta.step,
        "classes": meta.classes,
        "palette": meta.palette,
        "evaluate": dataclasses.asdict(options.evaluate),
        "kinds": output.kinds,
        "images": len(predicted),
        "failed": failed,
        "seconds": round(seconds, 1),
        "images_per_second": len(predicted) / seconds,
        "predictions": predicted,
    }
    file = output.folder / SUMMARY
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    temporary.rename(file)
    print(f"{len(predicted)} images in {seconds:.1f} s, {len(predicted) / seconds:.1f} images/s")
    if failed:
        print(f"Not read: {len(failed)} image{'s' * (len(failed) > 1)}")
        for one in failed[:NUM_NAMED]:
            print(f"  {one['image']}: {one['reason']}")
        if len(failed) > NUM_NAMED:
            print(f"  and {len(failed) - NUM_NAMED} more, all in {file}")
    return file


if __name__ == "__main__":
    main()
