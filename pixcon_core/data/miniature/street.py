"""Street scenes as a car's camera sees them, with the class names of Cityscapes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from pixcon_core.data.miniature import people, scenery, vehicles
from pixcon_core.data.miniature.camera import Camera, draw_camera
from pixcon_core.data.miniature.canvas import Canvas, Material, Scene, Standing, Texture, draw_in_order
from pixcon_core.data.miniature.light import Light, draw_light
from pixcon_core.data.miniature.paint import GRASSES, GREENS, GREYS, PAINTS, STONES, pick, shaded

FAR = 90.0
NEAR = 1.2


class Plan(NamedTuple):
    """The street from above, in metres from the camera; left is negative."""

    kerbs: tuple[float, float]
    fronts: tuple[float, float]
    """Where pavements end and houses begin."""
    lane: float
    """Middle of the lane of oncoming cars."""


def draw_street(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw a street: houses and trees, traffic and people, in some weather."""
    light, camera = draw_light(rng), draw_camera(rng, width, height)
    canvas = Canvas(width, height, camera.horizon)
    side = rng.choice([-1.0, 1.0])  # of the oncoming traffic
    own, other = -side * rng.uniform(1.8, 3.8), side * rng.uniform(4.5, 6.5)
    kerbs = (min(own, other), max(own, other))
    fronts = (kerbs[0] - rng.uniform(2.5, 6.0), kerbs[1] + rng.uniform(2.5, 6.0))
    plan = Plan(kerbs, fronts, side * rng.uniform(2.6, 3.2))

    _sky(canvas, rng, light)
    _ground(canvas, camera, rng, plan)
    things = [
        *_frontages(canvas, camera, rng, plan, light),
        *_furniture(canvas, camera, rng, plan),
        *_traffic(canvas, camera, rng, plan),
        *_passers_by(canvas, camera, rng, plan),
    ]
    _long_shadows(canvas, camera, rng, plan, light)
    draw_in_order(things)
    _ego_car(canvas, rng)
    return canvas.render(light, rng)


def _sky(canvas: Canvas, rng: np.random.Generator, light: Light) -> None:
    bands = 12
    for i in range(bands):
        top = canvas.horizon * i / bands
        pale = 0.5 * i / bands
        colour = tuple(c * (1 - pale) + 0.95 * max(light.sky) * pale for c in light.sky)
        sky = Material("sky", (colour[0], colour[1], colour[2]), Texture.CLOUDS, 0.08, glow=1.0)
        canvas.polygon([(0, top), (canvas.width, top), (canvas.width, canvas.height), (0, canvas.height)], sky)
    for _ in range(int(rng.integers(0, 6))):
        cloud = Material("sky", shaded((0.9, 0.9, 0.92), min(1.0, max(light.sky))), Texture.CLOUDS, 0.06, glow=1.0)
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, 0.7 * canvas.horizon)
        for _ in range(5):
            at = x + rng.normal(0, 10), y + rng.normal(0, 2)
            canvas.ellipse(at, (rng.uniform(5, 14), rng.uniform(2, 5)), cloud)


def _ground(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan) -> None:
    """Paint grass, pavements, road, markings and what closes the street at its far end."""
    name, colours = ("vegetation", GREENS) if rng.random() < 0.6 else ("building", STONES)
    skyline = Material(name, pick(colours, rng), Texture.LEAVES, 0.25, 80.0)
    xs = np.linspace(0, canvas.width, 13)
    ridge = [(float(x), float(camera.horizon - canvas.height * rng.uniform(0.02, 0.11))) for x in xs]
    canvas.polygon([(0, camera.horizon + 1), *ridge, (canvas.width, camera.horizon + 1)], skyline)
    far = 300.0
    grass = Material("terrain", pick(GRASSES, rng), Texture.LEAVES, 0.2, None)
    canvas.polygon(camera.floor(-200, 200, 1.0, far), grass)
    paving = Material("sidewalk", pick(STONES[:6], rng), Texture.GRAIN, 0.1, None)
    if rng.random() < 0.5:
        # A verge: grass between pavement and houses.
        edges = (plan.fronts[0] + rng.uniform(0.0, 2.0), plan.fronts[1] - rng.uniform(0.0, 2.0))
    else:
        edges = (plan.fronts[0] - 6, plan.fronts[1] + 6)
    canvas.polygon(camera.floor(*edges, 1.0, far), paving)
    road = Material("road", pick(GREYS, rng), Texture.GRAIN, rng.uniform(0.06, 0.16), None)
    canvas.polygon(camera.floor(*plan.kerbs, 1.0, far), road)
    stone = Material("sidewalk", shaded(paving.colour, 1.2), depth=None)
    for kerb in plan.kerbs:
        outer = kerb + (0.25 if kerb > 0 else -0.25)
        canvas.polygon(camera.floor(min(kerb, outer), max(kerb, outer), 1.0, far), stone)
    _road_surface(canvas, camera, rng, plan, road)


def _road_surface(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan, road: Material) -> None:
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.uniform(*plan.kerbs), rng.uniform(2.5, 25)
        patch = road._replace(colour=shaded(road.colour, rng.uniform(0.8, 1.15)))
        left, right = max(x - rng.uniform(0.3, 2), plan.kerbs[0]), min(x + 1.5, plan.kerbs[1])
        canvas.polygon(camera.floor(left, right, z, z + rng.uniform(0.5, 8)), patch)
    paint = Material("road", shaded((0.85, 0.85, 0.8), rng.uniform(0.75, 1.0)), Texture.GRAIN, 0.1, None)
    middle = plan.lane / 2
    if rng.random() < 0.75:
        for z in np.arange(rng.uniform(1, 5), 70, 6.0):
            canvas.polygon(camera.floor(middle - 0.08, middle + 0.08, z, z + 3), paint)
    if rng.random() < 0.4:
        for kerb in plan.kerbs:
            edge = kerb * 0.93
            canvas.polygon(camera.floor(edge - 0.07, edge + 0.07, 1.0, FAR), paint)
    if rng.random() < 0.25:
        z = rng.uniform(6, 16)
        for x in np.arange(plan.kerbs[0] + 0.4, plan.kerbs[1] - 0.5, 1.0):
            canvas.polygon(camera.floor(x, x + 0.5, z, z + 3), paint)


def _frontages(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan, light: Light) -> list[Standing]:
    """Line both sides of the street with houses, walls, fences, hedges and gaps."""
    things: list[Standing] = []
    built_up = rng.uniform(0.25, 0.65)
    for side, x in zip((-1, 1), plan.fronts, strict=True):
        lit = 1.0 - 0.35 * max(0.0, -side * light.sun)
        z = NEAR + rng.uniform(0, 4)
        while z < FAR:
            end = z + rng.uniform(5, 18)
            draw = rng.random()
            if draw < built_up:
                step_back = x + side * rng.uniform(0, 1.5)
                things.append((end, partial(scenery.house, canvas, camera, rng, step_back, z, end, lit)))
            else:
                low = [scenery.wall, scenery.wall, scenery.fence, scenery.fence, scenery.hedge][int(rng.integers(5))]
                if rng.random() < 0.85:
                    things.append((end, partial(low, canvas, camera, rng, x, z, end)))
                things += _garden(canvas, camera, rng, x + side * 4, (z, end))
            z = end + (rng.uniform(3, 7) if rng.random() < 0.2 else 0)
        if rng.random() < 0.25:
            near = rng.uniform(3, 9)
            railing = plan.kerbs[(side + 1) // 2] + 0.4 * side
            things.append((near + 5, partial(scenery.fence, canvas, camera, rng, railing, near, near + 8)))
    return things


def _garden(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, span: tuple[float, float]
) -> list[Standing]:
    """Plant trees behind a fence, or set a house far back."""
    outward = np.sign(x)
    plants: list[Standing] = []
    for _ in range(int(rng.integers(1, 4))):
        spot = camera.spot(x + outward * rng.uniform(0, 8), max(rng.uniform(*span), 4.0))
        figure = scenery.tree if rng.random() < 0.75 else scenery.bush
        plants.append((span[1] + 0.1 + 0.01 * spot.depth, partial(figure, canvas, spot, rng)))
    return plants


def _furniture(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan) -> list[Standing]:
    """Set trees, lamps, signs, lights and clutter along the kerbs."""
    things: list[Standing] = []
    kinds = (
        (scenery.tree, rng.integers(0, 5)),
        (scenery.lamp_post, rng.integers(1, 5)),
        (scenery.traffic_sign, rng.integers(1, 5)),
        (scenery.traffic_light, rng.integers(1, 4) if rng.random() < 0.5 else 0),
        (scenery.bollard, rng.integers(2, 7) if rng.random() < 0.4 else 0),
        (scenery.clutter, rng.integers(0, 4)),
        (scenery.bush, rng.integers(0, 3)),
    )
    for figure, count in kinds:
        for _ in range(count):
            side = int(rng.integers(2))
            inset = rng.uniform(0.4, 0.9) * (1 if side else -1)
            nearest = 5.0 if figure is scenery.tree else 3.5
            spot = camera.spot(plan.kerbs[side] + inset, nearest + 16 * rng.random() ** 1.3)
            things.append((spot.depth, partial(figure, canvas, spot, rng)))
    return things


def _traffic(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan) -> list[Standing]:
    """Park cars at the kerbs and send others along the lanes."""
    things: list[Standing] = []

    def put(figure: Callable[..., None], x: float, near: float) -> None:
        # By its near end: what stands on the pavement beside it is hidden by it.
        things.append((near, partial(figure, canvas, camera, rng, x, near)))

    for side, kerb in enumerate(plan.kerbs):
        if rng.random() < 0.55:
            z = rng.uniform(4, 12)
            for _ in range(int(rng.integers(1, 6))):
                put(vehicles.car, kerb + (-1.1 if side else 1.1), z)
                z += 4.8 + rng.exponential(4)
    for x in (0.0, plan.lane):
        z = rng.uniform(6, 24)
        for _ in range(int(rng.integers(0, 3))):
            heavy = rng.random()
            figure, length = vehicles.car, 4.2
            if heavy < 0.54:
                figure, length = [(vehicles.bus, 11.0), (vehicles.truck, 9.0), (vehicles.tram, 26.0)][int(heavy / 0.18)]
            put(figure, x + rng.normal(0, 0.25), z)
            z += length + rng.uniform(5, 25)
    if rng.random() < 0.2:
        spot = camera.spot(rng.uniform(-5, 5), rng.uniform(12, 25))
        things.append((spot.depth, partial(vehicles.car_from_side, canvas, spot, rng)))
    return things


def _passers_by(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan) -> list[Standing]:
    """Let people walk, cycle and ride, most of them on the pavements."""
    things: list[Standing] = []
    for _ in range(int(rng.integers(2, 9))):
        side = int(rng.integers(2))
        x = plan.kerbs[side] + rng.random() * (plan.fronts[side] - plan.kerbs[side])
        if rng.random() < 0.15:
            x = rng.uniform(*plan.kerbs)
        spot = camera.spot(x, 3.5 + 10 * rng.random() ** 1.3)
        things.append((spot.depth, partial(people.person, canvas, spot, rng)))
    for figure, most in ((people.bicycle, 4), (people.motorcycle, 3)):
        for _ in range(int(rng.integers(0, most))):
            ridden, side = bool(rng.random() < 0.65), int(rng.integers(2))
            inset = rng.uniform(2.2, 2.9) if ridden else -rng.uniform(0.5, 1.5)
            spot = camera.spot(plan.kerbs[side] + inset * (-1 if side else 1), 4 + 9 * rng.random())
            sideways = bool(rng.random() < (0.35 if ridden else 0.8))
            # Whoever rides passes in front of the parked cars beside him.
            order = spot.depth - 3 * ridden
            things.append((order, partial(figure, canvas, spot, rng, ridden=ridden, sideways=sideways)))
    return things


def _long_shadows(canvas: Canvas, camera: Camera, rng: np.random.Generator, plan: Plan, light: Light) -> None:
    """Cast the shadows of houses over the ground, from the side of the sun."""
    if abs(light.sun) < 0.15:
        return
    side = 1 if light.sun < 0 else 0  # a sun on the left is behind the houses on the left when it lights the right
    reach = abs(light.sun) * rng.uniform(2, 9)
    z = NEAR
    while z < 60:
        end = z + rng.uniform(5, 18)
        if rng.random() < 0.7:
            front = plan.fronts[side]
            tip = front - reach if side else front + reach
            corners = [(front, z), (tip, z + 1.5), (tip, end + 1.5), (front, end)]
            canvas.shadow([camera.at(x, 0, depth) for x, depth in corners])
        z = end


def _ego_car(canvas: Canvas, rng: np.random.Generator) -> None:
    """Show the bonnet of the car that carries the camera, in most pictures."""
    if rng.random() < 0.25:
        return
    bonnet = Material("ego vehicle", pick(PAINTS, rng), Texture.BLOTCHES, 0.1)
    high = canvas.height * rng.uniform(0.03, 0.1)
    middle = canvas.width * rng.uniform(0.45, 0.55)
    canvas.ellipse((middle, canvas.height), (canvas.width * rng.uniform(0.5, 0.65), high), bonnet)
