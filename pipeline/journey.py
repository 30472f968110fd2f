"""One run, station by station: data -> shards -> training -> evaluation -> result.

A station that has already done its work, in this run or an earlier one, is passed by: so a resumed run and a first one
are the same program.
"""

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import picture
from pipeline.evaluate import Evaluation, evaluate
from pipeline.fit import fit, wants_gpu
from pipeline.options import RESULT, Request, store
from pipeline.prepare import Shards, dataset_spec, find_all_pairs, prepare
from pipeline.progress import Bar, MetricsLog, Record, duration, follow, open_mailbox
from pipeline.session import ray_session
from pipeline.train import Job
from pixcon_core.config import RunConfig
from pixcon_core.data import DatasetSpec, Pair, make_miniature
from pixcon_core.models import check_model, fetch_pretrained, pretrained_source

NUM_EXAMPLES = 4


def run(request: Request) -> Path:
    """Do what the command line asks for and return the path of `result.json`.

    Raises:
        ValueError: If data and configuration do not go together, before anything long starts; or if training diverged.
        TrainingError: If workers failed and trying again did not help.
    """
    start, config = time.monotonic(), request.config
    if request.unfinished is not None and (request.unfinished / RESULT).exists():
        print(f"{request.unfinished} is finished already.")
        return _show(request.unfinished / RESULT)
    spec = dataset_spec(config.dataset)
    at_once = config.train.batch_size // config.train.accumulate
    check_model(config.model, config.ingest.crop, images_at_once=at_once)
    _check_classes(config, spec)
    pairs = find_all_pairs(spec, _data_root(spec, config, request.out))
    _check_counts(config, {split: len(listed) for split, listed in pairs.items()})
    fetch_pretrained(config.model)  # workers find them in the cache; without network it ends here

    folder = request.unfinished or _new_folder(request.out, spec.name)
    store(folder, request.preset, config)
    print(f"Run folder: {folder} (preset {request.preset})")
    with ray_session(folder / "logs"):
        use_gpu = wants_gpu(config.train)
        shards = _prepare(spec, pairs, config, request.out / "shards")
        _check_counts(config, {split: shards.splits[split].num_images for split in pairs})
        print(f"Backbone: {config.model.backbone}, {pretrained_source(config.model)}")
        checkpoint = _train(Job(config, shards), folder)
        evaluation = _evaluate(checkpoint, shards, use_gpu)
    picture.draw(evaluation.examples, shards.classes, shards.palette, folder / "predictions.png")
    return _show(_write_result(folder, config, shards, evaluation, time.monotonic() - start))


def _data_root(spec: DatasetSpec, config: RunConfig, out: Path) -> Path:
    """Return where the data set lies; a miniature is made if it is not there."""
    if spec.mini is None:
        if config.data_root is None and Path(config.dataset).suffix:
            return Path(config.dataset).parent
        if config.data_root is None:
            raise ValueError(
                f"data_root must be given for {spec.name}: the folder of its files (README, 'Datasets'). To try without"
                " data: --dataset mini-camvid."
            )
        return Path(config.data_root)
    root = Path(config.data_root) if config.data_root is not None else out / "data" / spec.name
    bar = Bar(f"Drawing {spec.name}", "image")
    make_miniature(spec.name, root, progress=bar.update)
    bar.close()
    return root


def _check_classes(config: RunConfig, spec: DatasetSpec) -> None:
    weights, classes = config.train.class_weights, spec.classes
    if not isinstance(weights, str) and len(weights) != len(classes):
        raise ValueError(
            f"train.class_weights must be one number for each of the {len(classes)} classes of {spec.name}, but got"
            f" {len(weights)}. For weights by how often a class occurs: --train.class_weights balanced."
        )


def _check_counts(config: RunConfig, counts: dict[str, int]) -> None:
    if config.train.batch_size > counts["train"]:
        raise ValueError(
            f"train.batch_size must be at most the number of training images ({counts['train']}), but got"
            f" {config.train.batch_size}."
        )


def _new_folder(out: Path, name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = out / f"{name}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if out.exists() and not out.is_dir():
                raise ValueError(f"--out: {out} is a file, not a folder.") from None
            continue
        except NotADirectoryError as error:
            raise ValueError(f"--out: {out} lies below a file.") from error
        return folder
    raise ValueError(f"--out: cannot make a new run folder in {out}.")


def _prepare(spec: DatasetSpec, pairs: dict[str, list[Pair]], config: RunConfig, out: Path) -> Shards:
    bar = Bar("Writing shards", "image")
    shards = prepare(spec, pairs, out, max_bad_share=config.ingest.max_bad_share, on_progress=bar.update)
    bar.close()
    for one in shards.skipped:
        print(f"Skipped {one.split}/{one.id}: {one.reason}")
    return shards


def _train(job: Job, folder: Path) -> Path:
    bar, log = Bar("Training", "step"), MetricsLog(folder)

    def on_record(record: Record) -> None:
        log.write(record)
        shown = {name: record[name] for name in ("loss", "contrast") if name in record}
        bar.update(record["step"], job.config.train.steps, **shown)

    mailbox = open_mailbox()
    try:
        with follow(mailbox, on_record):
            return fit(job, mailbox, folder)
    finally:
        bar.close()
        log.close()


def _evaluate(checkpoint: Path, shards: Shards, use_gpu: bool) -> Evaluation:
    bar = Bar("Evaluating", "image")
    evaluation = evaluate(
        checkpoint,
        shards,
        num_examples=NUM_EXAMPLES,
        use_gpu=use_gpu,
        on_progress=bar.update,
    )
    bar.close()
    return evaluation


def _write_result(folder: Path, config: RunConfig, shards: Shards, evaluation: Evaluation, seconds: float) -> Path:
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    scores = evaluation.scores
    result = {
        "dataset": shards.dataset,
        "split": "val",
        "void": "left out",
        "miou": _number(scores.miou),
        "per_class_iou": dict(zip(shards.classes, map(_number, scores.per_class_iou), strict=True)),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "mean_class_accuracy": _number(scores.mean_class_accuracy),
        "images": evaluation.num_images,
        "steps": config.train.steps,
        "seed": config.seed,
        "seconds": round(seconds, 1),
        "images_per_second": last["images_per_second"],
        "data_wait": last["data_wait"],
        "skipped": [one._asdict() for one in shards.skipped],
        "checkpoint": str(folder / "checkpoint"),
        "picture": str(folder / "predictions.png"),
    }
    file = folder / RESULT
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.rename(file)
    return file


def _number(value: float | None) -> float | None:
    """Return a number that JSON has: NaN is not one."""
    return None if value is None or math.isnan(value) else float(value)


def _show(file: Path) -> Path:
    """Print a result as a table."""
    result: dict[str, Any] = json.loads(file.read_text())
    width = max(14, *map(len, result["per_class_iou"]))
    print(f"\n{'class':<{width}}  IoU %\n{'-' * (width + 7)}")
    for name, iou in result["per_class_iou"].items():
        print(f"{name:<{width}}  {_percent(iou)}")
    print("-" * (width + 7))
    print(f"{'mIoU':<{width}}  {_percent(result['miou'])}")
    print(f"{'pixel accuracy':<{width}}  {_percent(result['pixel_accuracy'])}")
    print(
        f"\n{result['dataset']} {result['split']}, {result['images']} images, void left out;"
        f" {result['steps']} steps at {result['images_per_second']:.1f} images/s,"
        f" {100 * result['data_wait']:.1f} % of it waiting for data; {duration(result['seconds'])} in all"
    )
    if result["skipped"]:
        print(f"Skipped: {len(result['skipped'])} images, named in the result")
    folder = file.parent
    print(f"Checkpoint: {result['checkpoint']}\nPicture:    {result['picture']}")
    print(f"Metrics:    {folder / 'metrics.jsonl'}; tensorboard --logdir {folder / 'tensorboard'}")
    return file


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"
