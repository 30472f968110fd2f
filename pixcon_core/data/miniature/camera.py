"""A pinhole camera over flat ground, and spots at which upright figures stand."""

from typing import NamedTuple

import numpy as np

from pixcon_core.data.miniature.canvas import Number, Point, Span


class Spot(NamedTuple):
    """A place in the picture where something stands upright, facing the camera."""

    x: float
    """Column of its foot."""
    y: float
    """Row of its foot."""
    scale: float
    """Pixels for each metre."""
    depth: float
    """Metres away."""

    def at(self, right: Number, up: Number) -> Point:
        """Return the picture's point so many metres right of the foot and above it."""
        return self.x + right * self.scale, self.y - up * self.scale


class Camera(NamedTuple):
    """Looks along z; x points right, y up, metres, from the ground below the camera."""

    focal: float
    """In pixels."""
    centre: float
    """Column of the vanishing point."""
    horizon: float
    """Row of the horizon."""
    height: float
    """Above the ground, in metres."""

    def at(self, x: Number, y: Number, z: Number) -> Point:
        """Project a point."""
        return self.centre + self.focal * x / z, self.horizon + self.focal * (self.height - y) / z

    def spot(self, x: Number, z: Number, y: Number = 0.0) -> Spot:
        """Return the spot on the ground, or `y` metres above it."""
        px, py = self.at(x, y, z)
        return Spot(px, py, self.focal / z, z)

    def quad(self, x: Number, low: Number, high: Number, near: Number, far: Number) -> list[Point]:
        """Return an upright rectangle along the view, as a facade or the side of a car."""
        return [self.at(x, low, near), self.at(x, high, near), self.at(x, high, far), self.at(x, low, far)]

    def front(self, x: Span, y: Span, z: Number) -> list[Point]:
        """Return an upright rectangle that faces the camera."""
        return [
            self.at(x[0], y[0], z),
            self.at(x[0], y[1], z),
            self.at(x[1], y[1], z),
            self.at(x[1], y[0], z),
        ]

    def floor(self, left: Number, right: Number, near: Number, far: Number, y: Number = 0.0) -> list[Point]:
        """Return a level rectangle."""
        return [
            self.at(left, y, near),
            self.at(right, y, near),
            self.at(right, y, far),
            self.at(left, y, far),
        ]


def draw_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """Draw the camera of a car."""
    return Camera(
        focal=rng.uniform(1.1, 1.5) * min(height, 0.75 * width),
        centre=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.42, 0.56),
        height=rng.uniform(1.2, 1.7),
    )
