"""Writes docs/configuration.md out of the code, which says what each setting is.

python docs/configuration.py
"""

import ast
import dataclasses
import inspect
import itertools
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from pipeline.tuning.options import SearchOptions
from pixcon_core.config import RunConfig
from pixcon_core.override import flatten
from pixcon_core.presets import PRESETS

FILE = Path(__file__).with_suffix(".md")
HEAD = """# Configuration

Every setting is a flag of `python -m pipeline.run`, by the names below: `--contrast.temperature 0.07`. They have the
same names in `config.json`, `best.json` and search spaces. A switch has no value: `--train.compile`, or
`--train.no_compile`. What a preset changes is at the end. This page is made by
`python docs/configuration.py`; a test compares it with the code.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *_section("The run", RunConfig, "")]
    for field in dataclasses.fields(RunConfig):
        kind = typing.get_type_hints(RunConfig)[field.name]
        if dataclasses.is_dataclass(kind):
            parts += _section(f"`{field.name}`", typing.cast("type", kind), f"{field.name}.")
    parts += _section("With `--search`", SearchOptions, "")
    parts += ["## Presets\n", "What each changes of the defaults above.\n", *_presets()]
    return "\n".join(parts)


def _section(title: str, kind: type, prefix: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{(kind.__doc__ or '').splitlines()[0]}\n"
    yield "| flag | default | values | |\n|---|---|---|---|"
    said, types = _explanations(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in said:
            cells = f"`--{prefix}{field.name}`", f"`{_text(field.default)}`", _values(types[field.name])
            yield f"| {' | '.join(cells)} | {said[field.name]} |"
    yield ""


def _presets() -> Iterator[str]:
    default = flatten(RunConfig())
    for name, config in PRESETS.items():
        changed = {key: value for key, value in flatten(config).items() if value != default[key]}
        yield f"**{name}**: " + ", ".join(f"{key} {_text(value)}" for key, value in changed.items()) + "\n"


def _explanations(kind: type) -> dict[str, str]:
    """Return the string below each field of a class."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, text in itertools.pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(text.value.value).split()).replace("|", "\\|")  # type: ignore[attr-defined]
    return found


def _values(kind: Any) -> str:
    """Return what a flag takes."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        return " or ".join("None" if one is type(None) else _values(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return f"{_values(inner[0])} ..." if Ellipsis in inner else " ".join(map(_values, inner))
    return {bool: "switch", str: "text"}.get(kind, kind.__name__)


def _text(value: object) -> str:
    return " ".join(map(_text, value)) if isinstance(value, tuple) else str(value) or '""'


if __name__ == "__main__":
    FILE.write_text(page())
