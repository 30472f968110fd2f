"""Command line: write `report.html` into the folder of a run, a search or a reproduction.

python -m pipeline.report runs/reproduce-trial5-20260101-120000
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.command import exit_codes, parse_flags


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one page, report.html, that says what the folder of a run, a search or a reproduction holds."""

    folder: tyro.conf.Positional[Path]
    """As pipeline.run, pipeline.run --search or pipeline.reproduce leaves it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write; end with code 2 for mistakes of the user, 1 for failures."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped="; no page was written."):
        options = parse_flags(ReportOptions, "python -m pipeline.report", given)
        if not options.folder.is_dir():
            raise ValueError(f"FOLDER: there is no folder {options.folder}.")
        from pipeline.progress import Bar  # some seconds: Ray
        from pipeline.report import write_report

        bar = Bar("Report", "image")
        try:
            file = write_report(options.folder, progress=bar.update)
        finally:
            bar.close()
    print(file)


if __name__ == "__main__":
    main()
