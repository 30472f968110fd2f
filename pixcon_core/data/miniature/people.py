"""People, and those on two wheels."""

import math

import numpy as np

from pixcon_core.data.miniature.camera import Spot
from pixcon_core.data.miniature.canvas import Canvas, Material, Point
from pixcon_core.data.miniature.paint import GREYS, PAINTS, RUBBER, SKINS, pick, shaded


def person(canvas: Canvas, spot: Spot, rng: np.random.Generator, name: str = "person") -> None:
    """Draw someone who walks or stands."""
    tall = rng.uniform(1.5, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.3)
    canvas.shadow_ellipse(spot.at(0.15, 0.02), (0.45 * spot.scale, 0.1 * spot.scale))
    trousers = Material(name, pick(PAINTS, rng), depth=spot.depth)
    stride = rng.uniform(-0.3, 0.3)
    hip, shoulder = 0.48 * tall, 0.82 * tall
    for side in (-1, 1):
        foot = spot.at(side * stride, 0)
        canvas.line([spot.at(0.06 * side, hip), foot], 0.15 * spot.scale, trousers)
    _upper_body(canvas, spot, rng, name, (hip, shoulder, tall))


def _upper_body(
    canvas: Canvas, spot: Spot, rng: np.random.Generator, name: str, heights: tuple[float, float, float]
) -> None:
    hip, shoulder, tall = heights
    coat = pick(PAINTS, rng)
    cloth, skin = Material(name, coat, depth=spot.depth), Material(name, pick(SKINS, rng), depth=spot.depth)
    hair = Material(name, pick(PAINTS[:2] + PAINTS[-2:], rng), depth=spot.depth)
    low = hip - rng.uniform(0.02, 0.3)
    trunk = [spot.at(-0.17, low), spot.at(-0.23, shoulder), spot.at(0.23, shoulder), spot.at(0.17, low)]
    canvas.polygon(trunk, cloth)
    sleeve = Material(name, shaded(coat, 0.8), depth=spot.depth)
    for side in (-1, 1):
        elbow = spot.at(side * 0.3, (hip + shoulder) / 2)
        hand = spot.at(side * rng.uniform(0.15, 0.35), hip)
        canvas.line([spot.at(side * 0.22, shoulder - 0.05), elbow, hand], 0.1 * spot.scale, sleeve)
    head = spot.at(0, tall - 0.13)
    canvas.ellipse(head, (0.11 * spot.scale, 0.14 * spot.scale), skin)
    canvas.ellipse(spot.at(0, tall - 0.06), (0.12 * spot.scale, 0.08 * spot.scale), hair)


def bicycle(canvas: Canvas, spot: Spot, rng: np.random.Generator, *, ridden: bool, sideways: bool) -> None:
    """Draw a bicycle, with its rider or left standing."""
    frame = Material("bicycle", pick(PAINTS, rng), depth=spot.depth)
    tyre = Material("bicycle", RUBBER, depth=spot.depth)
    canvas.shadow_ellipse(spot.at(0, 0.02), ((0.8 if sideways else 0.3) * spot.scale, 0.08 * spot.scale))
    if not sideways:
        canvas.ellipse(spot.at(0, 0.34), (0.05 * spot.scale, 0.34 * spot.scale), tyre)
        canvas.line([spot.at(0, 0.4), spot.at(0, 0.95)], 0.07 * spot.scale, frame)
        canvas.line([spot.at(-0.28, 0.98), spot.at(0.28, 0.98)], 0.06 * spot.scale, frame)
        if ridden:
            _rider(canvas, spot, rng, lean=0.0)
        return
    through = Material("bicycle", pick(GREYS, rng), depth=spot.depth)  # annotators fill wheels
    for x in (-0.52, 0.52):
        canvas.ellipse(spot.at(x, 0.34), (0.34 * spot.scale, 0.34 * spot.scale), tyre)
        canvas.ellipse(spot.at(x, 0.34), (0.28 * spot.scale, 0.28 * spot.scale), through)
    saddle, crank, bar = spot.at(-0.2, 0.9), spot.at(-0.05, 0.32), spot.at(0.42, 0.98)
    hubs = spot.at(-0.52, 0.34), spot.at(0.52, 0.34)
    canvas.line([hubs[0], crank, bar, hubs[1]], 0.06 * spot.scale, frame)
    canvas.line([hubs[0], saddle, crank], 0.06 * spot.scale, frame)
    canvas.line([saddle, spot.at(0.36, 0.8)], 0.06 * spot.scale, frame)
    if ridden:
        _rider(canvas, spot, rng, lean=rng.uniform(0.2, 0.45))


def motorcycle(canvas: Canvas, spot: Spot, rng: np.random.Generator, *, ridden: bool, sideways: bool) -> None:
    """Draw a motorcycle, heavier than a bicycle and with a tank, a seat and a lamp."""
    body = Material("motorcycle", pick(PAINTS, rng), depth=spot.depth)
    dark = Material("motorcycle", RUBBER, depth=spot.depth)
    lamp = Material("motorcycle", (0.9, 0.85, 0.7), depth=spot.depth)
    canvas.shadow_ellipse(spot.at(0, 0.02), ((1.0 if sideways else 0.45) * spot.scale, 0.1 * spot.scale))
    if not sideways:
        canvas.ellipse(spot.at(0, 0.32), (0.11 * spot.scale, 0.32 * spot.scale), dark)
        canvas.ellipse(spot.at(0, 0.75), (0.26 * spot.scale, 0.34 * spot.scale), body)
        canvas.line([spot.at(-0.4, 1.05), spot.at(0.4, 1.05)], 0.09 * spot.scale, dark)
        canvas.ellipse(spot.at(0, 0.8), (0.11 * spot.scale, 0.11 * spot.scale), lamp)
    else:
        for x in (-0.68, 0.68):
            canvas.ellipse(spot.at(x, 0.31), (0.31 * spot.scale, 0.31 * spot.scale), dark)
        outline = [
            (-0.9, 0.75),
            (-0.5, 0.95),
            (0.0, 0.85),
            (0.25, 1.0),
            (0.55, 0.95),
            (0.45, 0.4),
            (-0.4, 0.3),
        ]
        canvas.polygon([spot.at(x, y) for x, y in outline], body)
        canvas.line([spot.at(0.68, 0.31), spot.at(0.4, 1.15)], 0.09 * spot.scale, dark)
        canvas.ellipse(spot.at(0.6, 0.88), (0.1 * spot.scale, 0.1 * spot.scale), lamp)
    if ridden:
        _rider(canvas, spot, rng, lean=0.2 if sideways else 0.0)


def _rider(canvas: Canvas, spot: Spot, rng: np.random.Generator, lean: float) -> None:
    """Draw someone sitting at 0.9 m, leaning so many metres forward."""
    jacket = pick(PAINTS, rng)
    cloth = Material("rider", jacket, depth=spot.depth)
    sleeve = Material("rider", shaded(jacket, 0.8), depth=spot.depth)
    trousers = Material("rider", pick(PAINTS, rng), depth=spot.depth)
    skin = Material("rider", pick(SKINS, rng), depth=spot.depth)
    hip, shoulder = (-0.2 if lean else 0.0), 1.4
    for side in (-1, 1):
        knee: Point = (0.12 if lean else 0.18 * side, 0.65)
        foot: Point = (-0.05 + 0.08 * side if lean else 0.12 * side, 0.2 if side > 0 else 0.35)
        canvas.line([spot.at(hip, 0.92), spot.at(*knee), spot.at(*foot)], 0.15 * spot.scale, trousers)
    half = 0.15 if lean else 0.22
    trunk = [
        (hip - half, 0.85),
        (hip + lean - half, shoulder),
        (hip + lean + half, shoulder),
        (hip + half, 0.85),
    ]
    canvas.polygon([spot.at(x, y) for x, y in trunk], cloth)
    for side in (-1, 1):
        hand = spot.at(0.42, 1.0) if lean else spot.at(0.28 * side, 1.0)
        canvas.line([spot.at(hip + lean + (0 if lean else 0.2 * side), 1.33), hand], 0.1 * spot.scale, sleeve)
    x = hip + 1.15 * lean
    canvas.ellipse(spot.at(x, 1.58), (0.11 * spot.scale, 0.14 * spot.scale), skin)
    helmet = Material("rider", pick(PAINTS, rng), depth=spot.depth)
    top = [spot.at(x + 0.14 * math.cos(a), 1.6 + 0.13 * math.sin(a)) for a in np.linspace(0, math.pi, 9)]
    canvas.polygon(top, helmet)
