"""Meadows and shores, with the class names of PASCAL-Context."""

from functools import partial

import numpy as np

from pixcon_core.data.miniature import people, scenery
from pixcon_core.data.miniature.animals import animal, bird
from pixcon_core.data.miniature.camera import Camera, Spot
from pixcon_core.data.miniature.canvas import (
    Canvas,
    Colour,
    Material,
    Scene,
    Standing,
    Texture,
    draw_in_order,
)
from pixcon_core.data.miniature.light import Light, draw_light
from pixcon_core.data.miniature.paint import GREENS, PAINTS, SANDS, SNOW, STONES, WOODS, pick, shaded


def draw_meadow(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw grass or snow with animals, before woods and mountains."""
    light, camera, canvas = _outdoors(rng, width, height)
    if rng.random() < 0.2:
        ground = Material("snow", pick(SNOW, rng), Texture.BLOTCHES, 0.06, None)
    else:
        ground = Material("grass", pick(GREENS, rng), Texture.LEAVES, 0.2, None)
    _ridge(canvas, rng, "mountain", pick(STONES[:6] + GREENS[:2], rng), 0.3, 60.0)
    if rng.random() < 0.7:
        _ridge(canvas, rng, "tree", pick(GREENS, rng), 0.1, 40.0)
    canvas.polygon(camera.floor(-400, 400, 1.0, 400), ground)
    if rng.random() < 0.5:
        x = rng.uniform(-3, 3)
        path = Material("ground", pick(SANDS, rng), Texture.GRAIN, 0.12, None)
        canvas.polygon(
            [
                camera.at(x - 1, 0, 1.0),
                camera.at(3 * x - 0.6, 0, 90),
                camera.at(3 * x + 0.6, 0, 90),
                camera.at(x + 1, 0, 1.0),
            ],
            path,
        )
    things = _growth(canvas, camera, rng)
    species = str(rng.choice(["cow", "horse", "sheep", "dog"]))
    for _ in range(int(rng.integers(1, 6))):
        spot = camera.spot(rng.uniform(-3, 3), rng.uniform(3.5, 10))
        things.append((spot.depth, partial(animal, canvas, spot, rng, species)))
    if rng.random() < 0.4:
        z = rng.uniform(6, 14)
        things.append((z, partial(_rail_fence, canvas, camera, rng, z)))
    draw_in_order([*things, *_people(canvas, camera, rng, 8.0), *_clutter(canvas, camera, rng, 8.0)])
    return canvas.render(light, rng)


def draw_shore(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw a beach, water and boats."""
    light, camera, canvas = _outdoors(rng, width, height)
    blend = rng.uniform(0.35, 0.8)
    red, green, blue = (blend * s + (1 - blend) * w for s, w in zip(light.sky, (0.2, 0.35, 0.4), strict=True))
    if rng.random() < 0.6:
        _ridge(canvas, rng, "mountain", pick(STONES[:6] + GREENS[:2], rng), 0.2, 70.0)
    canvas.polygon(camera.floor(-400, 400, 1.0, 500), Material("water", (red, green, blue), Texture.COURSES, 0.1, None))
    near = rng.uniform(4, 9)
    beach = Material("ground", pick(SANDS, rng), Texture.GRAIN, 0.12, None)
    edge = [camera.at(x, 0, near * rng.uniform(0.85, 1.15)) for x in np.linspace(-15, 15, 9)]
    canvas.polygon(
        [
            (-1.0, float(height + 1)),
            (-1.0, edge[0][1]),
            *edge,
            (width + 1.0, edge[-1][1]),
            (width + 1.0, float(height + 1)),
        ],
        beach,
    )
    things: list[Standing] = []
    for _ in range(int(rng.integers(1, 4))):
        spot = camera.spot(rng.uniform(-12, 12), near + rng.uniform(4, 25))
        things.append((spot.depth, partial(_boat, canvas, spot, rng)))
    for _ in range(int(rng.integers(0, 4))):
        spot = camera.spot(rng.uniform(-5, 5), rng.uniform(3.5, near + 3))
        things.append((spot.depth, partial(_rock, canvas, spot, rng)))
    if rng.random() < 0.3:
        spot = camera.spot(rng.uniform(-2, 2), 0.8 * near)
        things.append((spot.depth, partial(animal, canvas, spot, rng, "dog")))
    dry = 0.85 * near
    draw_in_order([*things, *_people(canvas, camera, rng, dry), *_clutter(canvas, camera, rng, dry)])
    return canvas.render(light, rng)


def _outdoors(rng: np.random.Generator, width: int, height: int) -> tuple[Light, Camera, Canvas]:
    """Set up light, camera and a canvas with a sky, and what flies in it."""
    light = draw_light(rng)
    camera = Camera(0.9 * width, width * rng.uniform(0.4, 0.6), height * rng.uniform(0.35, 0.6), rng.uniform(1.4, 2.0))
    canvas = Canvas(width, height, camera.horizon)
    for i in range(10):
        pale = 0.05 * i
        red, green, blue = (c * (1 - pale) + 0.95 * max(light.sky) * pale for c in light.sky)
        top = camera.horizon * i / 10
        band = [(0.0, top), (float(width), top), (float(width), float(height)), (0.0, float(height))]
        canvas.polygon(band, Material("sky", (red, green, blue), Texture.CLOUDS, 0.1, glow=1.0))
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0):
        scale = rng.uniform(14, 30)
        bird(
            canvas,
            camera.spot(0, 20)._replace(x=rng.uniform(0, width), y=rng.uniform(0.1, 0.7) * camera.horizon, scale=scale),
            rng,
        )
    if rng.random() < 0.3:
        _aeroplane(canvas, rng, rng.uniform(0.2, 0.8) * width, rng.uniform(0.15, 0.5) * camera.horizon)
    return light, camera, canvas


def _ridge(canvas: Canvas, rng: np.random.Generator, name: str, colour: Colour, tall: float, depth: float) -> None:
    """Draw hills or a wood along the horizon; `tall` is the highest as a share of the picture."""
    count = int(rng.integers(5, 12)) if name == "mountain" else 30
    xs = np.linspace(-5, canvas.width + 5, count)
    texture = Texture.BLOTCHES if name == "mountain" else Texture.LEAVES
    tops = [(float(x), float(canvas.horizon - canvas.height * tall * rng.uniform(0.2, 1))) for x in xs]
    base = canvas.horizon + 1
    canvas.polygon([(tops[0][0], base), *tops, (tops[-1][0], base)], Material(name, colour, texture, 0.2, depth))


def _growth(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> list[Standing]:
    things: list[Standing] = []
    for _ in range(int(rng.integers(0, 5))):
        spot = camera.spot(rng.uniform(-9, 9), rng.uniform(8, 30))
        things.append((spot.depth, partial(scenery.tree, canvas, spot, rng, "tree")))
    for _ in range(int(rng.integers(0, 4))):
        spot = camera.spot(rng.uniform(-4, 4), rng.uniform(3.5, 12))
        things.append((spot.depth, partial(_rock if rng.random() < 0.5 else _flowers, canvas, spot, rng)))
    return things


def _people(canvas: Canvas, camera: Camera, rng: np.random.Generator, far: float) -> list[Standing]:
    """Let people stand up to so many metres away."""
    spots = [camera.spot(rng.uniform(-3, 3), rng.uniform(3.0, far)) for _ in range(int(rng.integers(0, 3)))]
    return [(spot.depth, partial(people.person, canvas, spot, rng)) for spot in spots]


def _clutter(canvas: Canvas, camera: Camera, rng: np.random.Generator, far: float) -> list[Standing]:
    """Leave things that have no class up to so many metres away."""
    spots = [camera.spot(rng.uniform(-3, 3), rng.uniform(3.0, far)) for _ in range(int(rng.integers(0, 3)))]
    return [(spot.depth, partial(scenery.clutter, canvas, spot, rng)) for spot in spots]


def _rock(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    stone = Material("rock", pick(STONES[:4] + SANDS[1:], rng), Texture.BLOTCHES, 0.2, spot.depth)
    size = rng.uniform(0.5, 1.2)
    turns = np.linspace(0, np.pi, 8)
    outline = [
        (size * np.cos(t) * rng.uniform(0.8, 1.2), 0.7 * size * np.sin(t) * rng.uniform(0.7, 1.2)) for t in turns
    ]
    canvas.shadow_ellipse(spot.at(0.1, 0), (1.2 * size * spot.scale, 0.12 * size * spot.scale))
    canvas.polygon([spot.at(float(x), float(y)) for x, y in outline], stone)


def _flowers(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    petals = Material(
        "flower",
        pick(((0.85, 0.2, 0.3), (0.9, 0.8, 0.2), (0.7, 0.4, 0.8)), rng),
        Texture.LEAVES,
        0.3,
        spot.depth,
    )
    for _ in range(12):
        at = spot.at(rng.uniform(-0.7, 0.7), rng.uniform(0.05, 0.35))
        canvas.ellipse(at, (0.2 * spot.scale, 0.15 * spot.scale), petals)


def _rail_fence(canvas: Canvas, camera: Camera, rng: np.random.Generator, z: float) -> None:
    wood = Material("fence", pick(WOODS, rng), Texture.GRAIN, 0.1, z)
    for x in np.arange(-16, 16, 1.6):
        canvas.polygon(camera.front((x, x + 0.2), (0, 1.25), z), wood)
    for low in (0.35, 0.85):
        canvas.polygon(camera.front((-16, 16), (low, low + 0.22), z), wood)


def _boat(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    size = rng.uniform(0.8, 1.6)
    spot = spot._replace(scale=spot.scale * size)
    hull = Material("boat", pick(PAINTS, rng), depth=spot.depth)
    canvas.shadow_ellipse(spot.at(0, 0), (2.4 * spot.scale, 0.15 * spot.scale))
    canvas.polygon([spot.at(*p) for p in ((-1.8, 0), (-2.3, 0.75), (2.5, 0.85), (1.9, 0))], hull)
    if rng.random() < 0.6:
        sail = Material("boat", pick(SNOW + PAINTS[4:6], rng), depth=spot.depth)
        canvas.line([spot.at(0, 0.8), spot.at(0, 4.6)], 0.1 * spot.scale, hull)
        canvas.polygon([spot.at(*p) for p in ((0.12, 1.1), (0.12, 4.5), (2.0, 1.1))], sail)
        canvas.polygon([spot.at(*p) for p in ((-0.12, 1.1), (-0.12, 3.9), (-1.4, 1.1))], sail)
    else:
        cabin = Material("boat", pick(SNOW, rng), depth=spot.depth)
        canvas.polygon([spot.at(*p) for p in ((-1.2, 0.8), (-1.0, 1.7), (0.7, 1.7), (0.9, 0.8))], cabin)


def _aeroplane(canvas: Canvas, rng: np.random.Generator, x: float, y: float) -> None:
    spot = Spot(x, y, rng.uniform(1.2, 2.4), 0.0)
    metal = Material("aeroplane", pick(SNOW + PAINTS[2:4], rng))
    dark = metal._replace(colour=shaded(metal.colour, 0.7))
    face = int(rng.choice([-1, 1]))
    canvas.ellipse((x, y), (18 * spot.scale, 2.2 * spot.scale), metal)
    fin, near_wing = ((-13, 1), (-18, 8), (-14, 8), (-9, 1.5)), ((-3, 0), (-9, -8), (-5, -8), (5, 0))
    far_wing = ((-2, 1), (-6, 6), (-3, 6), (4, 1.5))
    for part, paint in ((fin, metal), (near_wing, dark), (far_wing, dark)):
        canvas.polygon([spot.at(face * px, py) for px, py in part], paint)
