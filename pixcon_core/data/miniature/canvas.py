"""A canvas that paints picture and label with the same strokes, so that the labels fit exactly.

Strokes draw numbers of materials into one map. The picture is the materials' colours with texture, shadow and
light, the label is their classes.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image, ImageDraw, ImageFilter

from pixcon_core.data.miniature.light import Light

SAMPLES = 2
"""Canvas pixels for each pixel of the picture, each way, for smooth edges."""

Number = float | int
"""Spelled out, because run-time type checks do not let an int stand for a float."""
Point = tuple[Number, Number]
Span = tuple[Number, Number]
"""From and to, in metres."""
Standing = tuple[float, Callable[[], None]]
"""How far away a thing counts as, and what draws it."""
Colour = tuple[float, float, float]


class Texture(IntEnum):
    """Pattern that modulates a material's colour. Classes share them: telling them apart takes context."""

    PLAIN = 0
    GRAIN = 1
    BLOTCHES = 2
    LEAVES = 3
    COURSES = 4
    CLOUDS = 5


class Material(NamedTuple):
    """What a stroke is made of."""

    name: str
    """Class, as the scene calls it."""
    colour: Colour
    """Linear colour in 0..1, in plain white light."""
    texture: Texture = Texture.PLAIN
    contrast: float = 0.0
    """Strength of the texture: 0.2 changes the colour by about 20 %."""
    depth: float | None = 0.0
    """Metres away, for haze; None lies on the ground, farther the higher up in the picture."""
    glow: float = 0.0
    """Share of light and shadow that it is free from, as the sky is."""


class Scene(NamedTuple):
    """A picture and what is in it."""

    image: UInt8[np.ndarray, "height width 3"]
    label: UInt8[np.ndarray, "height width"]
    """Index into `names`."""
    names: tuple[str, ...]
    """Classes that occur, as the scene calls them."""

    def ids(self, raw_ids: Mapping[str, int], default: int) -> UInt8[np.ndarray, "height width"]:
        """Return the label in a data set's raw ids; classes without one get `default`."""
        table = np.array([raw_ids.get(name, default) for name in self.names], np.uint8)
        return table.take(self.label)


class Canvas:
    """Map of materials, and of shadows on them. Coordinates are pixels of the picture, from its top left."""

    def __init__(self, width: int, height: int, horizon: float) -> None:
        """Make an empty canvas.

        Args:
            width: Of the picture.
            height: Of the picture.
            horizon: Row where the ground ends, for the depth of materials that lie on it.
        """
        self.width, self.height, self.horizon = width, height, horizon
        size = (width * SAMPLES, height * SAMPLES)
        self._materials: dict[Material, int] = {}
        self._map, self._shade = Image.new("I", size), Image.new("L", size)
        self._draw, self._draw_shade = ImageDraw.Draw(self._map), ImageDraw.Draw(self._shade)

    def polygon(self, points: Sequence[Point], material: Material) -> None:
        """Fill a polygon."""
        scaled = [(x * SAMPLES, y * SAMPLES) for x, y in points]
        self._draw.polygon(scaled, fill=self._number(material))
        self._draw_shade.polygon(scaled, fill=0)

    def ellipse(self, centre: Point, radii: Point, material: Material) -> None:
        """Fill an ellipse, of one canvas pixel at least."""
        box = _box(centre, radii)
        self._draw.ellipse(box, fill=self._number(material))
        self._draw_shade.ellipse(box, fill=0)

    def line(self, points: Sequence[Point], width: Number, material: Material) -> None:
        """Draw a line; it is never thinner than a pixel of the picture."""
        scaled = [(x * SAMPLES, y * SAMPLES) for x, y in points]
        thick = max(SAMPLES, round(width * SAMPLES))
        self._draw.line(scaled, fill=self._number(material), width=thick, joint="curve")
        self._draw_shade.line(scaled, fill=0, width=thick, joint="curve")

    def shadow(self, points: Sequence[Point]) -> None:
        """Shade a polygon of what is painted so far; later strokes lie over it."""
        self._draw_shade.polygon([(x * SAMPLES, y * SAMPLES) for x, y in points], fill=255)

    def shadow_ellipse(self, centre: Point, radii: Point) -> None:
        """Shade an ellipse (see `shadow`)."""
        self._draw_shade.ellipse(_box(centre, radii), fill=255)

    def render(self, light: Light, rng: np.random.Generator) -> Scene:
        """Light the canvas and take the picture."""
        numbers = np.asarray(self._map)
        materials = list(self._materials)
        names = tuple(sorted({m.name for m in materials}))
        classes = np.array([names.index(m.name) for m in materials], np.uint8)
        image = light.expose(self._colours(numbers, materials, light, rng), rng)
        # One of the four canvas pixels stands for the picture's pixel.
        return Scene(image, classes[numbers[1::SAMPLES, ::SAMPLES]], names)

    def _number(self, material: Material) -> int:
        return self._materials.setdefault(material, len(self._materials))

    def _colours(
        self,
        numbers: Int32[np.ndarray, "tall wide"],
        materials: Sequence[Material],
        light: Light,
        rng: np.random.Generator,
    ) -> Float32[np.ndarray, "height width 3"]:
        """Texture, shadow and haze at canvas size, then reduced to the picture's."""
        contrast = np.array([m.contrast for m in materials], np.float32)[numbers]
        kinds = np.array([m.texture for m in materials], np.intp)[numbers]
        patterns = _patterns(numbers.shape, rng)
        texture = np.take_along_axis(patterns, kinds[None], axis=0)[0] * contrast

        blurred = self._shade.filter(ImageFilter.BoxBlur(SAMPLES))
        free = np.array([m.glow for m in materials], np.float32)[numbers]
        shade = np.asarray(blurred, np.float32) / 255 * (1 - free)
        brightness = (1 + texture) * (1 - light.shadow * shade)

        clear = np.exp(-light.haze * self._depths(numbers, materials))[..., None]
        colours = np.array([m.colour for m in materials], np.float32)[numbers]
        colours = colours * (brightness[..., None] * clear)
        colours += np.array(light.haze_colour, np.float32) * (1 - clear)
        blocks = colours.reshape(self.height, SAMPLES, self.width, SAMPLES, 3)
        reduced: Float32[np.ndarray, "height width 3"] = blocks.mean(axis=(1, 3))
        return reduced

    def _depths(
        self, numbers: Int32[np.ndarray, "tall wide"], materials: Sequence[Material]
    ) -> Float32[np.ndarray, "tall wide"]:
        below = np.arange(len(numbers), dtype=np.float32) / SAMPLES - self.horizon
        ground = 1.4 * self.height / below.clip(min=1)  # camera at 1.4 m, focal length near the height
        depth = np.array([-1 if m.depth is None else m.depth for m in materials], np.float32)[numbers]
        return np.where(depth < 0, ground[:, None], depth)


def draw_in_order(things: Sequence[Standing]) -> None:
    """Draw the farthest first, so that nearer things hide it."""
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()


def _box(centre: Point, radii: Point) -> list[Number]:
    (x, y), (rx, ry) = centre, (max(radii[0], 0.5), max(radii[1], 0.5))
    return [(x - rx) * SAMPLES, (y - ry) * SAMPLES, (x + rx) * SAMPLES, (y + ry) * SAMPLES]


def _patterns(shape: tuple[int, ...], rng: np.random.Generator) -> Float32[np.ndarray, "kind tall wide"]:
    """Make every texture for the whole canvas, each about -1..1."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    fine, leafy = _noise(shape, 1, rng), _noise(shape, 3, rng)
    broad, wide = _noise(shape, 14, rng), _noise(shape, 40, rng)
    courses = np.where(rows % 6 < 1.5, -0.8, 0.2) + 0.4 * fine
    leaves = np.where(leafy > 0.1, 0.7, -0.7) + 0.3 * fine + 0.5 * broad
    parts = [np.zeros_like(fine), 0.6 * fine + 0.5 * broad, broad + 0.2 * fine, leaves, courses, wide]
    return np.stack(parts).astype(np.float32)


def _noise(shape: tuple[int, ...], grain: int, rng: np.random.Generator) -> Float32[np.ndarray, "tall wide"]:
    """Smooth noise of unit variance or less, in blobs of `grain` canvas pixels."""
    small = rng.standard_normal((shape[0] // grain + 2, shape[1] // grain + 2), np.float32)
    if grain == 1:
        return small[: shape[0], : shape[1]] * 0.7
    smooth = Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(smooth)
