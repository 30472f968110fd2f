"""A search space by name, checked against the configuration before anything starts."""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

import tune_spaces
from pixcon_core.config import RunConfig
from pixcon_core.override import flatten, override, unflatten

Space = Mapping[str, BaseDistribution]


def load_space(name: str, config: RunConfig) -> Space:
    """Return the space that `tune_spaces` has by a name.

    Args:
        name: Of a module there.
        config: What the search starts from; each setting's starting value must lie in the space.

    Raises:
        ValueError: If there is no such space, or it does not fit the configuration.
    """
    names = [module.name for module in pkgutil.iter_modules(tune_spaces.__path__)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"--space: there is no space {name!r}.{hint} There are: {', '.join(names)}.")
    space: Space = importlib.import_module(f"tune_spaces.{name}").space(starting_values(config))
    check_space(name, space, config)
    return space


def check_space(name: str, space: Space, config: RunConfig) -> None:
    """Refuse a space with unknown settings, values that these refuse, or the starting value out of range.

    Raises:
        ValueError: If so.
    """
    start = starting_values(config)
    for setting, distribution in space.items():
        for value in _extremes(distribution):
            try:
                override(config, unflatten({setting: value}))
            except ValueError as error:
                raise ValueError(f"--space {name}: {error}") from error
        if not _contains(distribution, start[setting]):
            raise ValueError(
                f"--space {name}: {setting} is searched in {describe(distribution)}, but starts from {start[setting]},"
                f" and the start is always the first trial. Set --{setting} within, or take another space."
            )


def starting_values(config: RunConfig) -> dict[str, Any]:
    """Return every setting by its full name; for those that follow from others, what they come to."""
    return flatten(config) | {"contrast.warmup_steps": config.warmup_steps}


def suggest(trial: optuna.Trial, space: Space) -> None:
    """Let a trial choose a value of each setting."""
    for name, distribution in space.items():
        match distribution:
            case FloatDistribution(low=low, high=high, log=log, step=step):
                trial.suggest_float(name, low, high, log=log, step=step)
            case IntDistribution(low=low, high=high, log=log, step=step):
                trial.suggest_int(name, low, high, log=log, step=step)
            case CategoricalDistribution(choices=choices):
                trial.suggest_categorical(name, choices)


def describe(distribution: BaseDistribution) -> str:
    """Return a range as a person reads it."""
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(map(str, distribution.choices))
    low, high = _extremes(distribution)
    return f"{low:.6g} to {high:.6g}"


def _extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the smallest and largest value, or all choices."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return tuple(choices)
        case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
            return low, high
    raise ValueError(f"A space takes Float-, Int- and CategoricalDistribution, but got {distribution!r}.")


def _contains(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high = _extremes(distribution)
    return isinstance(value, int | float) and low <= value <= high
