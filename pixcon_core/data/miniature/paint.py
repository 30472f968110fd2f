"""Colours that scenes share. Classes take them from the same lists, so that colour alone tells little."""

import numpy as np

from pixcon_core.data.miniature.canvas import Colour

GREYS = ((0.33, 0.33, 0.35), (0.42, 0.41, 0.41), (0.5, 0.49, 0.47), (0.58, 0.57, 0.56))
"""Road, pavement, walls, facades, poles, rails."""

STONES = (*GREYS, (0.6, 0.42, 0.34), (0.68, 0.6, 0.48), (0.72, 0.7, 0.66), (0.5, 0.36, 0.3))
"""Facades, walls, paving."""

PAINTS = (
    (0.15, 0.15, 0.17),
    (0.3, 0.31, 0.33),
    (0.62, 0.63, 0.65),
    (0.85, 0.85, 0.85),
    (0.6, 0.13, 0.12),
    (0.15, 0.22, 0.5),
    (0.2, 0.36, 0.25),
    (0.78, 0.6, 0.15),
    (0.45, 0.32, 0.22),
)
"""Cars, clothes, signs, doors, bins."""

GREENS = ((0.22, 0.33, 0.13), (0.3, 0.4, 0.17), (0.36, 0.42, 0.2), (0.45, 0.44, 0.22), (0.5, 0.38, 0.17))
"""Leaves, grass, hedges."""

GRASSES = ((0.36, 0.5, 0.2), (0.44, 0.55, 0.26), (0.54, 0.53, 0.28))
"""Lighter than leaves, most of the time."""

POLES = ((0.2, 0.22, 0.22), (0.27, 0.28, 0.29), (0.36, 0.37, 0.38))

WOODS = ((0.5, 0.34, 0.2), (0.36, 0.24, 0.16), (0.68, 0.52, 0.34), (0.8, 0.78, 0.74))
SANDS = ((0.7, 0.62, 0.47), (0.6, 0.52, 0.4), (0.5, 0.42, 0.32))
SNOW = ((0.88, 0.9, 0.94), (0.8, 0.82, 0.88))
SKINS = ((0.85, 0.67, 0.56), (0.7, 0.5, 0.38), (0.45, 0.3, 0.22))
GLASS = (0.16, 0.19, 0.24)
RUBBER = (0.09, 0.09, 0.1)


def pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    """Draw a colour and vary it a little."""
    red, green, blue = colours[rng.integers(len(colours))]
    factor = rng.normal(1, 0.06)
    return float(red * factor), float(green * factor), float(blue * factor)


def shaded(colour: Colour, factor: float) -> Colour:
    """Return the colour darker or lighter."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
