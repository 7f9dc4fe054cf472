"""Runs of pixels: lengths of background and foreground in turn, background first.

mask    bool (N,), flattened in the order of the format: rows for CVAT, columns for COCO
counts  int64 (R,), sum N; in runs made here only the first may be 0
"""

from typing import Any

import numpy as np

from pixeltrust.formats.documents import shortened
from pixeltrust.plumbing.errors import DataError


def encode_runs(mask: np.ndarray) -> np.ndarray:
    """Return the runs of a mask bool (N,)."""
    changes = np.flatnonzero(np.diff(mask)) + 1
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges)
    return np.concatenate([[0], counts]) if mask.size and mask[0] else counts


def decode_runs(counts: np.ndarray) -> np.ndarray:
    """Return the mask bool (N,) of runs that sum to N."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def checked_runs(values: Any, pixels: int) -> np.ndarray:
    """Return the runs of a file.

    Raises:
        DataError: they are not whole numbers from 0 that sum to the number of pixels.
    """
    try:
        counts = np.asarray(values)
    except ValueError:
        counts = np.empty((0, 0))
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not counts.size:
        raise DataError(f"the runs {shortened(values)} are not a list of whole numbers")
    counts = counts.astype(np.int64)
    if (counts < 0).any():
        raise DataError(f"a run of length {counts.min()}: from 0 on")
    if counts.max() > pixels or counts.sum() != pixels:
        raise DataError(f"the runs sum to {sum(counts.tolist()):,}, the mask has {pixels:,} pixels")
    return counts


def parse_compressed(text: str) -> list[int]:
    """Return the runs of COCO's compressed text.

    Each sign has 5 bits of a number, the lowest first, and a bit for "continues"; from the fourth on a number is the difference to the
    last but one. This does not use pycocotools, which trusts the text and reads beyond its end.

    Raises:
        DataError: the text has an invalid sign, or ends within a number.
    """
    counts: list[int] = []
    number = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise DataError(f"the runs {shortened(text)} are not compressed runs (at {sign!r})")
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
