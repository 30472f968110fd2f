"""What stands in a room."""

import numpy as np

from pixcon_core.data.miniature.camera import Camera, Spot
from pixcon_core.data.miniature.canvas import Canvas, Colour, Material, Span, Texture
from pixcon_core.data.miniature.paint import PAINTS, RUBBER, STONES, WOODS, pick, shaded
from pixcon_core.data.miniature.scenery import bush


def block(canvas: Canvas, camera: Camera, material: Material, x: Span, y: Span, z: Span) -> None:
    """Draw a box: top, the flank that can be seen, and front, each lit differently."""
    top = camera.floor(*x, *z, y=y[1])
    if y[1] < camera.height:
        canvas.polygon(top, material._replace(colour=shaded(material.colour, 1.15)))
    if x[0] > 0 or x[1] < 0:
        flank = camera.quad(x[0] if x[0] > 0 else x[1], *y, *z)
        canvas.polygon(flank, material._replace(colour=shaded(material.colour, 0.7)))
    canvas.polygon(camera.front(x, y, z[0]), material)


def bed(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a bed with its bedclothes."""
    wood = Material("bed", pick(WOODS, rng), Texture.GRAIN, 0.1)
    cover = Material("bedclothes", pick(PAINTS[2:] + STONES[-3:], rng), Texture.BLOTCHES, 0.15)
    canvas.shadow(camera.floor(x - 1.1, x + 1.1, z - 0.2, z + 2))
    block(canvas, camera, wood, (x - 0.95, x + 0.95), (0.0, 1.0), (z + 2.0, z + 2.08))
    block(canvas, camera, wood, (x - 0.95, x + 0.95), (0.0, 0.3), (z, z + 2.0))
    block(canvas, camera, cover, (x - 0.95, x + 0.95), (0.25, 0.55), (z, z + 2.0))
    pillow = cover._replace(colour=shaded(cover.colour, 1.3))
    block(canvas, camera, pillow, (x - 0.7, x + 0.7), (0.55, 0.68), (z + 1.5, z + 1.95))


def sofa(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a sofa."""
    cloth = Material("sofa", pick(PAINTS + STONES[-3:], rng), Texture.BLOTCHES, 0.12)
    canvas.shadow(camera.floor(x - 1.1, x + 1.1, z - 0.15, z + 0.9))
    block(canvas, camera, cloth, (x - 1.0, x + 1.0), (0.1, 0.85), (z + 0.65, z + 0.9))
    block(canvas, camera, cloth, (x - 0.85, x + 0.85), (0.1, 0.42), (z, z + 0.7))
    for side in (-1, 1):
        arm = (x + side * 0.95 - 0.12, x + side * 0.95 + 0.12)
        block(canvas, camera, cloth._replace(colour=shaded(cloth.colour, 0.9)), arm, (0.1, 0.6), (z, z + 0.75))


def table(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a table with bottles and books on it."""
    wood = Material("table", pick(WOODS, rng), Texture.GRAIN, 0.1)
    canvas.shadow(camera.floor(x - 0.75, x + 0.75, z - 0.1, z + 0.85))
    for dx in (-0.62, 0.62):
        for dz in (0.7, 0.05):
            foot = (x + dx - 0.04, x + dx + 0.04)
            block(
                canvas,
                camera,
                wood._replace(colour=shaded(wood.colour, 0.7)),
                foot,
                (0, 0.7),
                (z + dz, z + dz + 0.08),
            )
    block(canvas, camera, wood, (x - 0.7, x + 0.7), (0.68, 0.75), (z, z + 0.8))
    for _ in range(int(rng.integers(1, 5))):
        spot = camera.spot(x + rng.uniform(-0.55, 0.55), z + rng.uniform(0.15, 0.6), y=0.75)
        _tableware(canvas, spot, rng)


def _tableware(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    kind = str(rng.choice(["bottle", "book", "book"]))
    stuff = Material(kind, pick(PAINTS, rng))
    outlines = {
        "bottle": ((-0.08, 0), (-0.08, 0.28), (-0.03, 0.45), (0.03, 0.45), (0.08, 0.28), (0.08, 0)),
        "book": ((-0.18, 0), (-0.18, 0.1), (0.18, 0.1), (0.18, 0)),
    }
    canvas.polygon([spot.at(*p) for p in outlines[kind]], stuff)


def chair(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a chair."""
    wood = Material("chair", pick(WOODS + PAINTS, rng), Texture.GRAIN, 0.1)
    dark = wood._replace(colour=shaded(wood.colour, 0.7))
    canvas.shadow(camera.floor(x - 0.25, x + 0.25, z, z + 0.45))
    for dz in (0.36, 0.0):
        for dx in (-0.2, 0.16):
            block(canvas, camera, dark, (x + dx, x + dx + 0.04), (0, 0.45), (z + dz, z + dz + 0.04))
    block(canvas, camera, wood, (x - 0.22, x + 0.22), (0.42, 0.47), (z, z + 0.42))
    block(canvas, camera, wood, (x - 0.22, x + 0.22), (0.47, 0.95), (z + 0.38, z + 0.42))


def cabinet(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a cabinet with doors, perhaps a screen on it."""
    high = rng.uniform(0.5, 1.9)
    wood = Material("cabinet", pick(WOODS, rng), Texture.GRAIN, 0.1)
    block(canvas, camera, wood, (x - 0.6, x + 0.6), (0, high), (z, z + 0.5))
    line = wood._replace(colour=shaded(wood.colour, 0.6))
    canvas.line([camera.at(x, 0.05, z), camera.at(x, high - 0.05, z)], 1, line)
    if high < 1.1:
        screen = Material("tvmonitor", RUBBER)
        block(canvas, camera, screen, (x - 0.5, x + 0.5), (high + 0.03, high + 0.65), (z + 0.2, z + 0.25))
        shine = Material("tvmonitor", pick(PAINTS, rng), Texture.BLOTCHES, 0.3)
        canvas.polygon(camera.front((x - 0.45, x + 0.45), (high + 0.09, high + 0.6), z + 0.2), shine)


def shelves(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw shelves with books."""
    wood = Material("shelves", shaded(pick(WOODS, rng), 0.8), Texture.GRAIN, 0.1)
    block(canvas, camera, wood, (x - 0.55, x + 0.55), (0, 1.9), (z, z + 0.35))
    inside = wood._replace(colour=shaded(wood.colour, 0.5))
    for low in np.arange(0.1, 1.7, 0.36):
        canvas.polygon(camera.front((x - 0.5, x + 0.5), (low, low + 0.3), z), inside)
        edge = -0.48
        while edge < 0.4 and rng.random() < 0.93:
            wide = rng.uniform(0.04, 0.12)
            _book(
                canvas,
                camera,
                pick(PAINTS, rng),
                (x + edge, x + edge + wide),
                (low, low + rng.uniform(0.18, 0.28)),
                z,
            )
            edge += wide


def _book(canvas: Canvas, camera: Camera, colour: Colour, x: Span, y: Span, z: float) -> None:
    canvas.polygon(camera.front(x, y, z), Material("book", colour))


def potted_plant(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a plant in its pot."""
    spot = camera.spot(x, z)
    canvas.shadow_ellipse(spot.at(0.05, 0), (0.3 * spot.scale, 0.08 * spot.scale))
    leaves = camera.spot(x, z, y=0.35)
    bush(canvas, leaves._replace(scale=0.6 * leaves.scale), rng, name="pottedplant")
    pot = Material("pottedplant", pick(STONES[4:], rng))
    canvas.polygon([spot.at(*p) for p in ((-0.16, 0), (-0.22, 0.4), (0.22, 0.4), (0.16, 0))], pot)
