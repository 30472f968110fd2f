"""Rooms with furniture, with the class names of PASCAL-Context."""

from collections.abc import Callable
from functools import partial

import numpy as np

from pixcon_core.data.miniature import furniture, people, scenery
from pixcon_core.data.miniature.animals import animal
from pixcon_core.data.miniature.camera import Camera
from pixcon_core.data.miniature.canvas import Canvas, Material, Scene, Standing, Texture, draw_in_order
from pixcon_core.data.miniature.light import draw_light
from pixcon_core.data.miniature.paint import GLASS, PAINTS, SNOW, STONES, WOODS, pick, shaded


def draw_room(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw a room with furniture, perhaps with someone in it."""
    light = draw_light(rng)._replace(haze=0.0, shadow=0.3, exposure=rng.uniform(0.7, 1.15))
    camera = Camera(0.8 * width, width * rng.uniform(0.4, 0.6), height * rng.uniform(0.35, 0.5), rng.uniform(1.3, 1.7))
    canvas = Canvas(width, height, camera.horizon)
    left, right, deep = -rng.uniform(1.6, 2.6), rng.uniform(1.6, 2.6), rng.uniform(4.2, 6.0)
    _shell(canvas, camera, rng, (left, right), deep)
    things: list[Standing] = []

    def put(figure: Callable[..., None], x: float, z: float) -> None:
        things.append((z, partial(figure, canvas, camera, rng, x, z)))

    along_wall = [furniture.cabinet, furniture.shelves, furniture.potted_plant, furniture.sofa, furniture.bed]
    for x in (left + 0.9, right - 0.9):
        figure = along_wall[int(rng.integers(len(along_wall)))]
        put(figure, x, deep - (2.2 if figure is furniture.bed else 1.0))
    for _ in range(int(rng.integers(1, 4))):
        x, z = rng.uniform(left + 0.6, right - 0.6), rng.uniform(2.2, deep - 1.6)
        put(
            [furniture.table, furniture.chair, furniture.chair, furniture.potted_plant][int(rng.integers(4))],
            x,
            z,
        )
    for species in ("cat", "dog"):
        if rng.random() < 0.45:
            spot = camera.spot(rng.uniform(left + 0.5, right - 0.5), rng.uniform(1.8, 3.0))
            things.append((spot.depth, partial(animal, canvas, spot, rng, species)))
    if rng.random() < 0.5:
        spot = camera.spot(rng.uniform(left + 0.4, right - 0.4), rng.uniform(2.3, deep - 0.6))
        things.append((spot.depth, partial(people.person, canvas, spot, rng)))
    for _ in range(int(rng.integers(0, 3))):
        spot = camera.spot(rng.uniform(left + 0.3, right - 0.3), rng.uniform(2.0, deep - 0.5))
        things.append((spot.depth, partial(scenery.clutter, canvas, spot, rng)))
    draw_in_order(things)
    return canvas.render(light, rng)


def _shell(canvas: Canvas, camera: Camera, rng: np.random.Generator, sides: tuple[float, float], deep: float) -> None:
    """Paint floor, ceiling, walls, and windows, doors, curtains and lamps in them."""
    left, right = sides
    high = rng.uniform(2.4, 2.9)
    paint = pick(STONES + SNOW, rng)
    plaster = Material("wall", paint, Texture.BLOTCHES, 0.05)
    floor = Material(
        "floor",
        pick(WOODS + STONES, rng),
        Texture.COURSES if rng.random() < 0.5 else Texture.GRAIN,
        0.1,
    )
    canvas.polygon(camera.floor(left, right, 0.7, deep), floor)
    canvas.polygon(camera.floor(left, right, 0.7, deep, y=high), Material("ceiling", shaded(pick(SNOW, rng), 0.95)))
    for x, factor in ((left, 0.85), (right, 0.75)):
        canvas.polygon(camera.quad(x, 0, high, 0.7, deep), plaster._replace(colour=shaded(paint, factor)))
    canvas.polygon(camera.front((left, right), (0, high), deep), plaster)
    free = [(left + 0.1, right - 0.1)]
    if rng.random() < 0.7:
        x = rng.uniform(left + 0.3, right - 1.5)
        _window(canvas, camera, rng, x, deep)
        free = [(left + 0.1, x - 0.3), (x + 1.5, right - 0.1)]  # beside its curtains
    if rng.random() < 0.7:
        start, end = max(free, key=lambda span: span[1] - span[0])
        if end - start > 1.0:
            x = rng.uniform(start, end - 1.0)
            door = Material("door", pick(WOODS, rng), Texture.GRAIN, 0.08)
            canvas.polygon(camera.front((x, x + 1.0), (0.0, 2.05), deep), door)
    if rng.random() < 0.5:
        lamp = camera.spot((left + right) / 2, deep * 0.75, y=high)
        canvas.line([lamp.at(0, 0), lamp.at(0, -0.4)], 0.02 * lamp.scale, Material("light", (0.3, 0.3, 0.3)))
        canvas.ellipse(
            lamp.at(0, -0.5),
            (0.28 * lamp.scale, 0.18 * lamp.scale),
            Material("light", (1.0, 0.97, 0.85), glow=1.0),
        )


def _window(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a window with two panes, perhaps between curtains."""
    frame = Material("window", pick(PAINTS[3:4], rng))
    canvas.polygon(camera.front((x, x + 1.2), (0.9, 2.1), z), frame)
    for pane in (x + 0.06, x + 0.63):
        sky = Material("window", pick(((0.6, 0.75, 0.95), (0.8, 0.82, 0.85), GLASS), rng))
        canvas.polygon(camera.front((pane, pane + 0.5), (0.96, 2.04), z), sky)
    cloth = Material("curtain", pick(PAINTS + STONES, rng), Texture.BLOTCHES, 0.15)
    for edge in (x - 0.25, x + 1.05) if rng.random() < 0.6 else ():
        canvas.polygon(camera.front((edge, edge + 0.4), (0.5, 2.25), z), cloth)
