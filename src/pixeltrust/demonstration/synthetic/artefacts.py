"""What lies between the skin and the camera: hairs, rulers, bubbles, ink and stickers."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from pixeltrust.demonstration.synthetic.drawing import cloud, curves, paint, polar, sigmoid, strokes
from pixeltrust.demonstration.synthetic.pigments import INK, absorb

_STICKERS = ((0.05, 0.42, 0.72), (0.93, 0.58, 0.25), (0.42, 0.52, 0.80), (0.90, 0.82, 0.30), (0.12, 0.55, 0.36))


def with_hairs(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a few or many curved hairs that taper, dark or light, roughly combed."""
    size = len(mask)
    hairs = int(generator.choice([3, 9, 28], p=[0.5, 0.37, 0.13]) * generator.uniform(0.6, 1.4)) + 1
    points = curves(generator, size, count=hairs, length=(0.2, 1.1), spread=generator.uniform(0.15, 0.8), bend=0.7)
    taper = np.sqrt(np.sin(np.linspace(0.15, np.pi - 0.05, points.shape[1])))
    thickness = generator.uniform(0.0016, 0.0042) * size * generator.uniform(0.7, 1.3, (hairs, 1)) * taper
    cover = strokes(points, thickness, size) * generator.uniform(0.6, 0.95)
    dark = generator.random() < 0.8
    colour = np.array((0.24, 0.16, 0.12) if dark else (0.9, 0.85, 0.76)) * generator.uniform(0.6, 1.1)
    return paint(image, cover, colour)


def with_ruler(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a scale along an edge: a line with ticks, every fifth longer; now and then only the ticks."""
    size = len(mask)
    length, ticks = generator.uniform(0.35, 1.1), int(generator.integers(8, 24))
    along = np.array((0.0, 1.0))
    across = np.array((-1.0, 0.0))
    start = np.array((generator.uniform(0.34, 0.47), generator.uniform(-0.5, 0.45 - min(length, 0.9))))
    lines = [(start, start + length * along)] if generator.random() < 0.75 else []
    for tick in range(ticks):
        foot = start + length * tick / (ticks - 1) * along
        lines.append((foot, foot + across * (0.028 if tick % 5 == 0 else 0.015)))
    turn = generator.integers(0, 4) * np.pi / 2 + generator.normal(0, 0.12)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    steps = np.linspace(0, 1, 2 * size)[:, None]
    points = np.array([begin + (end - begin) * steps for begin, end in lines]) @ rotation.T
    cover = strokes(points, np.full(points.shape[:2], 0.0028 * size), size) * generator.uniform(0.5, 0.9)
    return paint(image, cover, np.array((0.16, 0.13, 0.12) if generator.random() < 0.8 else (0.93, 0.93, 0.9)))


def with_bubbles(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw bubbles in the gel: rings, bright towards the lamp and dark on the other side, and small glints."""
    size = len(mask)
    lamp = generator.uniform(0, 2 * np.pi)
    light = np.zeros((size, size), dtype=np.float32)
    for _ in range(generator.integers(2, 12)):
        radius = 0.008 + generator.exponential(0.013)
        distance, angle = polar(size, generator.uniform(-0.5, 0.5, 2))
        rim = np.exp(-np.square((distance - radius) / (0.004 + 0.12 * radius)))
        light += rim * (0.05 + 0.22 * np.cos(angle - lamp)) + 0.03 * (distance < radius)
    glints = cloud(generator, size, coarsest=0.06, finest=0.015, slope=0.5)
    light += generator.choice([0, 0.5]) * (glints - 2.9).clip(0, 0.6)
    return image + light[..., None]


def with_ink(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the strokes of a surgeon's pen, crumbly and violet, beside the lesion."""
    size = len(mask)
    points = curves(generator, size, count=int(generator.integers(1, 4)), length=(0.15, 0.4), spread=1.5, bend=0.5)
    cover = strokes(points, np.full(points.shape[:2], generator.uniform(0.012, 0.03) * size), size)
    crumbs = sigmoid(2 * cloud(generator, size, coarsest=0.2, finest=2.2 / size, slope=0.8))
    density = cover * crumbs * generator.uniform(0.4, 0.9)
    return image * np.exp(-absorb((density * ~ndimage.binary_dilation(mask, iterations=2), INK)))


def with_sticker(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a round coloured sticker that reaches in from the frame; none where it would hide the lesion."""
    size = len(mask)
    side = generator.uniform(0, 2 * np.pi)
    middle = np.array((np.sin(side), np.cos(side))) * generator.uniform(0.5, 0.62)
    distance, _ = polar(size, middle, stretch=generator.uniform(1, 1.4))
    outer = generator.uniform(0.14, 0.3)
    colours = generator.permutation(np.array(_STICKERS))
    rings = [(outer, colours[0])] + [(0.5 * outer, colours[1])] * int(generator.random() < 0.5)
    paper = 1 + 0.05 * cloud(generator, size, coarsest=0.1, finest=2.2 / size, slope=0.3)[..., None]
    if (mask & (distance < outer + 0.02)).any():
        return image
    for radius, colour in rings:
        image = paint(image, sigmoid((radius - distance) * size * 2), colour * paper)
    return image


ARTEFACTS: tuple[tuple[Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray], float], ...] = (
    (with_ink, 0.08),
    (with_sticker, 0.12),
    (with_ruler, 0.25),
    (with_hairs, 0.4),
    (with_bubbles, 0.2),
)
