"""Weather, time of day and camera: what makes the same street look different in every picture."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

Colour = tuple[float, float, float]


class Light(NamedTuple):
    """How a scene is lit and photographed."""

    colour: Colour
    """Tint of the light, about 1 each."""
    exposure: float
    """Factor of all brightness."""
    contrast: float
    """Below 1 greys are pulled together, as through a dirty windscreen."""
    shadow: float
    """Share of light that a shadow takes; small under clouds."""
    sun: float
    """-1 lights the facades on the left, 1 those on the right."""
    sky: Colour
    haze: float
    """Share of colour lost by each metre, 0.005 for clear air."""
    haze_colour: Colour
    noise: float
    """Standard deviation of the sensor's noise, in grey levels."""
    blur: float
    """Radius in pixels."""

    def expose(
        self, radiance: Float32[np.ndarray, "height width 3"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Turn light into grey levels, with the camera's faults."""
        height, width, _ = radiance.shape
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        vignette = (1 - 0.12 * (x**2 + y**2))[..., None]
        value = radiance * (np.array(self.colour) * self.exposure * vignette).astype(np.float32)
        value = 0.5 + (value - 0.5) * np.float32(self.contrast)
        value = value * 255 + rng.standard_normal(radiance.shape, np.float32) * np.float32(self.noise)
        image = Image.fromarray(value.clip(0, 255).astype(np.uint8))
        return np.asarray(image.filter(ImageFilter.GaussianBlur(self.blur)) if self.blur > 0.3 else image)


class Weather(NamedTuple):
    """Ranges that a light is drawn from."""

    skies: tuple[Colour, ...]
    exposure: tuple[float, float]
    shadow: float
    sun: float
    """Largest difference between facades in the sun and in the shade."""
    haze: tuple[float, float]
    tint: Colour = (1.0, 1.0, 1.0)


GREYS = tuple((grey, grey, grey * 1.02) for grey in (0.7, 0.77, 0.84, 0.91, 0.98))
SUNSHINE = Weather(((0.45, 0.65, 0.95),), (0.95, 1.3), 0.55, 1.0, (0.002, 0.005), (1.06, 1.02, 0.92))
CLOUDS = Weather(GREYS, (0.75, 1.1), 0.25, 0.3, (0.004, 0.008))
MIST = Weather(GREYS[:3], (0.8, 1.05), 0.15, 0.0, (0.012, 0.028))
DUSK = Weather(((0.72, 0.56, 0.52), (0.3, 0.33, 0.5)), (0.55, 0.85), 0.3, 0.6, (0.004, 0.008), (1.05, 0.95, 0.97))


def draw_light(rng: np.random.Generator) -> Light:
    """Draw sunshine, clouds, mist or dusk, and a camera."""
    weather = (SUNSHINE, CLOUDS, MIST, DUSK)[rng.choice(4, p=[0.4, 0.3, 0.12, 0.18])]
    warm = rng.normal(0, 0.06)
    red, green, blue = weather.tint
    sky = _vary(weather.skies[rng.integers(len(weather.skies))], rng)
    return Light(
        colour=(red * (1 + warm), green * (1 + rng.normal(0, 0.02)), blue * (1 - warm)),
        exposure=rng.uniform(*weather.exposure),
        contrast=rng.uniform(0.75, 1.1),
        shadow=weather.shadow,
        sun=rng.uniform(-1, 1) * weather.sun,
        sky=sky,
        haze=rng.uniform(*weather.haze),
        haze_colour=(0.75, 0.82, 0.92) if weather is SUNSHINE else sky,
        noise=rng.uniform(1, 4),
        blur=rng.uniform(0, 0.55),
    )


def _vary(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = (float(c * rng.normal(1, 0.05)) for c in colour)
    return red, green, blue
