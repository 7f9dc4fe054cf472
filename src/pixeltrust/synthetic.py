"""Made-up dermoscopy images whose masks are exact: for the demo, for tests and for trying out.

Skin is a reflectance and everything in it a pigment that absorbs light: colour = skin · exp(−density · absorption),
so one brown pigment gives tan, brown and black, and looks right on every skin. Each picture is skin with texture and freckles,
one lesion, and some of what lies between the skin and the camera.

    size    height and width of a picture, px
    image   float32 (size, size, 3), RGB, 0 to 1, while it is being made
    field   float32 (size, size)
    frame   the unit of every length in this file: the picture is 1 frame wide, (0, 0) is its middle
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import fft, ndimage

from pixeltrust.errors import RunError
from pixeltrust.images import write_png

SMALLEST_SIZE = 32
_LESION_SHARE = (0.018, 0.45)  # of the frame
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
_STICKERS = ((0.05, 0.42, 0.72), (0.93, 0.58, 0.25), (0.42, 0.52, 0.80), (0.90, 0.82, 0.30), (0.12, 0.55, 0.36))

# Absorption of red, green and blue at density 1.
_MELANIN = np.array((0.52, 1.0, 1.42), dtype=np.float32)
_BLOOD = np.array((0.12, 1.0, 0.82), dtype=np.float32)
_DEEP_MELANIN = np.array((1.15, 0.9, 0.62), dtype=np.float32)  # seen through the dermis it looks blue-grey
_INK = np.array((0.9, 1.7, 0.25), dtype=np.float32)


# --- a picture ---------------------------------------------------------------------------------------------------------


def dermoscopy(generator: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """One made-up dermoscopy image and the exact mask of its lesion.

    Equal states of the generator give equal pictures, bit for bit on one machine. The lesion covers 2 to 46 % of the
    frame (half of them 6 to 19 %), a little less where the field of view cuts it. Freckles, blotches, hairs, rulers, ink
    and stickers are not in the mask; hairs, bubbles and rulers may run across the lesion, and the mask is what it is under them.

    Args:
        generator: everything random comes from here.
        size: height and width, px, at least 32.

    Returns:
        image uint8 (size, size, 3) in RGB, mask uint8 (size, size) of 0 (skin) and 1 (lesion).
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size} px; at least {SMALLEST_SIZE} are needed to draw a lesion")
    depth = lesion_depth(generator, size)
    mask = depth > 0
    image = skin(generator, size) * np.exp(-freckles(generator, mask))
    image = with_lesion(generator, image, depth)
    for element, chance in _ARTEFACTS:
        if generator.random() < chance:
            image = element(generator, image, mask)
    image, seen = photographed(generator, image)
    return np.round(image * 255).clip(0, 255).astype(np.uint8), (mask & seen).astype(np.uint8)


def cloud(generator: np.random.Generator, size: int, *, coarsest: float, finest: float, slope: float = 0.0) -> np.ndarray:
    """A random field of mean 0 and deviation 1 that wraps around.

    Args:
        coarsest, finest: the wavelengths it is made of, in frames.
        slope: how much longer waves prevail: amplitude = wavelength**slope. 0 makes them equal, as in a net; 2 makes clouds.

    Returns:
        field (size, size).
    """
    frequency = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)).astype(np.float32)
    amplitude = np.where(frequency > 0, np.maximum(frequency, 1) ** -slope, 0).astype(np.float32)
    for wavelength, side in ((coarsest, -1), (finest, 1)):
        amplitude *= _sigmoid(side * (1 / wavelength - frequency) * wavelength * 8)
    waves = generator.standard_normal((2, *frequency.shape), dtype=np.float32)
    field = fft.irfft2((waves[0] + 1j * waves[1]) * amplitude, s=(size, size))
    return field / field.std()


# --- skin --------------------------------------------------------------------------------------------------------------


def skin(generator: np.random.Generator, size: int) -> np.ndarray:
    """Bare skin, mottled, with the fine relief of its surface: image."""
    tone = _SKIN_TONES[generator.choice(len(_SKIN_TONES), p=_SKIN_TONE_CHANCES)]
    tone = tone * generator.normal(1, 0.05) * generator.normal(1, 0.02, 3).astype(np.float32)
    blotched = generator.choice([1, 2], p=[0.8, 0.2])
    blood = cloud(generator, size, coarsest=0.9, finest=0.03, slope=1.5) * generator.uniform(0.01, 0.035) * blotched
    brown = cloud(generator, size, coarsest=0.9, finest=0.03, slope=1.3) * generator.uniform(0.008, 0.025) * blotched
    furrow = np.exp(-np.square(cloud(generator, size, coarsest=0.07, finest=0.035) * 2.5))
    relief = cloud(generator, size, coarsest=0.1, finest=2.2 / size, slope=0.6)
    light = 1 + generator.uniform(0, 0.025) * furrow + generator.uniform(0.004, 0.016) * relief
    return tone * light[..., None] * np.exp(-_absorbed((blood, _BLOOD), (brown, _MELANIN)))


def freckles(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Absorption (size, size, 3) of what is on the skin but not the lesion: small freckles, diffuse brown or red blotches."""
    size = len(mask)
    brown = np.zeros((size, size), dtype=np.float32)
    for _ in range(generator.poisson(generator.choice([0.3, 2, 9], p=[0.5, 0.35, 0.15]))):
        radius = generator.uniform(0.008, 0.028)
        distance, _ = _polar(size, generator.uniform(-0.5, 0.5, 2), stretch=generator.uniform(1, 1.6))
        brown += generator.uniform(0.07, 0.5) * _sigmoid((1 - distance / radius) * generator.uniform(2, 5))
    blotches = cloud(generator, size, coarsest=0.3, finest=0.04, slope=1.8)
    brown += generator.choice([0, 0.05, 0.13], p=[0.6, 0.3, 0.1]) * np.square((blotches - 0.2).clip(0, 2)) / 2
    flush = cloud(generator, size, coarsest=0.6, finest=0.04, slope=1.8)
    red = generator.choice([0, 0.05, 0.11], p=[0.6, 0.28, 0.12]) * np.square((flush + 0.5).clip(0, 2.5)) / 3
    return _absorbed((brown * ~mask, _MELANIN), (red, _BLOOD))


# --- the lesion --------------------------------------------------------------------------------------------------------


def lesion_depth(generator: np.random.Generator, size: int) -> np.ndarray:
    """How far a pixel lies inside the lesion, about in frames: field, above 0 in it and below 0 around it.

    An ellipse whose radius is perturbed by a Fourier series, then by a cloud; cut at the level at which
    it has the share of the frame that was drawn for it. One piece without holes.
    """
    share = float(np.clip(generator.lognormal(np.log(0.11), 0.78), *_LESION_SHARE))
    at_the_frame = generator.random() < 0.1
    middle = generator.uniform(-0.4, 0.4, 2) if at_the_frame else generator.normal(0, 0.06, 2).clip(-0.2, 0.2)
    irregularity = generator.uniform(0.1, 1)
    distance, angle = _polar(size, middle, stretch=generator.uniform(1, 1.8), turn=generator.uniform(0, np.pi))
    radius = np.sqrt(share / np.pi)
    outline = np.ones_like(angle)
    for waves in range(1, 7):
        height = 0.22 * irregularity * generator.normal() / waves
        outline += height * np.cos(waves * angle + generator.uniform(0, 2 * np.pi))
    ragged = cloud(generator, size, coarsest=min(radius, 0.3), finest=0.05, slope=2)
    depth = radius * (outline + 0.11 * irregularity * ragged) - distance
    return _in_one_piece(depth - np.quantile(depth, 1 - share).astype(np.float32))


def with_lesion(generator: np.random.Generator, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The skin with the lesion in it: strong or faint, sharp or blurred, of one colour or of several."""
    size = len(image)
    contrast = float(np.clip(generator.lognormal(np.log(0.62), 0.55), 0.17, 1.9))
    cover = _edge(generator, depth, contrast)
    brown = cover * contrast * _variegation(generator, depth)
    brown *= 1 - _patch(generator, depth, chance=0.2) * generator.uniform(0.3, 0.8)  # regression: pigment that went
    blood = cover * min(contrast, 0.8) * generator.choice([0.0, 0.12, 0.5], p=[0.62, 0.28, 0.1])
    blood = blood * (1 + 0.3 * cloud(generator, size, coarsest=0.2, finest=0.04, slope=1)).clip(0)
    blood += cover * _patch(generator, depth, chance=0.15) * generator.uniform(0.2, 0.6)
    deep = cover * _patch(generator, depth, chance=0.2) * generator.uniform(0.3, 0.8) * min(contrast, 1)
    melanin = _MELANIN * generator.normal((1, 1, 1.1), (0.15, 0.04, 0.12)).astype(np.float32)
    veil = (_patch(generator, depth, chance=0.1) * cover * generator.uniform(0.1, 0.35))[..., None]
    whitish = image.mean() * np.array((1, 1.04, 1.1), dtype=np.float32)
    image = image * np.exp(-_absorbed((brown, melanin), (blood, _BLOOD), (deep, _DEEP_MELANIN)))
    return image * (1 - veil) + veil * whitish


def _edge(generator: np.random.Generator, depth: np.ndarray, contrast: float) -> np.ndarray:
    """How much of the pigment is there, 0 to 1: a slope across the outline, its width differing along it.

    A half at the outline; less where the lesion is so strong that half of it would look as if it were inside.
    """
    size = len(depth)
    width = np.exp(generator.uniform(np.log(0.005), np.log(0.028)))
    vary = cloud(generator, size, coarsest=0.6, finest=0.15, slope=1)
    fray = cloud(generator, size, coarsest=0.08, finest=0.02, slope=0.5) * generator.uniform(0, 0.8)
    return _sigmoid(depth / (width * np.exp(0.4 * vary)) + fray - np.log(max(contrast / 0.35, 1)))


def _variegation(generator: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Relative density of the brown pigment, about 1: darker or lighter within, patches, a pigment network, globules."""
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
    """0 to 1, large over a part of the lesion; 0 everywhere but in `chance` of the lesions."""
    if generator.random() >= chance:
        return np.zeros_like(depth)
    field = cloud(generator, len(depth), coarsest=0.5, finest=0.03, slope=2.0)
    level = np.quantile(field[depth > 0], generator.uniform(0.4, 0.75)).astype(np.float32)
    return _sigmoid((field - level) * 3)


def _in_one_piece(depth: np.ndarray) -> np.ndarray:
    """The same depths with the sign turned in the holes and in all pieces but the largest."""
    pieces, _ = ndimage.label(depth > 0)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.where(ndimage.binary_fill_holes(largest), 1, -1).astype(np.float32) * np.abs(depth)


# --- between the skin and the camera -------------------------------------------------------------------------------------


def with_hairs(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A few or many curved hairs that taper, dark or light, roughly combed."""
    size = len(mask)
    hairs = int(generator.choice([3, 9, 28], p=[0.5, 0.37, 0.13]) * generator.uniform(0.6, 1.4)) + 1
    points = _curves(generator, size, curves=hairs, length=(0.2, 1.1), spread=generator.uniform(0.15, 0.8), bend=0.7)
    taper = np.sqrt(np.sin(np.linspace(0.15, np.pi - 0.05, points.shape[1])))
    thickness = generator.uniform(0.0016, 0.0042) * size * generator.uniform(0.7, 1.3, (hairs, 1)) * taper
    cover = _strokes(points, thickness, size) * generator.uniform(0.6, 0.95)
    dark = generator.random() < 0.8
    colour = np.array((0.24, 0.16, 0.12) if dark else (0.9, 0.85, 0.76)) * generator.uniform(0.6, 1.1)
    return _over(image, cover, colour)


def with_ruler(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A scale along an edge: a line with ticks, every fifth longer; now and then only the ticks."""
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
    cover = _strokes(points, np.full(points.shape[:2], 0.0028 * size), size) * generator.uniform(0.5, 0.9)
    return _over(image, cover, np.array((0.16, 0.13, 0.12) if generator.random() < 0.8 else (0.93, 0.93, 0.9)))


def with_bubbles(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Bubbles in the gel: rings, bright towards the lamp and dark on the other side, and small glints."""
    size = len(mask)
    lamp = generator.uniform(0, 2 * np.pi)
    light = np.zeros((size, size), dtype=np.float32)
    for _ in range(generator.integers(2, 12)):
        radius = 0.008 + generator.exponential(0.013)
        distance, angle = _polar(size, generator.uniform(-0.5, 0.5, 2))
        rim = np.exp(-np.square((distance - radius) / (0.004 + 0.12 * radius)))
        light += rim * (0.05 + 0.22 * np.cos(angle - lamp)) + 0.03 * (distance < radius)
    glints = cloud(generator, size, coarsest=0.06, finest=0.015, slope=0.5)
    light += generator.choice([0, 0.5]) * (glints - 2.9).clip(0, 0.6)
    return image + light[..., None]


def with_ink(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The surgeon's pen: crumbly violet strokes beside the lesion."""
    size = len(mask)
    points = _curves(generator, size, curves=int(generator.integers(1, 4)), length=(0.15, 0.4), spread=1.5, bend=0.5)
    cover = _strokes(points, np.full(points.shape[:2], generator.uniform(0.012, 0.03) * size), size)
    crumbs = _sigmoid(2 * cloud(generator, size, coarsest=0.2, finest=2.2 / size, slope=0.8))
    density = cover * crumbs * generator.uniform(0.4, 0.9)
    return image * np.exp(-_absorbed((density * ~ndimage.binary_dilation(mask, iterations=2), _INK)))


def with_sticker(generator: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A round coloured sticker that reaches in from the frame; none where it would hide the lesion."""
    size = len(mask)
    side = generator.uniform(0, 2 * np.pi)
    middle = np.array((np.sin(side), np.cos(side))) * generator.uniform(0.5, 0.62)
    distance, _ = _polar(size, middle, stretch=generator.uniform(1, 1.4))
    outer = generator.uniform(0.14, 0.3)
    colours = generator.permutation(np.array(_STICKERS))
    rings = [(outer, colours[0])] + [(0.5 * outer, colours[1])] * int(generator.random() < 0.5)
    paper = 1 + 0.05 * cloud(generator, size, coarsest=0.1, finest=2.2 / size, slope=0.3)[..., None]
    if (mask & (distance < outer + 0.02)).any():
        return image
    for radius, colour in rings:
        image = _over(image, _sigmoid((radius - distance) * size * 2), colour * paper)
    return image


_ARTEFACTS: tuple[tuple[Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray], float], ...] = (
    (with_ink, 0.08),
    (with_sticker, 0.12),
    (with_ruler, 0.25),
    (with_hairs, 0.4),
    (with_bubbles, 0.2),
)


# --- the camera ----------------------------------------------------------------------------------------------------------


def photographed(generator: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image through a lens, a field of view, a sensor and a JPEG file.

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
    """Brightness (size, size), about 1: a slope across the frame and less towards its corners."""
    y, x = _grid(size)
    slope_y, slope_x = generator.normal(0, 0.07, 2)
    return 1 + slope_y * y + slope_x * x - generator.uniform(0, 0.5) * (x**2 + y**2)


def in_field_of_view(generator: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In one of five pictures a round or rounded field of view with black around it, else everything."""
    size = len(image)
    if generator.random() >= 0.2:
        return image, np.ones((size, size), dtype=bool)
    y, x = (np.abs(at) for at in _grid(size))
    power = generator.choice([2, 2, 4, 7])
    inside = generator.uniform(0.49, 0.58 if power > 2 else 0.66) - (x**power + y**power) ** (1 / power)
    cover = _sigmoid(-inside / generator.uniform(0.002, 0.012))
    return _over(image, cover, np.array((0.06, 0.05, 0.05)) * generator.uniform(0.2, 1.5)), inside > 0


def as_jpeg(image: np.ndarray, *, coarseness: float) -> np.ndarray:
    """The image with the losses of JPEG: the cosine transform of 8 × 8 blocks, rounded, fine detail the most.

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


# --- drawing -------------------------------------------------------------------------------------------------------------


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """y (size, 1) and x (1, size) of the pixel centres, in frames, −.5 to .5."""
    at = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    return at[:, None], at[None, :]


def _polar(size: int, middle: np.ndarray, *, stretch: float = 1.0, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Distance (frames) and angle from `middle` (y, x); equal distances form ellipses of the area of circles."""
    y, x = (at - np.float32(origin) for at, origin in zip(_grid(size), middle, strict=True))
    along = (np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y) / np.float32(np.sqrt(stretch))
    across = (np.float32(np.cos(turn)) * y - np.float32(np.sin(turn)) * x) * np.float32(np.sqrt(stretch))
    return np.hypot(along, across), np.arctan2(across, along)


def _curves(
    generator: np.random.Generator, size: int, *, curves: int, length: tuple[float, float], spread: float, bend: float
) -> np.ndarray:
    """Points (curves, points, 2), y and x in frames, of smooth curves that start anywhere.

    Args:
        length: shortest and longest, frames.
        spread: deviation of their directions from a common one, radians.
        bend: deviation of the turn along one curve, radians.
    """
    steps = np.linspace(0, 1, max(int(2 * size * length[1]), 2))
    direction = generator.uniform(0, 2 * np.pi) + spread * generator.standard_normal((curves, 1))
    direction = direction + bend * (generator.standard_normal((curves, 1)) * steps)
    direction = direction + bend * (generator.standard_normal((curves, 1)) * steps**2)
    lengths = generator.uniform(*length, (curves, 1))
    way = np.cumsum(np.stack([np.sin(direction), np.cos(direction)], axis=-1), axis=1) / len(steps)
    middle = way[:, len(steps) // 2, None]
    return generator.uniform(-0.55, 0.55, (curves, 1, 2)) + lengths[..., None] * (way - middle)


def _strokes(points: np.ndarray, radii: np.ndarray, size: int) -> np.ndarray:
    """Cover (size, size), 0 to 1, of round brushes of `radii` px (...) set down at all `points` (..., 2)."""
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


def _over(image: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The image with an opaque `colour` (3,) or (size, size, 3) where `cover` (size, size) is 1."""
    return image + cover[..., None].astype(np.float32) * (colour.astype(np.float32) - image)


def _absorbed(*pigments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Absorption (size, size, 3) of pigments, each its density (size, size) and its absorption (3,)."""
    densities = np.stack([density for density, _ in pigments], axis=-1).astype(np.float32)
    return densities @ np.stack([colour for _, colour in pigments])


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)


# --- a folder ------------------------------------------------------------------------------------------------------------


def write_source(folder: Path, *, cases: int, seed: int = 0, size: int = 128, test_share: float = 0.25, show_progress: bool = True) -> None:
    """Write a SOURCE folder of made-up cases: images/<id>.png, masks/<id>.png of 0 and 255, split.csv (id, split).

    Case i depends on the seed and on i alone, not on how many are made; so does its split. The folder appears when
    everything is in it; a run that fails or is stopped leaves nothing behind.

    Args:
        folder: must not exist yet, or be empty.
        cases: how many, at least 1.
        test_share: share of the cases whose split is `test`, 0 to 1; they are spread evenly.

    Raises:
        RunError: the folder has something in it or cannot be written.
    """
    if cases < 1 or not 0 <= test_share <= 1:
        raise ValueError(f"cases is {cases} and test_share {test_share}; they must be 1 or more and 0 to 1")
    with _appearing(folder) as unfinished:
        (unfinished / "images").mkdir()
        (unfinished / "masks").mkdir()
        lines = ["id,split"]
        console = Console(stderr=True)
        for i in track(range(cases), "drawing", console=console, disable=not show_progress, show_speed=True):
            name = f"made-up-{i:05d}"
            image, mask = dermoscopy(np.random.default_rng((seed, i)), size)
            write_png(unfinished / "images" / f"{name}.png", image)
            write_png(unfinished / "masks" / f"{name}.png", mask * np.uint8(255))
            lines.append(f"{name},{'test' if _is_test(i, test_share) else 'train'}")
        (unfinished / "split.csv").write_text("\n".join(lines) + "\n")


def _is_test(i: int, test_share: float) -> bool:
    return round((i + 1) * test_share) > round(i * test_share)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `folder` when the block ends well, and vanishes when it does not."""
    whole = folder.resolve()
    unfinished = whole.with_name(f".{whole.name}.unfinished")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: has something in it already; name a new or an empty folder")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(whole)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
