"""Command line: train a segmentor with pixel contrast and evaluate it.

python -m pipeline.run                                         # built-in miniature data, some minutes
python -m pipeline.run --dataset camvid --data_root CamVid     # real data
python -m pipeline.run --contrast.temperature 0.07 --train.steps 1000
python -m pipeline.run --resume                                # go on with a run that was stopped
python -m pipeline.run --search                                # many short runs, to find better settings
python -m pipeline.run --dry_run                               # what a run would take; starts nothing
python -m pipeline.run --help                                  # all settings
"""

import sys
from collections.abc import Sequence

from pipeline.command import exit_codes
from pipeline.options import Request, parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run; end with code 2 for mistakes of the user, 1 for failures, 130 where it was stopped by hand."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped=" before anything was begun."):
        request = parse(given)
    for note in request.notes:
        print(f"note: {note}", file=sys.stderr)
    with exit_codes(
        stopped=f". The same command with --resume goes on from the last checkpoint in {request.out}.",
        again=f"Ray's logs are in the run folder in {request.out}; --resume goes on after a repair.",
    ):
        print(_result(request))


def _result(request: Request) -> object:
    """Do what is asked for; return what the last line says."""
    # Some seconds each: torch, Ray, timm, Optuna.
    if request.dry_run:
        from pipeline.estimating.estimate import estimate, format_estimate

        return format_estimate(estimate(request))
    if request.search is not None:
        from pipeline.search import search

        return search(request, request.search)
    from pipeline.journey import run

    return run(request)


if __name__ == "__main__":
    main()
