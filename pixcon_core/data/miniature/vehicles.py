"""Cars, buses, trucks and trams, as boxes seen along the street, and cars seen from the side."""

from typing import NamedTuple

import numpy as np

from pixcon_core.data.miniature.camera import Camera, Spot
from pixcon_core.data.miniature.canvas import Canvas, Colour, Material
from pixcon_core.data.miniature.paint import GLASS, PAINTS, RUBBER, pick, shaded

RED_LAMP, WHITE_LAMP, PLATE = (0.75, 0.08, 0.06), (0.95, 0.93, 0.85), (0.85, 0.83, 0.7)
BUS_PAINTS, CARGO_PAINTS = PAINTS[3:6] + PAINTS[7:8], PAINTS[1:4] + PAINTS[5:7]


class Box(NamedTuple):
    """Where a vehicle stands: middle of its width, and its near end, in metres."""

    x: float
    near: float
    width: float
    height: float
    length: float


def car(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float) -> None:
    """Draw a car or a van, seen from behind or in front."""
    van = rng.random() < 0.2
    tall, waist = (rng.uniform(1.7, 2.1), 1.05) if van else (rng.uniform(1.35, 1.55), 0.9)
    # How far the roof is in from the sides and from the rear.
    inset, rake = (0.08, 0.15) if van else (0.2, 0.55)
    box, paint = Box(x, near, rng.uniform(1.7, 1.9), tall, 4.2), pick(PAINTS, rng)
    glass, back = Material("car", GLASS, depth=near), Material("car", paint, depth=near)
    _ground_shadow(canvas, camera, box)
    side = _side_towards_camera(box)
    if side is not None:
        far, inward = near + box.length, float(np.sign(box.x - side))
        flank = Material("car", shaded(paint, 0.75), depth=near)
        canvas.polygon(camera.quad(side, 0.3, waist, near, far), flank)
        front = [(side + inward * inset, tall, far - 1.3), (side, waist, far - 0.8)]
        rear = [(side, waist, near), (side + inward * inset, tall, near + rake)]
        canvas.polygon([camera.at(*p) for p in rear + front], glass)
        _side_wheels(canvas, camera, box, "car", 0.31, side)
    _wheels(canvas, camera, box, "car")
    _face(canvas, camera, box, "car", paint, (0.0, 1.0, 0.3, waist))
    for margin, height, low, material in ((0.0, tall, waist, back), (0.13, tall - 0.1, waist + 0.04, glass)):
        bottom, top = box.width / 2 - margin, box.width / 2 - inset - margin
        outline = [
            (-bottom, low, near),
            (-top, height, near + rake),
            (top, height, near + rake),
            (bottom, low, near),
        ]
        canvas.polygon([camera.at(x + dx, y, z) for dx, y, z in outline], material)
    _lamps(canvas, camera, box, "car", rng)


def car_from_side(canvas: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """Draw a car that crosses the street."""
    flip = rng.choice([-1, 1])
    paint = Material("car", pick(PAINTS, rng), depth=spot.depth)
    canvas.shadow_ellipse(spot.at(0, 0.05), (2.2 * spot.scale, 0.15 * spot.scale))
    outline = [
        (-2.1, 0.3),
        (-2.1, 0.85),
        (-1.7, 0.95),
        (-1.1, 1.45),
        (0.5, 1.45),
        (1.15, 0.95),
        (2.05, 0.8),
        (2.1, 0.3),
    ]
    canvas.polygon([spot.at(flip * px, py) for px, py in outline], paint)
    glass = Material("car", GLASS, depth=spot.depth)
    rear_window = ((-1.45, 0.95), (-1.0, 1.36), (-0.35, 1.36), (-0.35, 0.95))
    front_window = ((-0.25, 0.95), (-0.25, 1.36), (0.42, 1.36), (0.95, 0.95))
    for window in (rear_window, front_window):
        canvas.polygon([spot.at(flip * px, py) for px, py in window], glass)
    for wheel in (-1.3, 1.3):
        centre = spot.at(wheel, 0.32)
        canvas.ellipse(centre, (0.34 * spot.scale, 0.34 * spot.scale), Material("car", RUBBER, depth=spot.depth))
        canvas.ellipse(centre, (0.16 * spot.scale, 0.16 * spot.scale), Material("car", PAINTS[2], depth=spot.depth))


def bus(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float) -> None:
    """Draw a bus: a box with a band of windows and a lit sign of its line."""
    box, paint = Box(x, near, 2.5, rng.uniform(2.9, 3.2), 11.0), pick(BUS_PAINTS, rng)
    _body(canvas, camera, box, "bus", paint)
    _window_band(canvas, camera, box, "bus", count=7, low=1.2, high=2.4)
    _face(canvas, camera, box, "bus", GLASS, (0.06, 0.94, 1.2, 2.45))
    _face(canvas, camera, box, "bus", (0.85, 0.6, 0.15), (0.25, 0.75, 2.55, 2.8))
    _lamps(canvas, camera, box, "bus", rng)


def truck(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float) -> None:
    """Draw a truck: a plain cargo box over a dark chassis, and the cab seen beside it."""
    box, paint = Box(x, near, 2.4, rng.uniform(3.0, 3.6), 7.0), pick(CARGO_PAINTS, rng)
    cab = Box(x, near + box.length, 2.3, 2.6, 2.0)
    _body(canvas, camera, cab, "truck", pick(PAINTS, rng))
    _body(canvas, camera, box, "truck", RUBBER)
    side = _side_towards_camera(box)
    if side is not None:
        cargo = camera.quad(side, 0.95, box.height, near, near + box.length)
        canvas.polygon(cargo, Material("truck", shaded(paint, 0.75), depth=near))
    _face(canvas, camera, box, "truck", paint, (0.0, 1.0, 0.95, box.height))
    _face(canvas, camera, box, "truck", shaded(paint, 0.7), (0.485, 0.515, 1.0, box.height - 0.1))
    _lamps(canvas, camera, box, "truck", rng)


def tram(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, near: float) -> None:
    """Draw a tram, labelled train: long, two-coloured, with a round lamp and a pantograph."""
    box, paint = Box(x, near, 2.4, 3.3, 26.0), pick(PAINTS, rng)
    _body(canvas, camera, box, "train", paint)
    light = pick(PAINTS[2:4], rng)
    side = _side_towards_camera(box)
    if side is not None:
        upper = camera.quad(side, 1.2, box.height, near, near + box.length)
        canvas.polygon(upper, Material("train", shaded(light, 0.8), depth=near))
    _window_band(canvas, camera, box, "train", count=12, low=1.5, high=2.6)
    _face(canvas, camera, box, "train", light, (0.0, 1.0, 1.2, box.height))
    _face(canvas, camera, box, "train", GLASS, (0.1, 0.9, 1.5, 2.7))
    spot = camera.spot(x, near)
    canvas.ellipse(spot.at(0, 0.8), (0.17 * spot.scale, 0.17 * spot.scale), Material("train", WHITE_LAMP, depth=near))
    bow = Material("train", RUBBER, depth=near)
    canvas.line([spot.at(-0.5, 4.1), spot.at(0, 3.3), spot.at(0.5, 4.1), spot.at(-0.5, 4.1)], 0.06 * spot.scale, bow)


def _body(canvas: Canvas, camera: Camera, box: Box, name: str, paint: Colour) -> None:
    """Draw wheels, flank and rear of a box."""
    _ground_shadow(canvas, camera, box)
    side = _side_towards_camera(box)
    if side is not None:
        flank = camera.quad(side, 0.35, box.height, box.near, box.near + box.length)
        canvas.polygon(flank, Material(name, shaded(paint, 0.75), depth=box.near))
        _side_wheels(canvas, camera, box, name, 0.45, side)
    _wheels(canvas, camera, box, name)
    _face(canvas, camera, box, name, paint, (0.0, 1.0, 0.35, box.height))


def _side_towards_camera(box: Box) -> float | None:
    """Return x of the flank that can be seen; None where the camera looks straight at the rear."""
    if box.x - box.width / 2 > 0:
        return box.x - box.width / 2
    if box.x + box.width / 2 < 0:
        return box.x + box.width / 2
    return None


def _face(
    canvas: Canvas,
    camera: Camera,
    box: Box,
    name: str,
    colour: Colour,
    part: tuple[float, float, float, float],
) -> None:
    """Fill a part of the rear: from and to as shares of the width, from and to in metres up."""
    left = box.x - box.width / 2
    start, end, low, high = left + part[0] * box.width, left + part[1] * box.width, part[2], part[3]
    canvas.polygon(camera.front((start, end), (low, high), box.near), Material(name, colour, depth=box.near))


def _window_band(canvas: Canvas, camera: Camera, box: Box, name: str, count: int, low: float, high: float) -> None:
    side = _side_towards_camera(box)
    if side is None:
        return
    step = box.length / count
    for z in box.near + step * np.arange(count):
        pane = camera.quad(side, low, high, z + 0.1 * step, z + 0.9 * step)
        canvas.polygon(pane, Material(name, GLASS, depth=box.near))


def _wheels(canvas: Canvas, camera: Camera, box: Box, name: str) -> None:
    spot = camera.spot(box.x, box.near)
    for side in (-1, 1):
        centre = spot.at(side * (box.width / 2 - 0.2), 0.22)
        canvas.ellipse(centre, (0.13 * spot.scale, 0.22 * spot.scale), Material(name, RUBBER, depth=box.near))


def _side_wheels(canvas: Canvas, camera: Camera, box: Box, name: str, radius: float, side: float) -> None:
    wheel = Material(name, RUBBER, depth=box.near)
    for z in (box.near + 0.2 * box.length, box.near + 0.8 * box.length):
        spot = camera.spot(side, z)
        # Seen almost along its axle's plane, a wheel is narrower the farther ahead it is.
        canvas.ellipse(spot.at(0, radius), (0.7 * radius * spot.scale * abs(side) / z + 1, radius * spot.scale), wheel)


def _lamps(canvas: Canvas, camera: Camera, box: Box, name: str, rng: np.random.Generator) -> None:
    spot = camera.spot(box.x, box.near)
    lamp = Material(name, RED_LAMP if rng.random() < 0.6 else WHITE_LAMP, depth=box.near)
    for side in (-1, 1):
        centre = spot.at(side * (box.width / 2 - 0.2), 0.72)
        canvas.ellipse(centre, (0.15 * spot.scale, 0.1 * spot.scale), lamp)
    _face(canvas, camera, box, name, PLATE, (0.36, 0.64, 0.42, 0.54))


def _ground_shadow(canvas: Canvas, camera: Camera, box: Box) -> None:
    half = box.width / 2 + 0.15
    canvas.shadow(camera.floor(box.x - half, box.x + half, max(box.near - 0.4, 1.0), box.near + box.length))
