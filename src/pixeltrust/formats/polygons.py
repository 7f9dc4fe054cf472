"""Outlines: filled by COCO's own library, and traced along the edges of pixels.

ring   (N, 2) of x, y in pixels; (0, 0) is the upper left corner of the first pixel, whose centre is (.5, .5)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeltrust.formats.annotations import Size, Tally
from pixeltrust.formats.documents import needs_extra, shortened
from pixeltrust.formats.rle import decode_runs, parse_compressed
from pixeltrust.plumbing.errors import DataError

FAR = 10  # a coordinate may be this many times the image's longer side away from it
LONGEST = 5_000_000  # pixels of outline: filling takes memory for each


def pycocotools_mask(what: object) -> Any:
    """Return the module pycocotools.mask.

    Raises:
        DataError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise needs_extra(str(what), error) from None
    return mask


def checked_ring(values: Any, size: Size, tally: Tally, *, whole: float | None = None, what: str = "polygons") -> np.ndarray | None:
    """Return a ring of a file, given as (N, 2) or flat, in pixels; None, counted, if it has fewer than three points and so no area.

    Args:
        whole: the coordinate of the right and lower edges of the image (100 for percent, 1 for shares); if not given, pixels are.
        what: what to call the shapes in the tally.

    Raises:
        DataError: the values are not pairs of finite numbers, or far beyond the image.
    """
    try:
        flat = np.asarray(values)
    except ValueError:  # lists of different lengths
        raise DataError(f"the polygon {shortened(values)} has numbers that are not pairs of x and y") from None
    if flat.dtype.kind not in "iuf":
        raise DataError(f"the polygon {shortened(values)} is not a list of numbers")
    if flat.size % 2 or (flat.ndim == 2 and flat.shape[1] != 2) or flat.ndim > 2:
        raise DataError(f"the polygon {shortened(values)} has numbers that are not pairs of x and y")
    ring = flat.astype(np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise DataError(f"the polygon {shortened(values)} has a coordinate that is not finite")
    if len(ring) < 3:
        tally["polygons of fewer than three points, which have no area, left out"] += 1
        return None
    if whole is not None:
        ring = ring * np.array([size[1], size[0]]) / whole
    far = FAR * max(size)
    if (np.abs(ring) > far).any():
        raise DataError(f"a coordinate {ring.flat[np.abs(ring).argmax()]:g} is far outside the image of {size[1]}x{size[0]} pixels")
    if np.abs(np.diff(ring, axis=0, append=ring[:1])).max(axis=1).sum() > LONGEST:
        raise DataError(f"an outline of more than {LONGEST:,} pixels")
    if (ring < 0).any() or (ring > np.array([size[1], size[0]])).any():
        tally[f"{what} that reach beyond their image, clipped"] += 1
    return ring


def fill(rings: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Return the union of the rings, bool (H, W); a ring covers what is inside it an odd number of times.

    Raises:
        DataError: pycocotools is not installed.
    """
    if not rings:
        return np.zeros(size, bool)
    library = pycocotools_mask("a polygon")
    runs = library.frPyObjects([ring.reshape(-1).tolist() for ring in rings], *size)
    lengths = parse_compressed(library.merge(runs)["counts"].decode("ascii"))  # its own decoder uses what numpy deprecates
    return decode_runs(np.array(lengths)).reshape(size[::-1]).T


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Return the rings of a mask bool (H, W), along the edges of pixels: filled together, they are the mask again.

    Every ring is simple and without holes: a part with a hole is cut in two through the hole, since readers join the polygons of a
    region, and never subtract one from another.
    """
    from scipy import ndimage

    rings = []
    waiting = [(mask, 0, 0)]
    while waiting:
        whole, top, left = waiting.pop()
        numbered, _ = ndimage.label(whole)  # neighbours by edges alone
        for number, place in enumerate(ndimage.find_objects(numbered), 1):
            part = numbered[place] == number
            above, before = top + place[0].start, left + place[1].start
            holes = ndimage.binary_fill_holes(part) & ~part
            if holes.any():
                columns = np.flatnonzero(holes.any(axis=0))
                cut = int(columns[len(columns) // 2])
                waiting += [(part[:, :cut], above, before), (part[:, cut:], above, before + cut)]
            else:
                rings.append(_outline(part) + np.array([before, above]))
    return rings


def _outline(part: np.ndarray) -> np.ndarray:
    """Return the corners (N, 2) as x, y of one part without holes, clockwise on the screen."""
    inside = np.pad(part, 1)
    after = np.full((part.shape[0] + 1, part.shape[1] + 1), -1)
    width = after.shape[1]
    for rows, columns, start, end in (
        (-1, 0, (0, 0), (0, 1)),  # the upper edge of a pixel, to the right
        (0, 1, (0, 1), (1, 1)),
        (1, 0, (1, 1), (1, 0)),
        (0, -1, (1, 0), (0, 0)),
    ):
        beside = inside[1 + rows : 1 + rows + part.shape[0], 1 + columns : 1 + columns + part.shape[1]]
        row, column = np.nonzero(part & ~beside)
        after[row + start[0], column + start[1]] = (row + end[0]) * width + column + end[1]
    following = after.reshape(-1).tolist()
    first = next(place for place, next_place in enumerate(following) if next_place >= 0)
    places = [first]
    while (place := following[places[-1]]) != first:
        places.append(place)
    ring = np.stack(np.divmod(np.array(places), width)[::-1], axis=1)
    before, behind = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[(before != behind).any(axis=1)]
