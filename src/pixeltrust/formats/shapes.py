"""Shapes of any format as masks: polygons, boxes, ellipses and bitmaps within a box.

x, y   in pixels; (0, 0) is the upper left corner of the first pixel, whose centre is (.5, .5)
mask   bool (H, W), or None, counted, if the shape covers no pixel of the image

Angles are in degrees, clockwise on the screen.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeltrust.formats import polygons
from pixeltrust.formats.annotations import Size, Tally
from pixeltrust.formats.documents import shortened
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.text import count


def fill_polygon(rings: Sequence[Any], size: Size, tally: Tally, *, whole: float | None = None) -> np.ndarray | None:
    """Draw the union of the rings of a file; see `polygons.checked_ring` for `whole`.

    Raises:
        DataError: a ring cannot be drawn.
    """
    checked = [polygons.checked_ring(ring, size, tally, whole=whole) for ring in rings]
    filled = [ring for ring in checked if ring is not None]
    return _if_seen(polygons.fill(filled, size), "polygons", tally) if filled else None


def fill_box(
    corner: tuple[float, float], sides: tuple[float, float], size: Size, tally: Tally, *, degrees: float = 0, pivot: float = 0.5
) -> np.ndarray | None:
    """Draw a box.

    Args:
        corner: x and y of its upper left corner, before it is turned.
        sides: its width and height.
        degrees: the angle by which it is turned.
        pivot: the point of its diagonal about which it is turned: 0 is the upper left corner, .5 the middle.

    Raises:
        DataError: a number is not finite, or the box is far beyond the image.
    """
    if min(sides) <= 0:
        tally["boxes without an area, left out"] += 1
        return None
    turn = math.radians(degrees)
    turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) if degrees else np.eye(2)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - pivot
    ring = polygons.checked_ring((corners * sides) @ turned + np.array(corner) + pivot * np.array(sides), size, tally, what="boxes")
    assert ring is not None  # it has four corners
    return _if_seen(polygons.fill([ring], size), "boxes", tally)


def fill_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], size: Size, tally: Tally, *, degrees: float = 0
) -> np.ndarray | None:
    """Draw an ellipse: the pixels whose centres it contains.

    Args:
        centre: its x and y.
        radii: along x and y, before it is turned about its centre.
        degrees: the angle by which it is turned.

    Raises:
        DataError: a number is not finite, or the ellipse is far beyond the image.
    """
    from skimage.draw import ellipse as pixels_of_ellipse  # not at the top: it takes as long to load as a small conversion

    if min(radii) <= 0:
        tally["ellipses without an area, left out"] += 1
        return None
    turn = math.radians(degrees)
    reach = np.hypot(*(np.array(radii)[:, None] * [[math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]]))
    polygons.checked_ring(np.array(centre) + reach * [[-1, -1], [1, -1], [1, 1], [-1, 1]], size, tally, what="ellipses")
    mask = np.zeros(size, bool)
    mask[pixels_of_ellipse(centre[1] - 0.5, centre[0] - 0.5, radii[1], radii[0], shape=size, rotation=-turn)] = True
    return _if_seen(mask, "ellipses", tally)


def place_bitmap(mask: np.ndarray, place: tuple[int, int, int, int], size: Size, tally: Tally) -> np.ndarray | None:
    """Draw a mask bool (h, w) stretched to a place in the image: a pixel gets the mask's value at its centre.

    An empty mask is drawn as an empty mask, not None: it says that there is nothing, and any other shape says that there is something.

    Args:
        place: left, top, right and bottom in whole pixels; right and bottom are exclusive.

    Raises:
        DataError: the place is far beyond the image.
    """
    left, top, right, bottom = place
    polygons.checked_ring([[left, top], [right, top], [right, bottom], [left, bottom]], size, tally, what="masks")
    drawn = np.zeros(size, bool)
    rows, columns = np.arange(max(top, 0), min(bottom, size[0])), np.arange(max(left, 0), min(right, size[1]))
    if rows.size and columns.size:
        from_rows = (2 * (rows - top) + 1) * mask.shape[0] // (2 * (bottom - top))
        from_columns = (2 * (columns - left) + 1) * mask.shape[1] // (2 * (right - left))
        drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = mask[np.ix_(from_rows, from_columns)]
    return _if_seen(drawn, "masks", tally) if mask.any() else drawn


def checked_numbers(values: Any, what: str, many: int) -> list[float]:
    """Return a list of `many` finite numbers.

    Raises:
        DataError: there are more or fewer, or they are not numbers.
    """
    listed = list(values) if isinstance(values, list | tuple) else []
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed)
    if len(listed) != many or not plain or not all(abs(value) < 1e300 for value in listed):  # a whole number may be of any length
        raise DataError(f"{what} {shortened(values)}: {count(many, 'finite number')} needed")
    return [float(value) for value in listed]


def _if_seen(mask: np.ndarray, what: str, tally: Tally) -> np.ndarray | None:
    if mask.any():
        return mask
    tally[f"{what} that cover no pixel, left out"] += 1
    return None
