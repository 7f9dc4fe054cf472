"""Simulated annotation noise: a true mask in, a doubtful one out.

    mask       bool or uint8 0/1 (H, W), the truth; comes back as uint8 0/1 (H, W)
    generator  where the chance of one case comes from; what is drawn from it never depends on the strength
    strength   0 gives the truth back, more is worse: the errors at one strength contain those at a lower one
               of `shift` and `mixture`
    image      uint8 (H, W) or (H, W, C), looked at by `unsupervised` alone

Every kind is such a function, and any function with these four arguments can stand in for one.
The *shapes* (polygon, axes, box, unsupervised, coarse) have a full form at strength 1, stay there above it, and between
0 and 1 have the outline that lies that far on the way: the blend of the two signed distances. The *biases* (dilate,
erode, shift, drop) go on above 1; they count in radii of the lesion (of the disc of its area) or shares of its area, so
that they do not depend on the image size.

The last three are of people: each case has its own kind and amount of error, which its generator draws. *human* is as
wrong as people's masks of one lesion differ, *annotators* are two with opposite habits, *mixture* is a data set from many
hands, some of them perfect.

Common to all: a mask without foreground comes back as it is; the frame of the image is not an outline (a lesion that
touches it goes on behind it), except for polygon, axes and box, which end there as the lesion does; polygon, axes and
box treat every connected component (8 neighbours) by itself and fill its holes; a component too small for its shape to
cover a pixel centre is kept; a mask without background has nothing to dilate, erode or shift.

Source: polygons of 3 and 7 vertices, axes, boxes and unsupervised masks are the noise of Mirikharaji, Yan, Hamarneh,
"Learning to Segment Skin Lesions from Noisy Annotations", arXiv 1906.03815.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from skimage import color, draw, filters, measure

Noise = Callable[[np.ndarray, np.random.Generator, float, np.ndarray | None], np.ndarray]

_MIXED = ("triangle", "heptagon", "axes", "box", "unsupervised", "dilate", "erode", "shift", "drop", "coarse")
KINDS = (*_MIXED, "human", "annotators", "mixture")
"""The names for help texts; `polygon-12` (any number of vertices from 3) and `axes-3` (any number of axes from 2) too."""

NEED_IMAGES = ("unsupervised", "mixture")

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_MOST_OUTLINE_POINTS = 1000  # longer outlines are thinned evenly before they are simplified
_DILATE_RADII = _ERODE_RADII = 0.25  # at strength 1, in radii of the lesion
_SHIFT_RADII = 0.5
_CELL_RADII = 1.0
_HUMAN_DICE = PchipInterpolator([0, 0.05, 0.25, 0.5, 0.75, 1], [0, 0.251, 0.736, 0.857, 0.93, 1])  # by the share of pairs below
_HUMAN_FARTHEST = 8.0  # radii of the lesion
_HUMAN_HALVINGS = 24
_WOBBLES = 4  # along each side of the image
_PERFECT = 0.2  # share of the cases of a mixture


def noise(kind: str) -> Noise:
    """The noise function of a name: one of `KINDS`, or `polygon-12`, or `axes-3`.

    Raises:
        ValueError: there is no such kind; names the nearest one.
    """
    match kind.partition("-"):
        case "triangle", "", "":
            return partial(polygon, vertices=3)
        case "heptagon", "", "":
            return partial(polygon, vertices=7)
        case "polygon", "-", count if count.isdecimal() and int(count) >= 3:
            return partial(polygon, vertices=int(count))
        case "axes", "-", count if count.isdecimal() and int(count) >= 2:
            return partial(axes, count=int(count))
    for function in (axes, box, unsupervised, dilate, erode, shift, drop, coarse, human, annotators, mixture):
        if function.__name__ == kind:
            return function
    near = get_close_matches(kind, [*KINDS, "polygon-12", "axes-3"], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no noise of the kind {kind!r}; {hint}There are {', '.join(KINDS)}, polygon-N (N from 3) and axes-K (K from 2)")


def polygon(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001 (nothing here is left to chance)
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
    *,
    vertices: int = 3,
) -> np.ndarray:
    """A few clicks around the lesion: the polygon of `vertices` points on the outline that keeps most of its shape.

    The paper does not say how the points are chosen. Here: the point whose triangle with its two neighbours is
    smallest goes first, until so many are left.

    Raises:
        ValueError: fewer than 3 vertices, or a mask or strength out of range.
    Source: Visvalingam & Whyatt, "Line generalisation by repeated elimination of points", 1993.
    """
    if vertices < 3:
        raise ValueError(f"a polygon has 3 vertices or more, not {vertices}")
    return _blend(mask, strength, lambda truth: _per_component(truth, lambda part: _simplified_outline(part, vertices)))


def axes(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
    *,
    count: int = 2,
) -> np.ndarray:
    """The shape spanned by the 2 × `count` end points of the lesion's axes.

    Two axes are the principal ones through the centroid; more of them divide the angle evenly, in the frame in which
    the lesion's spread is round. An end point is the last lesion pixel on its ray.

    Raises:
        ValueError: fewer than 2 axes, or a mask or strength out of range.
    """
    if count < 2:
        raise ValueError(f"it takes 2 axes or more to span a shape, not {count}")
    return _blend(mask, strength, lambda truth: _per_component(truth, lambda part: _axis_ends(part, count)))


def box(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """The bounding box.

    Raises:
        ValueError: a mask or strength out of range.
    """
    return _blend(mask, strength, lambda truth: _per_component(truth, _corners))


def unsupervised(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001
    strength: float = 1.0,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """What a segmentation of the image without any annotation finds; the truth serves for strengths below 1 only.

    Raises:
        ValueError: no image, one of another size, or a mask or strength out of range.
    """
    if image is None or image.shape[:2] != mask.shape:
        given = "none" if image is None else f"one of {image.shape[:2]}"
        raise ValueError(f"unsupervised needs an image of the mask's size {mask.shape}, got {given}")
    return _blend(mask, strength, lambda _: _otsu(image))


def coarse(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """The mask on a coarse grid, laid at random, with cells as wide as the lesion's radius.

    A cell more than half covered is foreground; where none is, the most covered one.

    Raises:
        ValueError: a mask or strength out of range.
    """
    offset = generator.random(2)
    return _blend(mask, strength, lambda truth: _on_grid(truth, _CELL_RADII * _radius(truth), offset))


def dilate(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """An outline drawn too far out everywhere, at strength 1 by a quarter of the lesion's radius.

    Raises:
        ValueError: a mask or strength out of range.
    """
    truth = _checked(mask, strength)
    if strength == 0 or not truth.any():
        return truth.astype(np.uint8)
    return (_signed_distance(truth) <= strength * _DILATE_RADII * _radius(truth)).astype(np.uint8)


def erode(
    mask: np.ndarray,
    generator: np.random.Generator,  # noqa: ARG001
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """An outline drawn too far in everywhere, at strength 1 by a quarter of the radius; the deepest pixels stay.

    Raises:
        ValueError: a mask or strength out of range.
    """
    truth = _checked(mask, strength)
    if strength == 0 or not truth.any():
        return truth.astype(np.uint8)
    depth = -_signed_distance(truth)
    return ((depth > strength * _ERODE_RADII * _radius(truth)) | (depth == depth.max())).astype(np.uint8)


def shift(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """The whole mask moved in a random direction, at strength 1 by half the lesion's radius.

    Raises:
        ValueError: a mask or strength out of range.
    """
    truth = _checked(mask, strength)
    angle = generator.uniform(0, 2 * np.pi)
    if strength == 0 or not truth.any():
        return truth.astype(np.uint8)
    way = strength * _SHIFT_RADII * _radius(truth) * np.array([np.sin(angle), np.cos(angle)])
    return (ndimage.shift(_signed_distance(truth), way, order=1, mode="nearest") < 0).astype(np.uint8)


def drop(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """A hole, or a lesion overlooked: a share of the foreground is lost around a random point of it.

    The share is `strength` times a number drawn evenly from 0 to 1, and at most everything. The component of the point
    goes first, from the point outwards, then the others, likewise.

    Raises:
        ValueError: a mask or strength out of range.
    """
    truth = _checked(mask, strength)
    where, most = generator.random(2)
    result = truth.astype(np.uint8)
    pixels = np.argwhere(truth)  # (n, 2)
    if not len(pixels):
        return result
    component = ndimage.label(truth, _EIGHT_NEIGHBOURS)[0][truth]
    start = int(where * len(pixels))
    distance = np.hypot(*(pixels - pixels[start]).T)
    order = np.lexsort((distance, component != component[start]))
    lost = pixels[order[: round(min(1.0, strength * most) * len(pixels))]]
    result[tuple(lost.T)] = 0
    return result


def human(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,  # noqa: ARG001
) -> np.ndarray:
    """As one person's outline against another's: too far out or in by a habit of the case, and here and there more or less so.

    The outline is moved by (habit + wobble) × a distance; habit is a number and wobble a smooth random field, both of
    spread 1. At strength 1 the distance is that which brings the Dice to the truth to a value drawn from those of real
    pairs of masks (or as near as it can be: of a shrinking mask the deepest pixels stay); other strengths are multiples
    of that distance.

    Raises:
        ValueError: a mask or strength out of range.
    Source: the Dice of 3,103 pairs of human masks of IMA++ (2025): .781 in the mean, .857 in the median, .736 and .251 at
        25 and 5 %. What lies between and above is interpolated so that the mean is met.
    """
    truth = _checked(mask, strength)
    habit, aim = generator.standard_normal(), float(_HUMAN_DICE(generator.random()))
    grid = generator.standard_normal((_WOBBLES, _WOBBLES))
    if strength == 0 or not truth.any() or truth.all():
        return truth.astype(np.uint8)
    distance = _signed_distance(truth)
    moved = _radius(truth) * (habit + ndimage.zoom(grid, np.divide(truth.shape, _WOBBLES), order=3, mode="nearest", grid_mode=True))
    deepest = distance == distance.min()

    def drawn(far: float) -> np.ndarray:
        return (distance + far * moved < 0) | deepest

    near, far = 0.0, _HUMAN_FARTHEST  # radii: at the first the Dice is above the aim, at the second, if it can be, below
    for _ in range(_HUMAN_HALVINGS):
        middle = (near + far) / 2
        found = drawn(middle)
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        near, far = (middle, far) if dice > aim else (near, middle)
    return drawn(strength * near).astype(np.uint8)


def annotators(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """Two people: one draws every lesion too small (`erode`), the other every one too large (`dilate`), both by up to twice the usual.

    Raises:
        ValueError: a mask or strength out of range.
    """
    habit = erode if generator.random() < 0.5 else dilate
    return habit(mask, generator, strength * generator.uniform(0, 2), image)


def mixture(
    mask: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """Every case by another kind, at a share of the strength drawn evenly from 0 to 1; a fifth of the cases are as they should be.

    Raises:
        ValueError: no image, one of another size, or a mask or strength out of range.
    """
    perfect, which, share = generator.random() < _PERFECT, int(generator.integers(len(_MIXED))), generator.random()
    return noise(_MIXED[which])(mask, generator, 0.0 if perfect else strength * share, image)


def _checked(mask: np.ndarray, strength: float) -> np.ndarray:
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8) or mask.size == 0 or mask.max() > 1:
        raise ValueError(f"a mask is bool or uint8 of 0 and 1, (H, W), not {mask.dtype} {mask.shape}")
    if not (np.isfinite(strength) and strength >= 0):
        raise ValueError(f"a strength is a number from 0, not {strength}")
    return mask.astype(bool)


def _blend(mask: np.ndarray, strength: float, full_form: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The outline that lies `strength` of the way from the truth to its full noisy form.

    Each pixel's blended distance is linear in the strength, so that a pixel once wrong stays wrong.
    """
    truth = _checked(mask, strength)
    if strength == 0 or not truth.any():
        return truth.astype(np.uint8)
    noisy = full_form(truth)
    if strength < 1:
        window = _window(truth | noisy)
        far = _signed_distance(noisy[window])
        far += _tilt(far.shape)
        blend = (1 - strength) * _signed_distance(truth[window]) + strength * far
        noisy = np.zeros_like(truth)
        noisy[window] = blend < 0
    return noisy.astype(np.uint8)


def _tilt(shape: tuple[int, ...]) -> np.ndarray:
    """Up to half a pixel (H, W), growing evenly from corner to corner.

    Distances between pixel centres come in steps: without this a good part of the outline would flip at strength .5 at
    once, and a Dice in between could not be had. Half a pixel makes no inside an outside.
    """
    return np.add.outer(np.linspace(-0.25, 0.25, shape[0]), np.linspace(-0.25, 0.25, shape[1]))


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The bounding box and one pixel more: enough to know every distance in it."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels (H, W) to the nearest pixel of the other kind: above 0 outside, below 0 inside.

    Where there is no other kind, the diagonal of the frame stands for it.
    """
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.hypot(*mask.shape) * (-1 if mask.all() else 1))
    return ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)


def _radius(mask: np.ndarray) -> float:
    """The radius in pixels of the disc of the same area."""
    return float(np.sqrt(mask.sum() / np.pi))


def _per_component(mask: np.ndarray, corners_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Every component replaced by the polygon whose corners, (n, 2) in rows and columns, are made from it."""
    labels, _ = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    result = np.zeros_like(mask)
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        part = ndimage.binary_fill_holes(labels[window] == label)
        drawn = draw.polygon2mask(part.shape, corners_of(part))
        result[window] |= drawn if drawn.any() else part
    return result


def _simplified_outline(part: np.ndarray, vertices: int) -> np.ndarray:
    """The outline's `vertices` most telling points (n, 2), by repeated removal of the one that matters least."""
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
    """Twice the area that a closed outline loses with one of its points."""
    (r0, c0), (r1, c1), (r2, c2) = points[corner - 1], points[corner], points[(corner + 1) % len(points)]
    return abs((r1 - r0) * (c2 - c0) - (r2 - r0) * (c1 - c0))


def _axis_ends(part: np.ndarray, count: int) -> np.ndarray:
    """The 2 × count end points (n, 2) of a component's axes, in turn around it."""
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
    """The corners (4, 2) of a component's window, whose pixels it touches on all sides."""
    bottom, right = part.shape[0] - 0.5, part.shape[1] - 0.5
    return np.array([(-0.5, -0.5), (-0.5, right), (bottom, right), (bottom, -0.5)])


def _on_grid(mask: np.ndarray, side: float, offset: np.ndarray) -> np.ndarray:
    """The mask on a grid of square cells of `side` pixels, moved by `offset` cells (each 0 to 1)."""
    rows, columns = (np.floor(np.arange(extent) / side + start).astype(int) for extent, start in zip(mask.shape, offset, strict=True))
    cell = rows[:, None] * (columns[-1] + 1) + columns
    covered = np.bincount(cell.ravel(), mask.ravel()) / np.maximum(np.bincount(cell.ravel()), 1)
    foreground = covered > 0.5 if (covered > 0.5).any() else covered == covered.max()
    return foreground[cell]


def _otsu(image: np.ndarray) -> np.ndarray:
    """Otsu's threshold on the smoothed brightness, or in a colour image on saturation and darkness in blue, evenly.

    Pigment and blood in skin take away blue most. The side that holds less of the image's rim is the lesion; of its
    components the largest counts, pixels in the middle of the image more than others; holes are filled.
    """
    pixels = image.reshape(*image.shape[:2], -1) / 255
    grey = pixels.mean(axis=2)
    if pixels.shape[2] == 3:
        grey = _standardised(color.rgb2hsv(pixels)[..., 1]) - _standardised(pixels[..., 2])
    smooth = ndimage.gaussian_filter(grey, 0.015 * np.sqrt(grey.size))
    bright = smooth > filters.threshold_otsu(smooth)
    rim = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    found = bright if rim.mean() <= 0.5 else ~bright
    labels, count = ndimage.label(found)
    if not count:
        return found
    rows, columns = (np.linspace(-1, 1, extent) for extent in found.shape)
    nearness = np.exp(-4 * (rows[:, None] ** 2 + columns**2))
    shares = np.bincount(labels.ravel(), nearness.ravel())[1:]
    return ndimage.binary_fill_holes(labels == 1 + shares.argmax())


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-6)
