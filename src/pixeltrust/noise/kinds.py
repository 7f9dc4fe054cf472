"""Simulated annotation noise: noisy masks made from true ones. Every kind is one function and one entry of `KINDS`.

    mask       bool or uint8 0/1 (H, W) or (D, H, W), the truth; comes back as uint8 0/1 of the same shape
    generator  the random numbers of one case; how many are drawn never depends on the strength
    strength   0 gives the truth back, more is worse: except for `shift` and `mixture` the errors at one strength contain
               those at a lower one
    image      uint8 (H, W) or (H, W, C), for the kinds that need it
    spacing    mm between the voxels of a volume along its axes, in which its distances and radii count; None: pixels

The *shapes* (polygon, axes, box, unsupervised, coarse) have a full form at strength 1 and stay there above it; between 0 and 1
the two signed distances are blended. The *biases* (dilate, erode, shift, drop) keep growing above 1; they count in radii of
the lesion (of the disc of its area) or shares of its area, so that they do not depend on the image size. In the three of
*people* (human, annotators, mixture) the generator draws for each case its own kind and amount of error.

Common to all: a mask without foreground comes back as it is; the frame of the image is not an outline (a lesion that touches it
continues behind it), except for polygon, axes and box, which end there as the lesion does; polygon, axes and box treat every
connected component (8 neighbours) by itself and fill its holes; a component too small for its shape to cover a pixel centre is
kept; a mask without background has nothing to dilate, erode or shift.

In a volume a kind works on the whole of it (in mm; the radius is that of a ball of the structure's volume), or slice by slice across the
axis of the largest spacing, the first of equal ones; `Kind.axes` says which. Noise of several classes is in `structures`.

A kind of your own is an entry too, whose name `simulate` and `Grid(noise=…)` then know in this process:

    KINDS["blocky"] = Kind(draw_blocks, "the mask in blocks of 8 pixels", is_shape=True)

Source: polygons of 3 and 7 vertices, axes, boxes and unsupervised masks are the noise of Mirikharaji, Yan, Hamarneh,
"Learning to Segment Skin Lesions from Noisy Annotations", arXiv 1906.03815.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from itertools import pairwise
from typing import Literal

import numpy as np

from pixeltrust.plumbing.errors import ConfigError

# SciPy and scikit-image are imported where they are used: the command line reads `KINDS` for its help.

Noise = Callable[..., np.ndarray]
Spacing = tuple[float, ...] | None

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_SURROUNDINGS_RADII = 3.0  # of a structure in a volume, beyond which no noise reaches
_MOST_OUTLINE_POINTS = 1000  # longer outlines are thinned evenly before they are simplified
_DILATE_RADII = _ERODE_RADII = 0.25  # at strength 1, in radii of the lesion
_SHIFT_RADII = 0.5
_CELL_RADII = 1.0
_HUMAN_DICE = ([0, 0.05, 0.25, 0.5, 0.75, 1], [0, 0.251, 0.736, 0.857, 0.93, 1])  # share of the pairs below, and their Dice
_HUMAN_FARTHEST = 8.0  # radii of the lesion
_HUMAN_HALVINGS = 24
_WOBBLES = 4  # along each side of the image
_SKIPPED = 3.0  # slices between two that are drawn, at strength 1
_PERFECT = 0.2  # share of the cases of a mixture


@dataclass(frozen=True)
class Kind:
    """A kind of noise. Call it with a mask, a generator, a strength and perhaps an image.

    Example:
        find_kind("box")(mask, np.random.default_rng(0), 0.5)

    Raises:
        ValueError: a mask or strength out of range, or no image of the mask's size where one is needed.
    """

    draw: Noise
    """(truth, generator, strength, image) to the mask, bool or 0/1 (H, W); the truth is bool (H, W) and has foreground."""
    help: str
    """What is wrong with its masks, in a line."""
    is_shape: bool = False
    """Whether `draw` makes the full form, whatever the strength; strengths below 1 are then blended with the truth."""
    needs_image: bool = False
    in_mixture: bool = False
    """Whether `mixture` may draw it; one more of them changes the masks of every mixture."""
    axes: Literal["plane", "slices", "any", "volume"] = "slices"
    """What it is for: pictures alone; pictures, and volumes slice by slice; both; volumes alone. For the last two `draw` takes a fifth
    argument, the spacing in mm, which is None for a picture."""

    def suits(self, axes: int) -> bool:
        """Return whether it is for masks of so many axes."""
        return self.axes != ("volume" if axes == 2 else "plane")

    def __call__(
        self,
        mask: np.ndarray,
        generator: np.random.Generator,
        strength: float = 1.0,
        image: np.ndarray | None = None,
        spacing: Spacing = None,
    ) -> np.ndarray:
        """Return the noisy mask, uint8 0/1 of the shape of the mask."""
        if mask.ndim not in (2, 3) or mask.dtype not in (np.bool_, np.uint8) or mask.size == 0 or mask.max() > 1:
            raise ValueError(f"a mask is bool or uint8 of 0 and 1, (H, W) or (D, H, W), not {mask.dtype} {mask.shape}")
        if not self.suits(mask.ndim):
            raise ValueError(f"this kind of noise is not for {'pictures' if mask.ndim == 2 else 'volumes'}: {self.help}")
        if not (np.isfinite(strength) and strength >= 0):
            raise ValueError(f"a strength is a number from 0, not {strength}")
        if mask.ndim == 3:
            return self._draw_volume(mask.astype(bool), generator, strength, spacing or (1.0, 1.0, 1.0))
        if self.needs_image and (image is None or image.shape[:2] != mask.shape):
            given = "none" if image is None else f"one of {image.shape[:2]}"
            raise ValueError(f"this kind of noise needs an image of the mask's size {mask.shape}, got {given}")
        truth = mask.astype(bool)
        if not truth.any():
            return truth.astype(np.uint8)
        more = (None,) if self.axes == "any" else ()
        noisy = np.asarray(self.draw(truth, generator, strength, image, *more))  # at strength 0 too, for the same random numbers
        if strength == 0:
            noisy = truth
        elif self.is_shape and strength < 1:
            noisy = _blend(truth, noisy.astype(bool), strength)
        return noisy.astype(np.uint8)

    def _draw_volume(self, truth: np.ndarray, generator: np.random.Generator, strength: float, spacing: tuple[float, ...]) -> np.ndarray:
        noisy = truth.astype(np.uint8)
        if not truth.any():
            return noisy
        if self.axes == "slices":
            slices, drawn = (np.moveaxis(volume, slice_axis(spacing), 0) for volume in (truth, noisy))
            for place in np.flatnonzero(slices.any(axis=(1, 2))):
                drawn[place] = self(slices[place], generator, strength)
            return noisy
        window = _surroundings(truth, spacing) if self.axes == "any" else ...
        changed = np.asarray(self.draw(truth[window], generator, strength, None, spacing))
        if strength:
            noisy[window] = changed
        return noisy


def slice_axis(spacing: tuple[float, ...]) -> int:
    """Return the axis across which a volume's slices lie."""
    return int(np.argmax(spacing))


def find_kind(name: str) -> Kind:
    """Return the kind of noise of a name: one of `KINDS`, or `polygon-12`, or `axes-3`.

    Raises:
        ValueError: the name is unknown; names the nearest one.
    """
    if known := KINDS.get(name) or VOLUME_KINDS.get(name):
        return known
    family, _, number = name.partition("-")
    if family in _NUMBERED and number.isdecimal():
        with suppress(ValueError):
            return _NUMBERED[family](int(number))
    near = get_close_matches(name, [*KINDS, *VOLUME_KINDS, "polygon-12", "axes-3"], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no noise of the kind {name!r}; {hint}There are {kind_names()}")


def require_kind(name: str) -> Kind:
    """Return the kind of noise that a setting or an option names, as `find_kind`.

    Raises:
        ConfigError: the name is unknown; names the nearest one.
    """
    try:
        return find_kind(name)
    except ValueError as error:
        raise ConfigError(f"noise: {error}") from None


def kind_names() -> str:
    """Return the names of all kinds, for messages and help."""
    return f"{', '.join(KINDS)}, polygon-N (N from 3) and axes-K (K from 2); for volumes {', '.join(VOLUME_KINDS)}"


# --- shapes -------------------------------------------------------------------------------------------------------


def polygon(vertices: int) -> Kind:
    """Return the noise of a few clicks around the lesion: the polygon of `vertices` points that keeps most of its shape.

    The paper does not say how the points are chosen. Here the point whose triangle with its two neighbours is smallest goes
    first, until so many are left.

    Raises:
        ValueError: fewer than 3 vertices.
    Source: Visvalingam & Whyatt, "Line generalisation by repeated elimination of points", 1993.
    """
    if vertices < 3:
        raise ValueError(f"a polygon has 3 vertices or more, not {vertices}")

    def draw(truth: np.ndarray, *_: object) -> np.ndarray:
        return _per_component(truth, lambda part: _simplified_outline(part, vertices))

    return Kind(draw, f"the polygon of the {vertices} most important points of the outline", is_shape=True, in_mixture=True)


def axes(count: int) -> Kind:
    """Return the noise that is spanned by the 2 × `count` end points of the lesion's axes.

    Two axes are the principal ones through the centroid; more of them divide the angle evenly, in the frame in which the
    lesion's spread is round. An end point is the last lesion pixel on its ray.

    Raises:
        ValueError: fewer than 2 axes.
    """
    if count < 2:
        raise ValueError(f"it takes 2 axes or more to span a shape, not {count}")

    def draw(truth: np.ndarray, *_: object) -> np.ndarray:
        return _per_component(truth, lambda part: _axis_ends(part, count))

    return Kind(draw, f"the polygon of the end points of {count} axes through the centre", is_shape=True, in_mixture=True)


def box(truth: np.ndarray, *_: object) -> np.ndarray:
    """Draw the bounding box."""
    return _per_component(truth, _corners)


def unsupervised(_truth: np.ndarray, _generator: object, _strength: float, image: np.ndarray | None) -> np.ndarray:
    """Threshold the image, as a segmentation without any annotation does.

    Otsu's threshold of the smoothed brightness; in a colour image of saturation and darkness in blue, evenly, as pigment and blood in
    skin take away blue most. The side that holds less of the image's rim is the lesion; of its components the largest counts, pixels
    in the middle of the image more than others; holes are filled.
    """
    from scipy import ndimage
    from skimage import color, filters

    assert image is not None  # `needs_image`
    pixels = image.reshape(*image.shape[:2], -1) / 255
    grey = pixels.mean(axis=2)
    if pixels.shape[2] == 3:
        grey = _standardised(color.rgb2hsv(pixels)[..., 1]) - _standardised(pixels[..., 2])
    smooth = ndimage.gaussian_filter(grey, 0.015 * np.sqrt(grey.size))
    bright = smooth > filters.threshold_otsu(smooth)
    rim = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    lesions = bright if rim.mean() <= 0.5 else ~bright
    labels, count = ndimage.label(lesions)
    if not count:
        return lesions
    rows, columns = (np.linspace(-1, 1, extent) for extent in lesions.shape)
    nearness = np.exp(-4 * (rows[:, None] ** 2 + columns**2))
    shares = np.bincount(labels.ravel(), nearness.ravel())[1:]
    return ndimage.binary_fill_holes(labels == 1 + shares.argmax())


def coarse(truth: np.ndarray, generator: np.random.Generator, *_: object) -> np.ndarray:
    """Draw the mask on a coarse grid, laid at random, with cells as wide as the lesion's radius.

    A cell more than half covered is foreground; where none is, the most covered one.
    """
    side = _CELL_RADII * radius(truth)  # of a cell, in pixels
    offset = generator.random(2)  # in cells
    rows, columns = (np.floor(np.arange(extent) / side + start).astype(int) for extent, start in zip(truth.shape, offset, strict=True))
    cell = rows[:, None] * (columns[-1] + 1) + columns
    covered = np.bincount(cell.ravel(), truth.ravel()) / np.maximum(np.bincount(cell.ravel()), 1)
    foreground = covered > 0.5 if (covered > 0.5).any() else covered == covered.max()
    return foreground[cell]


# --- biases -------------------------------------------------------------------------------------------------------


def dilate(truth: np.ndarray, _generator: object, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Draw the outline too far out everywhere, at strength 1 by a quarter of the lesion's radius."""
    return _tilted_distance(truth, spacing) <= strength * _DILATE_RADII * radius(truth, spacing)


def erode(truth: np.ndarray, _generator: object, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Draw the outline too far in everywhere, at strength 1 by a quarter of the radius; the deepest pixels stay."""
    depth = -_tilted_distance(truth, spacing)
    return (depth > strength * _ERODE_RADII * radius(truth, spacing)) | (depth == depth.max())


def shift(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Move the whole mask in a random direction, at strength 1 by half the lesion's radius."""
    from scipy import ndimage

    if truth.ndim == 2:
        angle = generator.uniform(0, 2 * np.pi)
        direction = np.array([np.sin(angle), np.cos(angle)])
    else:
        direction = generator.standard_normal(truth.ndim)
        direction /= np.linalg.norm(direction)
    way = strength * _SHIFT_RADII * radius(truth, spacing) * direction / (1.0 if spacing is None else np.array(spacing))
    return ndimage.shift(signed_distance(truth, spacing), way, order=1, mode="nearest") < 0


def drop(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Overlook a lesion, or leave a hole: a share of the foreground is lost around a random point of it.

    The share is `strength` times a number drawn evenly from 0 to 1, and at most everything. The component of the point
    goes first, from the point outwards, then the others, likewise.
    """
    from scipy import ndimage

    where, most = generator.random(2)
    pixels = np.argwhere(truth)  # (n, axes)
    component = ndimage.label(truth, np.ones((3,) * truth.ndim, dtype=bool))[0][truth]
    start = int(where * len(pixels))
    distance = reduce(np.hypot, (pixels - pixels[start]).T * (1 if spacing is None else np.array(spacing)[:, None]))
    order = np.lexsort((distance, component != component[start]))
    lost = pixels[order[: round(min(1.0, strength * most) * len(pixels))]]
    noisy = truth.copy()
    noisy[tuple(lost.T)] = False
    return noisy


# --- people -------------------------------------------------------------------------------------------------------


def human(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Draw the outline as one person does against another: too far out or in by habit, and here and there more or less so.

    The outline is moved by (habit + wobble) × a distance; habit is a number and wobble a smooth random field, both of spread 1.
    At strength 1 the distance is that which brings the Dice to the truth to a value drawn from those of real pairs of masks (or
    as near as it can be: of a shrinking mask the deepest pixels stay); other strengths are multiples of that distance.

    Source: the Dice of 3,103 pairs of human masks of IMA++ (2025): .781 in the mean, .857 in the median, .736 and .251 at
        25 and 5 %. Other quantiles are interpolated to match the mean.
    """
    from scipy import ndimage
    from scipy.interpolate import PchipInterpolator

    habit, aim = generator.standard_normal(), float(PchipInterpolator(*_HUMAN_DICE)(generator.random()))
    grid = generator.standard_normal((_WOBBLES,) * truth.ndim)
    distance = signed_distance(truth, spacing)
    moved = radius(truth, spacing) * (habit + ndimage.zoom(grid, np.divide(truth.shape, _WOBBLES), order=3, mode="nearest", grid_mode=True))
    deepest = distance == distance.min()

    def at(distance_radii: float) -> np.ndarray:
        return (distance + distance_radii * moved < 0) | deepest

    near, far = 0.0, _HUMAN_FARTHEST  # radii: at the first the Dice is above the aim, at the second, if it can be, below
    for _halving in range(_HUMAN_HALVINGS):
        middle = (near + far) / 2
        noisy = at(middle)
        dice = 2 * (noisy & truth).sum() / (noisy.sum() + truth.sum())
        near, far = (middle, far) if dice > aim else (near, middle)
    return at(strength * near)


def annotators(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Draw as one of two people: one draws too small (`erode`), the other too large (`dilate`), both by up to twice the usual."""
    habit = erode if generator.random() < 0.5 else dilate
    return habit(truth, generator, strength * generator.uniform(0, 2), None, spacing)


def mixture(truth: np.ndarray, generator: np.random.Generator, strength: float, image: np.ndarray | None, spacing: Spacing) -> np.ndarray:
    """Draw every case by another kind, at a share of the strength drawn evenly from 0 to 1; a fifth of the cases stay true."""
    kinds = [kind for kind in KINDS.values() if kind.in_mixture and kind.suits(truth.ndim)]
    perfect, which, share = generator.random() < _PERFECT, int(generator.integers(len(kinds))), generator.random()
    return truth if perfect else kinds[which](truth, generator, strength * share, image, spacing)


# --- volumes ------------------------------------------------------------------------------------------------------


def lost_slices(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Leave a run of slices empty: a share of those with foreground, `strength` times a number drawn evenly from 0 to 1."""
    where, most = generator.random(2)
    axis = slice_axis(spacing or (1.0,) * truth.ndim)
    filled = np.flatnonzero(np.moveaxis(truth, axis, 0).any(axis=(1, 2)))
    start = int(where * len(filled))
    order = np.concatenate([filled[start:], filled[:start][::-1]])  # from the start to the end, then back from the start
    noisy = truth.copy()
    np.moveaxis(noisy, axis, 0)[order[: round(min(1.0, strength * most) * len(filled))]] = False
    return noisy


def skipped_slices(truth: np.ndarray, generator: np.random.Generator, strength: float, _image: object, spacing: Spacing) -> np.ndarray:
    """Draw every n-th slice, n = 1 + 3 × strength in the mean, with the first and the last, and interpolate the others between them.

    Between two slices the signed distances to their outlines are interpolated. Where the drawn slices lie is drawn at random.
    """
    phase, every = generator.random(), 1 + _SKIPPED * strength
    mm = spacing or (1.0,) * truth.ndim
    axis = slice_axis(mm)
    noisy = truth.copy()
    slices, drawn = np.moveaxis(truth, axis, 0), np.moveaxis(noisy, axis, 0)
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    turns = np.floor(np.arange(-1, len(slices)) / every + phase)
    kept = [place for place in range(filled[0], filled[-1] + 1) if turns[place + 1] > turns[place] or place in (filled[0], filled[-1])]
    in_plane = mm[:axis] + mm[axis + 1 :]
    for first, last in pairwise(kept):
        if last - first > 1:
            ends = [signed_distance(slices[place], in_plane) for place in (first, last)]
            for place in range(first + 1, last):
                share = (place - first) / (last - first)
                drawn[place] = (1 - share) * ends[0] + share * ends[1] < 0
    return noisy


KINDS = {
    "triangle": polygon(3),
    "heptagon": polygon(7),
    "axes": axes(2),
    "box": Kind(box, "the bounding box", is_shape=True, in_mixture=True),
    "unsupervised": Kind(
        unsupervised, "a threshold of the image, without a look at the mask", is_shape=True, needs_image=True, in_mixture=True, axes="plane"
    ),
    "dilate": Kind(dilate, "too large by a quarter of the radius", in_mixture=True, axes="any"),
    "erode": Kind(erode, "too small by a quarter of the radius", in_mixture=True, axes="any"),
    "shift": Kind(shift, "moved by half the radius in a random direction", in_mixture=True, axes="any"),
    "drop": Kind(drop, "a hole, or a lesion overlooked", in_mixture=True, axes="any"),
    "coarse": Kind(coarse, "on a grid of cells as wide as the radius", is_shape=True, in_mixture=True),
    "human": Kind(
        human, "as wrong as people's masks of one lesion differ: a mean Dice of .78, a median of .86, one in twenty below .25", axes="any"
    ),
    "annotators": Kind(annotators, "two people: one draws too small, the other too large", axes="any"),
    "mixture": Kind(
        mixture,
        "each case by a kind from triangle to coarse, at any strength; a fifth of the masks stay true",
        needs_image=True,
        axes="any",
    ),
}
VOLUME_KINDS = {
    "lost-slices": Kind(lost_slices, "a run of slices is empty; volumes alone", axes="volume"),
    "skipped-slices": Kind(skipped_slices, "every fourth slice is drawn, those between are interpolated; volumes alone", axes="volume"),
}
"""Kinds for volumes alone. They are in no mixture."""
_NUMBERED = {"polygon": polygon, "axes": axes}  # polygon-12, axes-3


# --- how they are drawn -------------------------------------------------------------------------------------------


def _blend(truth: np.ndarray, noisy: np.ndarray, strength: float) -> np.ndarray:
    """Return the mask whose outline is `strength` of the way from the truth to its full noisy form.

    Each pixel's blended distance is linear in the strength, so that a pixel once wrong stays wrong.
    """
    window = _window(truth | noisy)
    distance = signed_distance(noisy[window])
    # Distances between pixel centres come in steps: without a tilt from corner to corner a good part of the outline would flip at
    # strength .5 at once, and a Dice in between could not be had. Half a pixel makes no inside an outside.
    distance += np.add.outer(*(np.linspace(-0.25, 0.25, extent) for extent in distance.shape))
    blend = (1 - strength) * signed_distance(truth[window]) + strength * distance
    result = np.zeros_like(truth)
    result[window] = blend < 0
    return result


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the bounding box and one pixel more: enough to know every distance in it."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _surroundings(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[slice, ...]:
    """Return the bounding box of a structure in a volume, and three of its radii more on each side."""
    around = _SURROUNDINGS_RADII * radius(mask, spacing)
    spans = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    wide = [1 + int(around / step) for step in spacing]
    return tuple(slice(max(0, int(span[0]) - extra), int(span[-1]) + extra + 1) for span, extra in zip(spans, wide, strict=True))


def signed_distance(mask: np.ndarray, spacing: Spacing = None) -> np.ndarray:
    """Return the distance (*S) to the other kind in pixels, or mm, below 0 inside; where there is none, the frame's diagonal."""
    if mask.all() or not mask.any():
        diagonal = reduce(np.hypot, np.multiply(mask.shape, 1 if spacing is None else spacing))
        return np.full(mask.shape, diagonal * (-1 if mask.all() else 1))
    from scipy import ndimage

    return ndimage.distance_transform_edt(~mask, sampling=spacing) - ndimage.distance_transform_edt(mask, sampling=spacing)


def _tilted_distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Return the signed distance, in a volume with a tilt from corner to corner that is less than half a voxel.

    Structures of volumes are few voxels wide, and whole layers would flip at one strength: a Dice in between could not be had.
    """
    distance = signed_distance(mask, spacing)
    if spacing is None:
        return distance
    return distance + sum(np.ix_(*(np.linspace(-0.15, 0.15, extent) * min(spacing) for extent in mask.shape)))


def radius(mask: np.ndarray, spacing: Spacing = None) -> float:
    """Return the radius of the disc of the same area in pixels, or of the ball of the same volume in mm."""
    extent = mask.sum() * (1 if spacing is None else np.prod(spacing))
    return float(np.sqrt(extent / np.pi) if mask.ndim == 2 else np.cbrt(0.75 * extent / np.pi))


def _per_component(mask: np.ndarray, corners_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Replace every component by the polygon whose corners, (n, 2) in rows and columns, are made from it."""
    from scipy import ndimage
    from skimage import draw

    labels, _ = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    result = np.zeros_like(mask)
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        part = ndimage.binary_fill_holes(labels[window] == label)
        drawn = draw.polygon2mask(part.shape, corners_of(part))
        result[window] |= drawn if drawn.any() else part
    return result


def _simplified_outline(part: np.ndarray, vertices: int) -> np.ndarray:
    """Return the outline's `vertices` most important points (n, 2), by repeated removal of the least important one."""
    from skimage import measure

    contours = measure.find_contours(np.pad(part, 1).astype(float), 0.5, fully_connected="high")
    outline = max(contours, key=len)[:-1] - 1  # closed: the last point is the first
    outline = outline[:: -(-len(outline) // _MOST_OUTLINE_POINTS)]
    points = [(float(row), float(column)) for row, column in outline]
    areas = [_triangle_area(points, i) for i in range(len(points))]
    while len(points) > vertices:
        least = areas.index(min(areas))  # lists, not arrays: five times faster at this length
        del points[least], areas[least]
        for neighbour in (least - 1, least % len(points)):
            areas[neighbour] = _triangle_area(points, neighbour)
    return np.array(points)


def _triangle_area(points: list[tuple[float, float]], corner: int) -> float:
    """Return twice the area that a closed outline loses with one of its points."""
    (r0, c0), (r1, c1), (r2, c2) = points[corner - 1], points[corner], points[(corner + 1) % len(points)]
    return abs((r1 - r0) * (c2 - c0) - (r2 - r0) * (c1 - c0))


def _axis_ends(part: np.ndarray, count: int) -> np.ndarray:
    """Return the 2 × count end points (n, 2) of a component's axes, in turn around it."""
    from scipy import ndimage

    pixels = np.argwhere(part).astype(float)
    centre = pixels.mean(axis=0)
    spread, directions = np.linalg.eigh(np.cov(pixels.T, bias=True) + np.eye(2) / 12)  # 1/12: the spread of one pixel
    angles = np.pi * np.arange(2 * count) / count
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.sqrt(spread)[::-1] @ directions[:, ::-1].T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    steps = np.arange(0, np.hypot(*part.shape), 0.25)
    track = centre + rays[:, None] * steps[:, None]  # (rays, steps, 2)
    hit = ndimage.map_coordinates(np.pad(part, 1).astype(np.uint8), np.moveaxis(track, -1, 0) + 1, order=0)
    last = np.where(hit.any(axis=1), len(steps) - 1 - hit[:, ::-1].argmax(axis=1), 0)
    return track[np.arange(2 * count), last]


def _corners(part: np.ndarray) -> np.ndarray:
    """Return the corners (4, 2) of a component's window, whose pixels it touches on all sides."""
    bottom, right = part.shape[0] - 0.5, part.shape[1] - 0.5
    return np.array([(-0.5, -0.5), (-0.5, right), (bottom, right), (bottom, -0.5)])


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-6)
