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

from pipeline.options import Request, fail, parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run; end with code 2 for mistakes of the user, 1 for failures, 130 where it was stopped by hand."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        request = parse(given)
    except ValueError as error:
        fail(error)
    for note in request.notes:
        print(f"note: {note}", file=sys.stderr)

    if request.dry_run:
        _print_estimate(request)
        return

    from pipeline.fit import TrainingError  # some seconds: torch, Ray, timm
    from pipeline.journey import run

    try:
        if request.search is None:
            result = run(request)
        else:
            from pipeline.search import search  # the same, and Optuna

            result = search(request, request.search)
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(error, code=1)
    except TrainingError as error:
        fail(f"{error} Ray's logs are in the run folder in {request.out}; --resume goes on after a repair.", code=1)
    except KeyboardInterrupt:
        fail(f"stopped. The same command with --resume goes on from the last checkpoint in {request.out}.", code=130)
    print(result)


def _print_estimate(request: Request) -> None:
    from pipeline.estimate import estimate, format_estimate  # some seconds, as above

    try:
        print(format_estimate(estimate(request)))
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(error, code=1)


if __name__ == "__main__":
    main()
