"""Four-legged animals and birds. They share coats; shape and company tell them apart."""

from typing import NamedTuple

import numpy as np

from pixcon_core.data.miniature.camera import Spot
from pixcon_core.data.miniature.canvas import Canvas, Colour, Material, Texture
from pixcon_core.data.miniature.paint import pick, shaded

COATS = ((0.35, 0.24, 0.16), (0.16, 0.13, 0.12), (0.82, 0.79, 0.74), (0.55, 0.4, 0.26), (0.5, 0.48, 0.46))


class Build(NamedTuple):
    """Shape of a species, in metres."""

    length: float
    legs: float
    girth: float
    neck: tuple[float, float]
    """How far ahead of the shoulder the head is, and how far above the back."""
    head: float
    """Radius of the skull."""
    tail: float
    """How far its tip is above the rump."""
    fluffy: bool = False
    patches: bool = False
    ears: float = 0.0
    muzzle: float = 1.0
    """How far it is ahead of the skull's middle, in radii of the skull."""


BUILDS = {
    "cow": Build(2.0, 0.65, 0.85, (0.45, 0.05), 0.3, -0.7, patches=True, ears=0.12),
    "horse": Build(1.9, 0.95, 0.7, (0.5, 0.42), 0.24, -0.8, ears=0.05, muzzle=1.7),
    "sheep": Build(1.1, 0.35, 0.6, (0.2, 0.1), 0.17, -0.1, fluffy=True),
    "dog": Build(0.8, 0.32, 0.28, (0.14, 0.13), 0.15, 0.25, ears=0.07, muzzle=1.2),
    "cat": Build(0.6, 0.16, 0.26, (0.08, 0.12), 0.15, 0.55, ears=0.08),
}


def animal(canvas: Canvas, spot: Spot, rng: np.random.Generator, species: str, size: float = 1.0) -> None:
    """Draw an animal from the side."""
    build = BUILDS[species]
    spot = spot._replace(scale=spot.scale * size * rng.uniform(0.85, 1.15))
    face = float(rng.choice([-1, 1]))
    colour = pick(COATS, rng)
    texture = (Texture.LEAVES, 0.2) if build.fluffy else (Texture.GRAIN, 0.1)
    coat = Material(species, colour, *texture, spot.depth)
    canvas.shadow_ellipse(spot.at(0, 0.02), (0.6 * build.length * spot.scale, 0.1 * build.length * spot.scale))
    back, half = build.legs + build.girth, build.length / 2
    far_leg = coat._replace(colour=shaded(colour, 0.7))
    for x, part in ((-0.75, far_leg), (0.75, far_leg), (-0.85, coat), (0.85, coat)):
        foot = x * half + rng.uniform(-0.15, 0.15) * build.legs
        width = 0.14 * build.girth + 0.05 * build.length
        canvas.line([spot.at(x * half, build.legs + 0.1), spot.at(foot, 0)], width * spot.scale, part)
    middle = build.legs + build.girth / 2
    canvas.ellipse(spot.at(0, middle), (1.1 * half * spot.scale, 0.5 * build.girth * spot.scale), coat)
    if build.patches:
        patch = coat._replace(colour=pick(COATS, rng))
        for _ in range(3):
            at = spot.at(rng.uniform(-0.7, 0.7) * half, middle + rng.uniform(-0.1, 0.2))
            canvas.ellipse(at, (0.25 * spot.scale, 0.17 * spot.scale), patch)
    _head(canvas, spot, build, coat, face, half, back)
    rump = spot.at(-face * half, back - 0.15 * build.girth)
    tip = spot.at(-face * (half + 0.15 * build.length), back - 0.1 + build.tail * 0.6)
    canvas.line([rump, tip], 0.06 * build.length * spot.scale, coat)


def _head(canvas: Canvas, spot: Spot, build: Build, coat: Material, face: float, half: float, back: float) -> None:
    ahead, above = build.neck
    head = (face * (half + ahead), back + above)
    shoulder = spot.at(face * 0.8 * half, back - 0.3 * build.girth)
    canvas.line([shoulder, spot.at(*head)], 0.55 * build.girth * spot.scale, coat)
    dark = coat._replace(colour=shaded(coat.colour, 0.85))
    canvas.ellipse(spot.at(*head), (build.head * spot.scale, 0.75 * build.head * spot.scale), dark)
    muzzle = spot.at(head[0] + face * build.muzzle * build.head, head[1] - 0.3 * build.muzzle * build.head)
    canvas.line([spot.at(*head), muzzle], 0.8 * build.head * spot.scale, dark)
    canvas.ellipse(muzzle, (0.6 * build.head * spot.scale, 0.45 * build.head * spot.scale), dark)
    for x in (-0.7, 0.2) if build.ears else ():
        base = head[0] + face * x * build.head
        low, tip, half_width = head[1] + 0.5 * build.head, head[1] + build.head + build.ears, 0.4 * build.head
        ear = ((base - half_width, low), (base, tip), (base + half_width, low))
        canvas.polygon([spot.at(*p) for p in ear], dark)


def bird(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a bird in flight."""
    colour: Colour = pick(COATS, rng)
    feathers = Material("bird", colour, depth=spot.depth)
    beat = rng.uniform(0.1, 0.6)
    for side in (-1, 1):
        wing = [(0.0, 0.05), (side * 0.45, beat), (side * 0.95, beat * 0.6), (side * 0.3, -0.08)]
        canvas.polygon([spot.at(*p) for p in wing], feathers._replace(colour=shaded(colour, 0.8)))
    canvas.ellipse(spot.at(0, 0), (0.35 * spot.scale, 0.13 * spot.scale), feathers)
    canvas.ellipse(spot.at(0.35, 0.08), (0.1 * spot.scale, 0.09 * spot.scale), feathers)
