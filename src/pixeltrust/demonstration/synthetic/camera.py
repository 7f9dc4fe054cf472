"""The camera: lamp, lens, field of view, sensor and file."""

import numpy as np
from scipy import fft, ndimage

from pixeltrust.demonstration.synthetic.drawing import grid, paint, sigmoid


def photograph(generator: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the image through a lens, a field of view, a sensor and a JPEG file.

    Returns:
        image, and bool (size, size): what the field of view shows.
    """
    size = len(image)
    image = image * lamp_light(generator, size)[..., None]
    blur = generator.uniform(0.2, 0.8) * size / 128
    image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=3)
    image, seen = in_field_of_view(generator, image)
    image = image + generator.uniform(0.002, 0.01) * generator.standard_normal(image.shape, dtype=np.float32)
    return as_jpeg(image.clip(0, 1), coarseness=generator.uniform(0.002, 0.009)), seen


def lamp_light(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw the brightness (size, size), about 1: a slope across the frame and less towards its corners."""
    y, x = grid(size)
    slope_y, slope_x = generator.normal(0, 0.07, 2)
    return 1 + slope_y * y + slope_x * x - generator.uniform(0, 0.5) * (x**2 + y**2)


def in_field_of_view(generator: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Show one of five pictures in a round or rounded field of view with black around it, and all of the others."""
    size = len(image)
    if generator.random() >= 0.2:
        return image, np.ones((size, size), dtype=bool)
    y, x = (np.abs(at) for at in grid(size))
    power = generator.choice([2, 2, 4, 7])
    inside = generator.uniform(0.49, 0.58 if power > 2 else 0.66) - (x**power + y**power) ** (1 / power)
    cover = sigmoid(-inside / generator.uniform(0.002, 0.012))
    return paint(image, cover, np.array((0.06, 0.05, 0.05)) * generator.uniform(0.2, 1.5)), inside > 0


def as_jpeg(image: np.ndarray, *, coarseness: float) -> np.ndarray:
    """Return the image with the losses of JPEG: the cosine transform of 8 × 8 blocks, rounded, fine detail the most.

    Args:
        coarseness: the step to which the slowest wave is rounded, 0 to 1.
    """
    size = len(image)
    padded = np.pad(image, ((0, -size % 8), (0, -size % 8), (0, 0)), mode="edge")
    tall, wide = padded.shape[0] // 8, padded.shape[1] // 8
    blocks = padded.reshape(tall, 8, wide, 8, 3)
    order = np.arange(8, dtype=np.float32)
    step = np.float32(coarseness) * (1 + order[:, None, None, None] + order[:, None])
    waves = np.round(fft.dctn(blocks, axes=(1, 3), norm="ortho") / step) * step
    return fft.idctn(waves, axes=(1, 3), norm="ortho").reshape(padded.shape)[:size, :size]
