"""Fields, strokes and colour laid over colour: what every part of a picture is drawn with."""

import numpy as np
from scipy import fft


def cloud(generator: np.random.Generator, size: int, *, coarsest: float, finest: float, slope: float = 0.0) -> np.ndarray:
    """Draw a random field of mean 0 and deviation 1 that wraps around.

    Args:
        coarsest, finest: the wavelengths it is made of, in frames.
        slope: how much longer waves prevail: amplitude = wavelength**slope. 0 makes them equal, as in a net; 2 makes clouds.

    Returns:
        field (size, size).
    """
    frequency = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)).astype(np.float32)
    amplitude = np.where(frequency > 0, np.maximum(frequency, 1) ** -slope, 0).astype(np.float32)
    for wavelength, side in ((coarsest, -1), (finest, 1)):
        amplitude *= sigmoid(side * (1 / wavelength - frequency) * wavelength * 8)
    waves = generator.standard_normal((2, *frequency.shape), dtype=np.float32)
    field = fft.irfft2((waves[0] + 1j * waves[1]) * amplitude, s=(size, size))
    return field / field.std()


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y (size, 1) and x (1, size) of the pixel centres, in frames, −.5 to .5."""
    at = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    return at[:, None], at[None, :]


def polar(size: int, middle: np.ndarray, *, stretch: float = 1.0, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (frames) and angle from `middle` (y, x); equal distances form ellipses of the area of circles."""
    y, x = (at - np.float32(origin) for at, origin in zip(grid(size), middle, strict=True))
    along = (np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y) / np.float32(np.sqrt(stretch))
    across = (np.float32(np.cos(turn)) * y - np.float32(np.sin(turn)) * x) * np.float32(np.sqrt(stretch))
    return np.hypot(along, across), np.arctan2(across, along)


def curves(generator: np.random.Generator, size: int, *, count: int, length: tuple[float, float], spread: float, bend: float) -> np.ndarray:
    """Draw points (count, points, 2), y and x in frames, of smooth curves that start anywhere.

    Args:
        length: shortest and longest, frames.
        spread: deviation of their directions from a common one, radians.
        bend: deviation of the turn along one curve, radians.
    """
    steps = np.linspace(0, 1, max(int(2 * size * length[1]), 2))
    direction = generator.uniform(0, 2 * np.pi) + spread * generator.standard_normal((count, 1))
    direction = direction + bend * (generator.standard_normal((count, 1)) * steps)
    direction = direction + bend * (generator.standard_normal((count, 1)) * steps**2)
    lengths = generator.uniform(*length, (count, 1))
    way = np.cumsum(np.stack([np.sin(direction), np.cos(direction)], axis=-1), axis=1) / len(steps)
    middle = way[:, len(steps) // 2, None]
    return generator.uniform(-0.55, 0.55, (count, 1, 2)) + lengths[..., None] * (way - middle)


def strokes(points: np.ndarray, radii: np.ndarray, size: int) -> np.ndarray:
    """Return the cover (size, size), 0 to 1, of round brushes of `radii` px (...) set down at all `points` (..., 2)."""
    at = ((points + 0.5) * size - 0.5).reshape(-1, 2)
    reach = int(np.ceil(radii.max() + 0.5))
    around = np.argwhere(np.ones((2 * reach + 1, 2 * reach + 1))) - reach
    pixels = np.round(at).astype(int)[:, None] + around
    distance = np.hypot(*np.moveaxis(pixels - at[:, None], -1, 0))
    cover = (radii.reshape(-1, 1) + 0.5 - distance).clip(0, 1).astype(np.float32)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=-1) & (cover > 0)
    field = np.zeros(size * size, dtype=np.float32)
    np.maximum.at(field, pixels[inside] @ (size, 1), cover[inside])
    return field.reshape(size, size)


def paint(image: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the image with an opaque `colour` (3,) or (size, size, 3) where `cover` (size, size) is 1."""
    return image + cover[..., None].astype(np.float32) * (colour.astype(np.float32) - image)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(−values)), without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)
