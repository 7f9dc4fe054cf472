"""The lesion: its outline, which is the mask, and its pigments."""

import numpy as np
from scipy import ndimage

from pixeltrust.demonstration.synthetic.drawing import cloud, polar, sigmoid
from pixeltrust.demonstration.synthetic.pigments import BLOOD, DEEP_MELANIN, MELANIN, absorb

_LESION_SHARE = (0.018, 0.45)  # of the frame


def lesion_depth(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw how far each pixel is inside the lesion, about in frames: field, above 0 in it and below 0 around it.

    An ellipse whose radius is perturbed by a Fourier series, then by a cloud; cut at the level at which
    it has the share of the frame that was drawn for it. One piece without holes.
    """
    share = float(np.clip(generator.lognormal(np.log(0.11), 0.78), *_LESION_SHARE))
    at_the_frame = generator.random() < 0.1
    middle = generator.uniform(-0.4, 0.4, 2) if at_the_frame else generator.normal(0, 0.06, 2).clip(-0.2, 0.2)
    irregularity = generator.uniform(0.1, 1)
    distance, angle = polar(size, middle, stretch=generator.uniform(1, 1.8), turn=generator.uniform(0, np.pi))
    radius = np.sqrt(share / np.pi)
    outline = np.ones_like(angle)
    for waves in range(1, 7):
        height = 0.22 * irregularity * generator.normal() / waves
        outline += height * np.cos(waves * angle + generator.uniform(0, 2 * np.pi))
    ragged = cloud(generator, size, coarsest=min(radius, 0.3), finest=0.05, slope=2)
    depth = radius * (outline + 0.11 * irregularity * ragged) - distance
    return _in_one_piece(depth - np.quantile(depth, 1 - share).astype(np.float32))


def with_lesion(generator: np.random.Generator, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Draw the lesion on the skin: strong or faint, sharp or blurred, of one colour or of several."""
    size = len(image)
    contrast = float(np.clip(generator.lognormal(np.log(0.62), 0.55), 0.17, 1.9))
    cover = _edge(generator, depth, contrast)
    brown = cover * contrast * _variegation(generator, depth)
    brown *= 1 - _patch(generator, depth, chance=0.2) * generator.uniform(0.3, 0.8)  # regression: pigment that went
    blood = cover * min(contrast, 0.8) * generator.choice([0.0, 0.12, 0.5], p=[0.62, 0.28, 0.1])
    blood = blood * (1 + 0.3 * cloud(generator, size, coarsest=0.2, finest=0.04, slope=1)).clip(0)
    blood += cover * _patch(generator, depth, chance=0.15) * generator.uniform(0.2, 0.6)
    deep = cover * _patch(generator, depth, chance=0.2) * generator.uniform(0.3, 0.8) * min(contrast, 1)
    melanin = MELANIN * generator.normal((1, 1, 1.1), (0.15, 0.04, 0.12)).astype(np.float32)
    veil = (_patch(generator, depth, chance=0.1) * cover * generator.uniform(0.1, 0.35))[..., None]
    whitish = image.mean() * np.array((1, 1.04, 1.1), dtype=np.float32)
    image = image * np.exp(-absorb((brown, melanin), (blood, BLOOD), (deep, DEEP_MELANIN)))
    return image * (1 - veil) + veil * whitish


def _edge(generator: np.random.Generator, depth: np.ndarray, contrast: float) -> np.ndarray:
    """Draw how much of the pigment is there, 0 to 1: a slope across the outline, whose width varies along it.

    A half at the outline; less where the lesion is so strong that half of it would look as if it were inside.
    """
    size = len(depth)
    width = np.exp(generator.uniform(np.log(0.005), np.log(0.028)))
    vary = cloud(generator, size, coarsest=0.6, finest=0.15, slope=1)
    fray = cloud(generator, size, coarsest=0.08, finest=0.02, slope=0.5) * generator.uniform(0, 0.8)
    return sigmoid(depth / (width * np.exp(0.4 * vary)) + fray - np.log(max(contrast / 0.35, 1)))


def _variegation(generator: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Draw the relative density of the brown pigment, about 1: darker or lighter within, patches, a pigment network, globules."""
    size = len(depth)
    within = (depth / depth.max()).clip(0, 1)
    patches = cloud(generator, size, coarsest=0.3, finest=0.04, slope=1.6)
    grit = cloud(generator, size, coarsest=0.1, finest=2.2 / size, slope=0.9)
    density = 1 + generator.uniform(-0.25, 1.1) * (within - 0.3) + generator.uniform(0.05, 0.3) * patches
    density += generator.uniform(0.03, 0.14) * grit
    if generator.random() < 0.5:
        mesh = generator.uniform(0.025, 0.045)
        lines = np.exp(-np.square(2 * cloud(generator, size, coarsest=mesh * 1.3, finest=mesh)))
        density += generator.uniform(0.2, 0.6) * (lines - 0.4)
    if generator.random() < 0.35:
        grain = generator.uniform(0.03, 0.05)
        dots = cloud(generator, size, coarsest=grain * 1.4, finest=grain)
        density += generator.uniform(0.3, 0.8) * (dots - 1.1).clip(0, 1)
    return density.clip(0.35, 2.5)


def _patch(generator: np.random.Generator, depth: np.ndarray, *, chance: float) -> np.ndarray:
    """Draw a field of 0 to 1, large over a part of the lesion; in all but `chance` of the lesions it is 0 everywhere."""
    if generator.random() >= chance:
        return np.zeros_like(depth)
    field = cloud(generator, len(depth), coarsest=0.5, finest=0.03, slope=2.0)
    level = np.quantile(field[depth > 0], generator.uniform(0.4, 0.75)).astype(np.float32)
    return sigmoid((field - level) * 3)


def _in_one_piece(depth: np.ndarray) -> np.ndarray:
    """Change the sign of the depths in the holes and in all pieces but the largest."""
    pieces, _ = ndimage.label(depth > 0)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.where(ndimage.binary_fill_holes(largest), 1, -1).astype(np.float32) * np.abs(depth)
