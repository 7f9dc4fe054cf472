"""Bare skin, and what is on it apart from the lesion."""

import numpy as np

from pixeltrust.demonstration.synthetic.drawing import cloud, polar, sigmoid
from pixeltrust.demonstration.synthetic.pigments import BLOOD, MELANIN, absorb

_SKIN_TONES = np.array(  # light to dark, as a camera with a dermatoscope sees them: often pinkish, yellowish or grey
    [
        (0.93, 0.88, 0.80),
        (0.92, 0.78, 0.75),
        (0.90, 0.71, 0.71),
        (0.86, 0.76, 0.67),
        (0.76, 0.72, 0.67),
        (0.80, 0.66, 0.55),
        (0.71, 0.55, 0.43),
        (0.54, 0.40, 0.31),
        (0.40, 0.29, 0.23),
    ],
    dtype=np.float32,
)
_SKIN_TONE_CHANCES = np.array([0.13, 0.16, 0.10, 0.16, 0.12, 0.13, 0.10, 0.06, 0.04])


def skin(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw bare skin, mottled, with the fine relief of its surface: image."""
    tone = _SKIN_TONES[generator.choice(len(_SKIN_TONES), p=_SKIN_TONE_CHANCES)]
    tone = tone * generator.normal(1, 0.05) * generator.normal(1, 0.02, 3).astype(np.float32)
    blotched = generator.choice([1, 2], p=[0.8, 0.2])
    blood = cloud(generator, size, coarsest=0.9, finest=0.03, slope=1.5) * generator.uniform(0.01, 0.035) * blotched
    brown = cloud(generator, size, coarsest=0.9, finest=0.03, slope=1.3) * generator.uniform(0.008, 0.025) * blotched
    furrow = np.exp(-np.square(cloud(generator, size, coarsest=0.07, finest=0.035) * 2.5))
    relief = cloud(generator, size, coarsest=0.1, finest=2.2 / size, slope=0.6)
    light = 1 + generator.uniform(0, 0.025) * furrow + generator.uniform(0.004, 0.016) * relief
    return tone * light[..., None] * np.exp(-absorb((blood, BLOOD), (brown, MELANIN)))


def freckles(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Draw the absorption (size, size, 3) of what is on the skin but not the lesion: small freckles, diffuse brown or red blotches."""
    size = len(mask)
    brown = np.zeros((size, size), dtype=np.float32)
    for _ in range(generator.poisson(generator.choice([0.3, 2, 9], p=[0.5, 0.35, 0.15]))):
        radius = generator.uniform(0.008, 0.028)
        distance, _ = polar(size, generator.uniform(-0.5, 0.5, 2), stretch=generator.uniform(1, 1.6))
        brown += generator.uniform(0.07, 0.5) * sigmoid((1 - distance / radius) * generator.uniform(2, 5))
    blotches = cloud(generator, size, coarsest=0.3, finest=0.04, slope=1.8)
    brown += generator.choice([0, 0.05, 0.13], p=[0.6, 0.3, 0.1]) * np.square((blotches - 0.2).clip(0, 2)) / 2
    flush = cloud(generator, size, coarsest=0.6, finest=0.04, slope=1.8)
    red = generator.choice([0, 0.05, 0.11], p=[0.6, 0.28, 0.12]) * np.square((flush + 0.5).clip(0, 2.5)) / 3
    return absorb((brown * ~mask, MELANIN), (red, BLOOD))
