"""Runs of pixels: lengths of background and foreground in turn, the first of background.

mask    bool (N,), flattened in the order of the format: rows for CVAT, columns for COCO
counts  int64 (R,), sum N; only the first may be 0 where the runs were made here
"""

from typing import Any

import numpy as np

from pixeltrust.formats.documents import shortened
from pixeltrust.plumbing.errors import DataError


def counts_of(mask: np.ndarray) -> np.ndarray:
    """The runs of a mask bool (N,)."""
    changes = np.flatnonzero(np.diff(mask)) + 1
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges)
    return np.concatenate([[0], counts]) if mask.size and mask[0] else counts


def mask_of(counts: np.ndarray) -> np.ndarray:
    """The mask bool (N,) of runs that sum to N."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def checked_counts(values: Any, pixels: int) -> np.ndarray:
    """Runs as a file has them.

    Raises:
        DataError: they are no whole numbers from 0 that sum to the number of pixels.
    """
    try:
        counts = np.asarray(values)
    except ValueError:
        counts = np.empty((0, 0))
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not counts.size:
        raise DataError(f"the runs {shortened(values)} are no list of whole numbers")
    counts = counts.astype(np.int64)
    if (counts < 0).any():
        raise DataError(f"a run of length {counts.min()}: from 0 on")
    if counts.max() > pixels or counts.sum() != pixels:
        raise DataError(f"the runs sum to {sum(counts.tolist()):,}, the mask has {pixels:,} pixels")
    return counts


def counts_of_text(text: str) -> list[int]:
    """The runs of COCO's compressed text.

    A number is 5 bits a sign, the lowest first, with a bit for "goes on"; from the fourth on it is the difference to the last but one.
    Read here and not by pycocotools, which trusts the text and reads on behind its end.

    Raises:
        DataError: a sign that no such text has, or the text ends within a number.
    """
    counts: list[int] = []
    number = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise DataError(f"the runs {shortened(text)} are no compressed runs (at {sign!r})")
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise DataError(f"the runs {shortened(text)} end within a number")
    return counts
