"""One run, station by station: data -> shards -> training -> evaluation -> result.

A station that has already done its work, in this run or an earlier one, is passed by: so a resumed run and a first one
are the same program.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.cache import keep_decoded
from pipeline.data.checks import check_classes, check_counts, check_settings, find_prepared, missing_classes
from pipeline.data.same import keep_to_data
from pipeline.data.shards import Shards
from pipeline.data.skipping import load_skipped, skipped_line, store_skipped
from pipeline.data.sources import dataset_spec, find_all_pairs, find_root, fingerprint
from pipeline.evaluate import Evaluation, evaluate, save_evaluation
from pipeline.locking import held
from pipeline.options import RESULT, Request, store
from pipeline.predicting import picture
from pipeline.prepare import prepare_with_bar
from pipeline.progress import SKIPPED, Bar, MetricsLog, Record, duration, follow, load_records, open_mailbox
from pipeline.result import print_scores, score_fields
from pipeline.session import ray_session
from pipeline.train import Job
from pipeline.training.fit import fit, wants_gpu
from pixcon_core.config import RunConfig
from pixcon_core.data import DatasetSpec, Pair
from pixcon_core.models import fetch_pretrained, pretrained_source

NUM_EXAMPLES = 4
NUM_NAMED = 10
"""So many skipped images are named in the summary."""


class Source(NamedTuple):
    """Where the data of a run come from."""

    spec: DatasetSpec
    prepared: Shards | None
    """Shards that there are already."""
    pairs: dict[str, list[Pair]]
    """Else the raw files, by split."""


def run(request: Request) -> Path:
    """Do what the command line asks for and return the path of `result.json`.

    Raises:
        ValueError: If data and configuration do not go together, before anything long starts; if another command is in
            the run folder, or it was begun with other data; or if training diverged.
        TrainingError: If workers failed and trying again did not help.
    """
    start, config = time.monotonic(), request.config
    if request.unfinished is not None and (request.unfinished / RESULT).exists():
        print(f"{request.unfinished} is finished already.")
        return _show(request.unfinished / RESULT)
    source = find_data(config, request.out)
    fetch_pretrained(config.model)  # workers find them in the cache; without network it ends here

    folder = request.unfinished or new_folder(request.out, source.spec.name)
    with held(folder):
        store(folder, request.preset, config)
        print(f"Run folder: {folder} (preset {request.preset})")
        with ray_session(folder / "logs"):
            use_gpu = wants_gpu(config.train)
            shards = prepare_data(source, config, request.out)
            keep_to_data(folder, shards, again="leave out --resume")
            print(f"Backbone: {config.model.backbone}, {pretrained_source(config.model)}")
            cache = keep_decoded(shards, "train", config)
            checkpoint = _train(Job(config, shards, cache), folder)
            del cache  # and with it the images
            evaluation = _evaluate(checkpoint, shards, use_gpu)
        save_evaluation(evaluation, folder)
        picture.draw(evaluation.examples, shards.classes, shards.palette, folder / "predictions.png")
        return _show(write_result(folder, config, shards, evaluation, time.monotonic() - start))


def find_data(config: RunConfig, out: Path) -> Source:
    """Find the data set, and check all that can be checked before anything is started.

    Raises:
        ValueError: If data and configuration do not go together.
    """
    spec = dataset_spec(config.dataset)
    check_settings(config, spec)
    prepared = find_prepared(spec, config)
    if prepared is not None:
        check_counts(config, prepared.splits["train"].num_images)
        check_classes(prepared)
        return Source(spec, prepared, {})
    pairs = find_all_pairs(spec, find_root(spec, config.dataset, config.data_root, out))
    check_counts(config, len(pairs["train"]))
    return Source(spec, None, pairs)


def prepare_data(source: Source, config: RunConfig, out: Path) -> Shards:
    """Return the shards of a data set, written below `out` where there are none yet.

    Raises:
        ValueError: If too many images are unusable, or what is left does not do for training.
    """
    shards = source.prepared or _write(source, config, out)
    if note := missing_classes(shards):
        print(note)
    return shards


def _write(source: Source, config: RunConfig, out: Path) -> Shards:
    spec = source.spec
    folder = out / "shards" / f"{spec.name}-{fingerprint(spec, source.pairs)}"
    shards = prepare_with_bar(spec, source.pairs, str(folder), config.ingest.max_bad_share)
    for one in shards.skipped:
        print(skipped_line(one))
    check_counts(config, shards.splits["train"].num_images)
    return shards


def new_folder(out: Path, name: str) -> Path:
    """Make a run folder: name and time."""
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


def _train(job: Job, folder: Path) -> Path:
    bar = Bar("Training", "step")

    def on_record(record: Record) -> None:
        if SKIPPED in record:
            print(skipped_line(record[SKIPPED]))
            return
        shown = {name: record[name] for name in ("loss", "contrast") if name in record}
        bar.update(record["step"], job.config.train.steps, **shown)

    try:
        return train_logged(job, folder, on_record)
    finally:
        bar.close()


def train_logged(job: Job, folder: Path, on_record: Callable[[Record], None]) -> Path:
    """Train with Ray Train; write metrics and skipped images into the run folder, and pass them on.

    Returns:
        The final checkpoint.

    Raises:
        ValueError, TrainingError: As `pipeline.training.fit` does.
    """
    log = MetricsLog(folder)

    def write(record: Record) -> None:
        if SKIPPED in record:
            store_skipped(folder, record[SKIPPED])
        else:
            log.write(record)
        on_record(record)

    mailbox = open_mailbox(load_skipped(folder))
    try:
        with follow(mailbox, write):
            return fit(job, mailbox, folder)
    finally:
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
    for one in evaluation.skipped:
        print(skipped_line(one))
    return evaluation


def write_result(folder: Path, config: RunConfig, shards: Shards, evaluation: Evaluation, seconds: float) -> Path:
    """Write `result.json`; `seconds` is what the run took in all."""
    last = load_records(folder / "metrics.jsonl")[-1]
    result = {
        "dataset": shards.dataset,
        "split": "val",
        **score_fields(shards.classes, evaluation.scores),
        "images": evaluation.num_images,
        "steps": config.train.steps,
        "seed": config.seed,
        "seconds": round(seconds, 1),
        "images_per_second": last["images_per_second"],
        "data_wait": last["data_wait"],
        "skipped": [one._asdict() for one in (*shards.skipped, *load_skipped(folder), *evaluation.skipped)],
        "checkpoint": str(folder / "checkpoint"),
        "picture": str(folder / "predictions.png"),
    }
    file = folder / RESULT
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.rename(file)
    return file


def _show(file: Path) -> Path:
    """Print a result as a table."""
    result: dict[str, Any] = json.loads(file.read_text())
    print_scores(result)
    print(
        f"\n{result['dataset']} {result['split']}, {result['images']} images, void left out;"
        f" {result['steps']} steps at {result['images_per_second']:.1f} images/s,"
        f" {100 * result['data_wait']:.1f} % of it waiting for data; {duration(result['seconds'])} in all"
    )
    if result["skipped"]:
        print(f"Skipped: {len(result['skipped'])} images")
        for one in result["skipped"][:NUM_NAMED]:
            print(f"  {one['split']}/{one['id']}: {one['reason']}")
        if len(result["skipped"]) > NUM_NAMED:
            print(f"  and {len(result['skipped']) - NUM_NAMED} more, all in {file}")
    folder = file.parent
    print(f"Checkpoint: {result['checkpoint']}\nPicture:    {result['picture']}")
    print(f"Metrics:    {folder / 'metrics.jsonl'}; tensorboard --logdir {folder / 'tensorboard'}")
    return file
