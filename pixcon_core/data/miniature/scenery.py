"""What stands along a street: houses, trees, fences, walls, poles, signs and clutter."""

import math

import numpy as np

from pixcon_core.data.miniature.camera import Camera, Spot
from pixcon_core.data.miniature.canvas import Canvas, Colour, Material, Texture
from pixcon_core.data.miniature.paint import GLASS, GREENS, GREYS, PAINTS, POLES, STONES, pick, shaded


def house(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float, far: float, lit: float
) -> None:
    """Draw a house with its front along the street.

    Args:
        canvas: What it is painted on.
        camera: Through which it is seen.
        rng: Draws its look.
        x: Of its front, in metres.
        near: Start of its front.
        far: End of its front.
        lit: Brightness of the front; ends of houses are in the shade.
    """
    storeys = int(rng.integers(2, 6))
    tall, depth = storeys * 3.0 + 0.8, (near + far) / 2
    stone, outward = pick(STONES, rng), math.copysign(1.0, x)
    texture = Texture.COURSES if rng.random() < 0.4 else Texture.GRAIN
    roof = Material("building", pick(((0.4, 0.2, 0.16), *GREYS[:2]), rng), Texture.COURSES, 0.2, depth)
    if rng.random() < 0.6:
        slope = [
            (x, tall, near),
            (x, tall, far),
            (x + 4 * outward, tall + 3, far),
            (x + 4 * outward, tall + 3, near),
        ]
        canvas.polygon([camera.at(*p) for p in slope], roof)
        gable = [(x, tall, near), (x + 4 * outward, tall + 3, near), (x + 8 * outward, tall, near)]
        canvas.polygon([camera.at(*p) for p in gable], Material("building", shaded(stone, 0.6), texture, 0.15, depth))
    end = [camera.at(x + dx * outward, y, near) for dx, y in ((0, 0), (0, tall), (12, tall), (12, 0))]
    canvas.polygon(end, Material("building", shaded(stone, 0.65), texture, 0.15, depth))
    front = Material("building", shaded(stone, lit), texture, 0.18, depth)
    canvas.polygon(camera.quad(x, 0, tall, near, far), front)
    if rng.random() < 0.4:
        canvas.polygon(camera.quad(x, 0, 3, near, far), Material("building", pick(PAINTS, rng), depth=depth))
    _windows(canvas, camera, rng, x, (near, far), storeys)


def _windows(
    canvas: Canvas,
    camera: Camera,
    rng: np.random.Generator,
    x: float,
    span: tuple[float, float],
    storeys: int,
) -> None:
    near, far = span
    depth = (near + far) / 2
    pane = Material("building", shaded(GLASS, rng.uniform(0.8, 2.2)), depth=depth)
    frame = Material("building", pick(PAINTS[2:4] + STONES[-2:], rng), depth=depth)
    step = rng.uniform(2.4, 3.6) * (1 if depth < 35 else 2)
    wide = step * rng.uniform(0.35, 0.6)
    framed = depth < 25 and rng.random() < 0.6
    for z in np.arange(near + 0.6, far - wide, step):
        for storey in range(storeys):
            low = 3.0 * storey + (1.0 if storey else 0.8)
            if framed:
                canvas.polygon(camera.quad(x, low - 0.15, low + 1.65, z - 0.15, z + wide + 0.15), frame)
            canvas.polygon(camera.quad(x, low, low + 1.5, z, z + wide), pane)
    door = near + rng.uniform(0.1, 0.8) * (far - near)
    canvas.polygon(camera.quad(x, 0, 2.2, door, door + 1.1), Material("building", pick(PAINTS, rng), depth=depth))


def wall(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Draw a wall of the stone that houses are built of."""
    stone = Material("wall", pick(STONES, rng), Texture.COURSES, 0.2, (near + far) / 2)
    high = rng.uniform(1.4, 2.6)
    canvas.polygon(camera.quad(x, 0, high, near, far), stone)
    canvas.polygon(camera.quad(x, high, high + 0.15, near, far), stone._replace(colour=shaded(stone.colour, 1.2)))


def fence(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Draw a fence of bars; what shows between them is labelled fence, as annotators do."""
    high, depth = rng.uniform(1.0, 1.9), (near + far) / 2
    between = Material("fence", shaded(pick(GREENS, rng), 0.8), Texture.LEAVES, 0.3, depth)
    bars = Material("fence", pick(GREYS + PAINTS[:4] + PAINTS[-1:], rng), depth=depth)
    canvas.polygon(camera.quad(x, 0, high, near, far), between)
    step = rng.uniform(0.4, 0.6) * max(1.0, near / 8)
    for z in np.arange(near, far, step):
        canvas.polygon(camera.quad(x, 0, high, z, z + 0.45 * step), bars)
    for low in (0.15, high - 0.2):
        canvas.polygon(camera.quad(x, low, low + 0.12, near, far), bars)


def hedge(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Draw a hedge."""
    leaves = Material("vegetation", pick(GREENS, rng), Texture.LEAVES, 0.35, (near + far) / 2)
    canvas.polygon(camera.quad(x, 0, rng.uniform(0.8, 2.2), near, far), leaves)


def tree(canvas: Canvas, spot: Spot, rng: np.random.Generator, name: str = "vegetation") -> None:
    """Draw a tree: a trunk and a crown of leaf clumps, darker below."""
    tall = rng.uniform(4.5, 9.0)
    radius = tall * rng.uniform(0.22, 0.36)
    bark = Material(name, pick(((0.3, 0.24, 0.18), GREYS[0]), rng), Texture.GRAIN, 0.2, spot.depth)
    canvas.shadow_ellipse(spot.at(rng.uniform(-1, 1), 0), (radius * spot.scale, 0.12 * radius * spot.scale))
    canvas.line([spot.at(0, 0), spot.at(rng.uniform(-0.2, 0.2), tall - radius)], 0.035 * tall * spot.scale, bark)
    green = pick(GREENS, rng)
    pointed = rng.random() < 0.2
    for part in range(14):
        share = part / 13
        leaf = Material(name, shaded(green, 0.7 + 0.5 * share), Texture.LEAVES, 0.35, spot.depth)
        reach = radius * (1.1 - share if pointed else 0.75)
        dx, dy = rng.uniform(-1, 1) * reach, (share - 0.5) * (2.2 if pointed else 1.5) * radius
        size = radius * rng.uniform(0.3, 0.5) * spot.scale
        canvas.ellipse(spot.at(dx, tall - radius + dy), (size, 0.85 * size), leaf)


def bush(canvas: Canvas, spot: Spot, rng: np.random.Generator, name: str = "vegetation") -> None:
    """Draw a bush."""
    green, radius = pick(GREENS, rng), rng.uniform(0.4, 1.0)
    for _ in range(6):
        leaf = Material(name, shaded(green, rng.uniform(0.8, 1.1)), Texture.LEAVES, 0.35, spot.depth)
        centre = spot.at(rng.uniform(-1, 1) * radius, radius * rng.uniform(0.3, 0.9))
        canvas.ellipse(centre, (0.6 * radius * spot.scale, 0.5 * radius * spot.scale), leaf)


def lamp_post(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a street lamp, its arm over the road."""
    metal = Material("pole", pick(POLES, rng), depth=spot.depth)
    high, arm = rng.uniform(4.5, 8.0), rng.choice([-1, 1]) * rng.uniform(0.5, 1.6)
    canvas.line([spot.at(0, 0), spot.at(0, high), spot.at(arm, high + 0.2)], 0.25 * spot.scale, metal)
    canvas.ellipse(spot.at(arm, high + 0.12), (0.3 * spot.scale, 0.1 * spot.scale), metal)


def bollard(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a short post."""
    metal = Material("pole", pick(POLES + PAINTS[3:4], rng), depth=spot.depth)
    canvas.line([spot.at(0, 0), spot.at(0, 0.9)], 0.25 * spot.scale, metal)


def traffic_light(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a traffic light on its pole, one lamp lit."""
    metal = Material("pole", pick(POLES, rng), depth=spot.depth)
    high = rng.uniform(2.4, 3.6)
    canvas.line([spot.at(0, 0), spot.at(0, high)], 0.22 * spot.scale, metal)
    case = Material("traffic light", (0.1, 0.11, 0.11), depth=spot.depth)
    corners = ((-0.22, high - 0.1), (-0.22, high + 0.95), (0.22, high + 0.95), (0.22, high - 0.1))
    canvas.polygon([spot.at(*c) for c in corners], case)
    lit = int(rng.integers(3))
    for i, lamp in enumerate(((0.1, 0.8, 0.4), (0.95, 0.65, 0.1), (0.9, 0.15, 0.1))):
        colour = lamp if i == lit else shaded(lamp, 0.25)
        centre = spot.at(0, high + 0.1 + 0.32 * i)
        canvas.ellipse(
            centre,
            (0.12 * spot.scale, 0.12 * spot.scale),
            Material("traffic light", colour, depth=spot.depth),
        )


def traffic_sign(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a sign on its pole: round, three-cornered, or a board in the colours of cars."""
    metal = Material("pole", pick(POLES + GREYS[1:], rng), depth=spot.depth)
    high, size = rng.uniform(2.0, 2.8), rng.uniform(0.45, 0.65)
    canvas.line([spot.at(0, 0), spot.at(0, high + size)], 0.16 * spot.scale, metal)
    kind = rng.choice(["ban", "order", "warning", "board"], p=[0.3, 0.2, 0.25, 0.25])
    red, white, blue = (0.75, 0.1, 0.1), (0.9, 0.9, 0.88), (0.1, 0.25, 0.65)

    def sign(colour: Colour) -> Material:
        return Material("traffic sign", colour, depth=spot.depth)

    def disc(radius: float, colour: Colour) -> None:
        canvas.ellipse(spot.at(0, high + size), (radius * spot.scale, radius * spot.scale), sign(colour))

    def corners(count: int, radius: float, colour: Colour) -> None:
        turns = np.arange(count) * 2 * math.pi / count + math.pi / 2
        points = [spot.at(radius * math.cos(t), high + size + radius * math.sin(t)) for t in turns]
        canvas.polygon(points, sign(colour))

    if kind == "ban":
        disc(size, red)
        disc(0.7 * size, white)
    elif kind == "order":
        disc(size, blue)
        canvas.line(
            [spot.at(0, high + 0.5 * size), spot.at(0, high + 1.5 * size)],
            0.2 * size * spot.scale,
            sign(white),
        )
    elif kind == "warning":
        corners(3, 1.15 * size, red)
        corners(3, 0.65 * size, white)
    else:
        wide, tall = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.5)
        ground = pick(PAINTS, rng)
        for border, colour in ((0.06, white), (0.0, ground)):
            w, t = wide + border, tall + border
            board = [spot.at(dx * w, high + size + dy * t) for dx, dy in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
            canvas.polygon(board, sign(colour))


def clutter(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw something that has no class: a bin, a cone, a box, a stall."""
    paint = pick(PAINTS, rng)
    stuff = Material(str(rng.choice(["static", "dynamic"])), paint, depth=spot.depth)
    wide, tall = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.3)
    canvas.shadow_ellipse(spot.at(0.1, 0.02), (1.3 * wide * spot.scale, 0.1 * spot.scale))
    taper = rng.uniform(0.2, 1.1)
    shape = ((-wide, 0), (-wide * taper, tall), (wide * taper, tall), (wide, 0))
    canvas.polygon([spot.at(*p) for p in shape], stuff)
    lid = stuff._replace(colour=shaded(paint, 0.6))
    canvas.ellipse(spot.at(0, tall), (wide * taper * spot.scale, 0.1 * spot.scale), lid)
