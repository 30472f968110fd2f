"""Numbers and values as a person reads them."""

import statistics
from collections.abc import Iterable, Mapping

NONE = "\N{EN DASH}"
"""Stands where there is no value."""
NARROW = 0.003
"""Intervals of shares narrower than this have one digit more."""


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent."""
    return NONE if value is None or value != value else f"{100 * value:.{digits}f}"


def digits_of(interval: Mapping[str, float] | None) -> int:
    """Return how many digits after the point, of per cent, tell the ends of an interval from each other and from 0."""
    return 1 if interval is None or interval["high"] - interval["low"] >= NARROW else 2


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares as points, with its sign."""
    if value is None or value != value:
        return NONE
    text = f"{100 * value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text[1:] if float(text[1:]) == 0 else text


def spread(values: Iterable[float]) -> str:
    """Return the mean of shares as per cent, and of several their standard deviation."""
    found = list(values)
    if len(found) < 2:
        return percent(found[0]) if found else NONE
    return f"{percent(statistics.fmean(found))} ± {percent(statistics.stdev(found))}"


def short(value: object) -> str:
    """Return a setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: object) -> str:
    """Return a value of JSON."""
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(
                f"mIoU {percent(one)} %" if name == "miou" else f"{name} {plain(one)}" for name, one in value.items()
            )
        case list() | tuple():
            return ", ".join(map(plain, value))
        case None:
            return NONE
    return short(value)
