"""Rooms, meadows and shores: scenes as varied as PASCAL-Context's and COCO-Stuff's."""

import numpy as np

from pixcon_core.data.miniature.canvas import Scene
from pixcon_core.data.miniature.landscape import draw_meadow, draw_shore
from pixcon_core.data.miniature.room import draw_room


def draw_place(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw one of three kinds of place, with the class names of PASCAL-Context."""
    kinds = (draw_room, draw_meadow, draw_shore)
    return kinds[rng.choice(3, p=[0.45, 0.32, 0.23])](rng, width, height)
