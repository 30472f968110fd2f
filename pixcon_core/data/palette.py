"""Colours for data sets with too many classes to choose them by hand."""


def bit_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return PASCAL VOC's colours from the second on: bits of the number dealt out to red, green and blue."""
    return tuple(_bit_colour(i) for i in range(1, count + 1))


def _bit_colour(number: int) -> tuple[int, int, int]:
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (number & 1) << place
        green |= (number >> 1 & 1) << place
        blue |= (number >> 2 & 1) << place
        number >>= 3
    return red, green, blue
