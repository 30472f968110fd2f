"""Command line: turn a search into evidence.

python -m pipeline.reproduce --trial best                   # the newest search's best, on every data set that is there
python -m pipeline.reproduce --trial best --data DATA       # DATA/cityscapes, DATA/camvid, ...
python -m pipeline.reproduce --trial 7 --seeds 5            # another trial; more seeds
python -m pipeline.reproduce --trial runs/camvid-...        # the settings of a run
python -m pipeline.reproduce --trial best --ablation memory # the paper's tables
python -m pipeline.reproduce --help                         # all settings

The same command again goes on where it was stopped.
"""

import sys
from collections.abc import Sequence

from pipeline.command import exit_codes
from pipeline.reproducing.options import parse_reproduce


def main(arguments: Sequence[str] | None = None) -> None:
    """Reproduce; end with code 2 for mistakes of the user, 1 for failures, 130 where it was stopped by hand."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped=" before anything was begun."):
        options = parse_reproduce(given)
    with exit_codes(
        stopped=f". The same command goes on where it was, in {options.out}.",
        again="The same command tries those again that failed.",
    ):
        from pipeline.reproducing.reproduction import reproduce  # some seconds: torch, Ray, timm

        result = reproduce(options, given)
    if result is not None:
        print(result)


if __name__ == "__main__":
    main()
