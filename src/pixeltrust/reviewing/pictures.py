"""Pictures for the page, made when they are asked for: the image as a browser can show it, and thumbnails, kept in AUDIT/.thumbnails."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np

from pixeltrust.auditing.folder import Audit
from pixeltrust.data.images import draw_slice, media_type, read_image, read_thumbnail
from pixeltrust.data.pictures import encode_image
from pixeltrust.data.resizing import resize_image, resize_labels
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import stamp
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.reviewing.masks import given_mask, proposed_mask

FOLDER = ".thumbnails"
SIDE = 96  # of a thumbnail, its longer one
GIVEN, PROPOSED, BROKEN = (242, 179, 76), (88, 200, 242), (255, 120, 110)
COLOURS = {"given": GIVEN, "proposed": PROPOSED, "mended": (255, 143, 208)}
"""Of the outline of a mask that was decided on, by the decision."""


@dataclass(frozen=True)
class Decided:
    """A mask that was decided on."""

    what: str
    """One of `COLOURS`."""
    key: str
    """Its hash."""
    labels: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Pictured:
    """What a thumbnail shows of a volume: how to get it."""

    image: Callable[[int], np.ndarray]
    """Returns a slice, real numbers (H, W)."""
    given: Callable[[], np.ndarray]
    proposed: Callable[[], np.ndarray]


def shown_image(file: Path) -> tuple[bytes, str]:
    """Return an image as a browser can show it, with its media type: the file's own bytes, or a PNG of what training sees.

    Raises:
        DataError: the file cannot be read.
    """
    if kind := media_type(file):
        return file.read_bytes(), kind
    return encode_image(read_image(file), "PNG", compress_level=1), "image/png"


def thumbnail(
    audit: Audit,
    identity: str,
    image: Path,
    mask: Path,
    size: tuple[int, ...],
    decided: Decided | None = None,
    volume: Pictured | None = None,
) -> tuple[bytes, str]:
    """Return a JPEG of the image with the outlines of the given (solid) and the proposed mask (dashed), and the faults of its files.

    Once a mask is decided on, its outline is shown alone, solid in the colour of the decision.

    If a file cannot be read, the picture shows the others and is crossed out; it is not saved then.
    """
    name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
    made = f"-{decided.what}-{decided.key[:16]}" if decided else ""
    saved = audit.folder / FOLDER / f"{name}-{SIDE}-{stamp(image, mask, audit.proposed_file(identity))}{made}.jpg"
    try:
        return saved.read_bytes(), ""
    except OSError:
        pass
    picture, faults = _with_outlines(audit, identity, image, mask, size, decided, volume)
    content = encode_image(picture, "JPEG", quality=85)
    if faults:
        return content, "; ".join(faults)
    try:
        saved.parent.mkdir(exist_ok=True)
        unfinished = saved.with_suffix(f".{token_hex(4)}")  # a name of its own: two people may look at one page
        unfinished.write_bytes(content)
        unfinished.replace(saved)
    except OSError:  # a full or read-only disk costs time, not the page
        pass
    return content, ""


def _with_outlines(
    audit: Audit, identity: str, image: Path, mask: Path, size: tuple[int, ...], decided: Decided | None, volume: Pictured | None
) -> tuple[np.ndarray, list[str]]:
    from scipy import ndimage

    scale = min(1.0, SIDE / max(size[-2:]))
    small = (max(1, round(size[-2] * scale)), max(1, round(size[-1] * scale)))
    picture, solid, dashed = np.full((*small, 3), 40, np.uint8), np.zeros(small, bool), np.zeros(small, bool)
    faults, masks = [], list[np.ndarray]()
    try:
        if decided:
            masks = [decided.labels()]
        else:
            masks = [volume.given() if volume else given_mask(audit, mask, size)]
            masks.append(volume.proposed() if volume else proposed_mask(audit, identity, masks[0]))
    except DataError as error:
        faults.append(str(error))
    try:
        if volume is None:
            picture = read_thumbnail(image, small).copy()
        else:  # the slice with the most of the mask
            of_each = sum(is_foreground(each).sum((1, 2)) for each in masks)
            place = int(np.argmax(of_each)) if np.any(of_each) else size[0] // 2
            masks = [each[place] for each in masks]
            picture = resize_image(draw_slice(volume.image(place)), small).copy()
    except DataError as error:
        faults.append(str(error))
    lines = [_outline(resize_labels(each, small)) for each in masks if each.ndim == 2]
    solid, dashed = (*lines, *[np.zeros(small, bool)] * 2)[:2]

    around = ndimage.binary_dilation(solid | dashed)
    picture[around] = picture[around] // 3  # so that a line is visible on any image
    picture[solid] = COLOURS[decided.what] if decided else GIVEN
    rows, columns = np.indices(small)
    picture[dashed & ~solid & ((rows + columns) % 6 < 4)] = PROPOSED
    if faults:
        down, across = (rows + 0.5) / small[0], (columns + 0.5) / small[1]
        picture[np.minimum(abs(down - across), abs(down + across - 1)) < 1.5 / min(SIDE, *small)] = BROKEN
    return picture, faults


def _outline(labels: np.ndarray) -> np.ndarray:
    """Return the pixels at the edge of a label, bool (H, W); 0 and ignored pixels are not labels."""
    framed = np.pad(labels, 1)
    middle = framed[1:-1, 1:-1]
    beside = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    return is_foreground(middle) & np.any([middle != other for other in beside], axis=0)
