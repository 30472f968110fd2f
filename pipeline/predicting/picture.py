"""A picture of what was learned: image, truth and prediction side by side, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluate import Example

PANEL_WIDTH, GAP, TEXT = 360, 8, 15
BACKGROUND, INK, VOID = (250, 250, 250), (20, 20, 20), (0, 0, 0)
Palette = Sequence[tuple[int, int, int]]


def draw(examples: Sequence[Example], classes: Sequence[str], palette: Palette, file: Path) -> None:
    """Write a PNG with one row for each example, and the colours of the classes that occur in them."""
    font = ImageFont.load_default(size=TEXT)
    rows = [_row(example, palette) for example in examples]
    head = 2 * GAP + TEXT
    width = 3 * PANEL_WIDTH + 4 * GAP
    shown = {int(i) for one in examples for ids in (one.label, one.prediction) for i in np.unique(ids)}
    entries = [(name, palette[i]) for i, name in enumerate(classes) if i in shown] + [("void", VOID)]
    columns = max(1, width // (max(int(font.getlength(name)) for name, _ in entries) + TEXT + 4 * GAP))
    legend_height = -(-len(entries) // columns) * (TEXT + GAP) + 2 * GAP
    height = head + sum(row.height + 2 * GAP + TEXT for row in rows) + legend_height
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(("image", "truth", "prediction")):
        pen.text((GAP + column * (PANEL_WIDTH + GAP), GAP), title, INK, font)
    top = head
    for row, example in zip(rows, examples, strict=True):
        sheet.paste(row, (GAP, top))
        pen.text((GAP, top + row.height + 2), example.id, INK, font)
        top += row.height + 2 * GAP + TEXT
    for number, (name, colour) in enumerate(entries):
        line, column = divmod(number, columns)
        left, upper = GAP + column * (width // columns), top + GAP + line * (TEXT + GAP)
        pen.rectangle((left, upper, left + TEXT, upper + TEXT), fill=colour, outline=INK)
        pen.text((left + TEXT + GAP, upper - 2), name, INK, font)
    temporary = file.with_suffix(".tmp")
    sheet.save(temporary, format="PNG")
    temporary.rename(file)


def colour(ids: UInt8[np.ndarray, "height width"], palette: Palette) -> UInt8[np.ndarray, "height width 3"]:
    """Return the classes' colours; void is black."""
    table = np.full((256, 3), VOID, dtype=np.uint8)
    table[: len(palette)] = palette
    colours: np.ndarray = table[ids]
    return colours


def _row(example: Example, palette: Palette) -> Image.Image:
    height, width = example.label.shape
    size = PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width))
    panels = (
        Image.fromarray(example.image).resize(size, Image.Resampling.BILINEAR),
        *(
            Image.fromarray(colour(ids, palette)).resize(size, Image.Resampling.NEAREST)
            for ids in (example.label, example.prediction)
        ),
    )
    row = Image.new("RGB", (3 * PANEL_WIDTH + 2 * GAP, size[1]), BACKGROUND)
    for column, panel in enumerate(panels):
        row.paste(panel, (column * (PANEL_WIDTH + GAP), 0))
    return row
