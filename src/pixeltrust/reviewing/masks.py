"""Masks of a review: labels 0 … max(classes, 2) − 1 and 255 for ignored, whatever values the files hold; uint8 (H, W), or (D, H, W).

The page sends a painted mask as runs: a little-endian uint32 each, the label in its low 8 bits, the length in pixels in its high 24,
row by row.
"""

import hashlib
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from threading import Lock

import numpy as np

from pixeltrust.auditing.folder import Audit
from pixeltrust.data.images import read_labels
from pixeltrust.data.masks import decode_labels
from pixeltrust.data.pictures import decode_png, encode_image
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.labels import IGNORE

RUN_BYTES = 4
_VOLUME = b"volume\n"


class MaskCache:
    """The masks that were read last, up to a number of bytes: a case's page, its planes and its decision need the same one."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes, self._lock = most_bytes, 0, Lock()
        self._masks: OrderedDict[Hashable, np.ndarray] = OrderedDict()  # the latest used last

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the mask of this key, reading it if it is not cached; it is read-only."""
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        labels = read()
        labels.setflags(write=False)
        with self._lock:
            if key not in self._masks:
                self._masks[key] = labels
                self._bytes += labels.nbytes
            while self._bytes > self._most:
                self._bytes -= self._masks.popitem(last=False)[1].nbytes
        return labels


def given_mask(audit: Audit, mask: Path, size: tuple[int, ...]) -> np.ndarray:
    """Return the given mask of a case as labels.

    Raises:
        DataError: the file cannot be read, or has another size than in the audit.
    """
    labels, _ = decode_labels(mask, classes=audit.classes, ignore_label=audit.ignore_label)
    return _sized(labels, size, mask)


def proposed_mask(audit: Audit, identity: str, given: np.ndarray) -> np.ndarray:
    """Return the proposed mask of a case as labels; it ignores the pixels that the given mask ignores.

    Raises:
        DataError: the file cannot be read, or has another size than the given mask.
    """
    file = audit.proposed_file(identity)
    labels = _sized(read_labels(file), given.shape, file)
    if audit.classes == 1:
        labels = (labels != 0).astype(np.uint8)
    labels[given == IGNORE] = IGNORE  # whatever value the file has for it
    strange = np.unique(labels[(labels >= max(audit.classes, 2)) & (labels != IGNORE)])
    if strange.size:
        raise DataError(f"{file}: holds {strange[0]} where classes = {audit.classes}")
    return labels


def read_confidence(audit: Audit, identity: str, size: tuple[int, ...]) -> np.ndarray:
    """Return the probability that each pixel's label is right, uint8 (*S): 0 surely wrong … 255 surely right.

    Raises:
        DataError: the file cannot be read, or has another size than the given mask.
    """
    file = audit.confidence_file(identity)
    return _sized(read_labels(file), size, file)


def _sized(values: np.ndarray, size: tuple[int, ...], file: Path) -> np.ndarray:
    if values.shape != tuple(size):
        now, before = ("x".join(map(str, reversed(shape))) for shape in (values.shape, size))
        raise DataError(f"{file}: {now} pixels, {before} when it was audited; audit again")
    return values


def encode_mask(labels: np.ndarray) -> bytes:
    """Return a mask as it is saved: a picture as PNG, a volume as its size and its labels, compressed."""
    if labels.ndim == 2:
        return encode_image(labels, "PNG")
    return _VOLUME + struct.pack("<3I", *labels.shape) + zlib.compress(labels.tobytes(), 1)


def decode_mask(content: bytes) -> np.ndarray:
    """Return a mask that `encode_mask` has made; whatever is wrong with it raises an exception."""
    if not content.startswith(_VOLUME):
        return decode_png(content)
    shape = struct.unpack("<3I", content[len(_VOLUME) : len(_VOLUME) + 12])
    return np.frombuffer(zlib.decompress(content[len(_VOLUME) + 12 :]), np.uint8).reshape(shape)


def digest(labels: np.ndarray) -> str:
    """Return a hash of a mask's labels and size."""
    size = "x".join(map(str, labels.shape))
    return hashlib.sha256(f"{size}\n".encode() + np.ascontiguousarray(labels).tobytes()).hexdigest()


def most_bytes(size: tuple[int, int]) -> int:
    """Return the length of the longest painted mask of this (height, width): a run per pixel."""
    return RUN_BYTES * size[0] * size[1]


def labels_of_runs(body: bytes, size: tuple[int, int], allowed: Collection[int]) -> np.ndarray:
    """Return a painted mask; everything is checked before memory for the pixels is used.

    Args:
        body: the runs.
        size: the (height, width) it must have.
        allowed: the labels it may have.

    Raises:
        ValueError: it has another size or another label.
    """
    pixels = size[0] * size[1]
    if not body or len(body) % RUN_BYTES or len(body) > most_bytes(size):
        raise ValueError(f"{len(body)} bytes are not a mask of {size[1]}x{size[0]} pixels")
    runs = np.frombuffer(body, "<u4")
    lengths, labels = runs >> 8, (runs & 255).astype(np.uint8)
    if not lengths.all() or int(lengths.sum(dtype=np.uint64)) != pixels:
        raise ValueError(f"the runs do not have {pixels:,} pixels ({size[1]}x{size[0]})")
    strange = set(np.unique(labels).tolist()) - set(allowed)
    if strange:
        raise ValueError(f"label {min(strange)} is not one of {', '.join(map(str, sorted(allowed)))}")
    return np.repeat(labels, lengths).reshape(size)


def allowed_labels(audit: Audit, given: np.ndarray) -> list[int]:
    """Return the labels that may be painted: those of the classes, and 255 (ignored) if the data can hold ignored pixels."""
    may_ignore = audit.classes > 1 or audit.ignore_label is not None or bool((given == IGNORE).any())
    classes = [label for label in range(max(audit.classes, 2)) if audit.classes == 1 or label != audit.ignore_label]
    return [*classes, *([IGNORE] if may_ignore else [])]
