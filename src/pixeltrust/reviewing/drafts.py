"""AUDIT/.drafts: masks of volumes that people paint on, one for a case and a person, until it is decided on or dropped.

A draft is a file that is mapped and changed in place, so what is painted outlives the page and the server. What undoes a stroke is in
memory: after the server's end a draft is there as it was, but its strokes cannot be undone one by one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Lock

import numpy as np

from pixeltrust.plumbing.files import make_folder, retry_parsing

FOLDER = ".drafts"
_MOST_STROKES = 200

_Stroke = tuple[tuple[slice, ...], np.ndarray, np.ndarray]
"""Where it is, and the labels before and after it."""


class Draft:
    """A mask that is painted on, uint8 (D, H, W), and what undoes that."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.done: list[_Stroke] = []
        self.undone: list[_Stroke] = []
        self.lock = Lock()

    @property
    def exists(self) -> bool:
        """Whether anything was painted."""
        return self.file.is_file()

    @property
    def labels(self) -> np.ndarray:
        """The mask as it is now, mapped."""
        return retry_parsing(lambda: np.load(self.file, mmap_mode="r"))

    def paint(self, start: Callable[[], np.ndarray], box: tuple[slice, ...], change: Callable[[np.ndarray], np.ndarray]) -> int:
        """Change the labels in a box; return how many voxels are others now.

        Args:
            start: returns the mask that painting begins on.
            change: from the labels in the box to new ones.
        """
        was = np.array(self.labels[box] if self.exists else start()[box])
        made = change(was)
        if (changed := int((made != was).sum())) == 0:
            return 0
        if not self.exists:
            make_folder(self.file.parent)
            unfinished = self.file.with_suffix(".new")
            with unfinished.open("wb") as file:
                np.save(file, start())
            unfinished.replace(self.file)
        self._write(box, made)
        self.done = [*self.done, (box, was, made)][-_MOST_STROKES:]
        self.undone = []
        return changed

    def turn(self, which: str) -> bool:
        """Undo a stroke, or do it again; return whether there was one."""
        source, other = (self.done, self.undone) if which == "undo" else (self.undone, self.done)
        if not source:
            return False
        box, was, made = stroke = source.pop()
        self._write(box, was if which == "undo" else made)
        other.append(stroke)
        return True

    def drop(self) -> None:
        """Forget what was painted."""
        self.file.unlink(missing_ok=True)
        self.done, self.undone = [], []

    def _write(self, box: tuple[slice, ...], labels: np.ndarray) -> None:
        mapped = retry_parsing(lambda: np.load(self.file, mmap_mode="r+"))
        mapped[box] = labels
        mapped.flush()


class Drafts:
    """The drafts of an audit."""

    def __init__(self, audit: Path) -> None:
        self.folder = audit / FOLDER
        self._drafts: dict[str, Draft] = {}
        self._lock = Lock()

    @contextmanager
    def of(self, identity: str, who: str) -> Iterator[Draft]:
        """Give the block the draft of a case and a person, for itself."""
        key = hashlib.sha256(os.fsencode(f"{identity}\0{who}")).hexdigest()[:32]
        with self._lock:
            draft = self._drafts.setdefault(key, Draft(self.folder / f"{key}.npy"))
        with draft.lock:
            yield draft


def ball(path: np.ndarray, size_mm: float, spacing: Sequence[float], shape: Sequence[int]) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the box of a ball that goes along a path, and which of its voxels have their centre in it, bool.

    Args:
        path: (N, 3), the ball's centres in voxels: the centre of the first voxel is at ½.
        size_mm: the diameter.
        spacing: of the voxels, in mm.
    """
    radius = size_mm / 2
    reach = radius / np.asarray(spacing)
    low = np.floor(path.min(0) - reach).astype(int).clip(0, np.asarray(shape) - 1)
    high = np.ceil(path.max(0) + reach).astype(int).clip(1, shape)
    box = tuple(slice(int(first), int(behind)) for first, behind in zip(low, np.maximum(high, low + 1), strict=True))
    inside = np.zeros([part.stop - part.start for part in box], bool)
    ends = np.concatenate([path[:1], path]) * spacing
    for start, end in pairwise(ends):  # a capsule for each piece of the path, looked at within its own box
        near_low = (np.floor((np.minimum(start, end) - radius) / spacing).astype(int) - [part.start for part in box]).clip(0)
        near_high = np.ceil((np.maximum(start, end) + radius) / spacing).astype(int) - [part.start for part in box]
        near = tuple(slice(int(a), max(int(a), int(b))) for a, b in zip(near_low, near_high, strict=True))
        part = inside[near]
        if not part.size:
            continue
        centres = np.stack(
            np.meshgrid(
                *(
                    (np.arange(n) + each.start + whole.start + 0.5) * mm
                    for n, each, whole, mm in zip(part.shape, near, box, spacing, strict=True)
                ),
                indexing="ij",
            ),
            axis=-1,
        )
        along = end - start
        share = ((centres - start) @ along / max(float(along @ along), 1e-12)).clip(0, 1)
        part |= ((centres - start - share[..., None] * along) ** 2).sum(-1) <= radius**2
    return box, inside


def change_at(
    given: np.ndarray, proposed: np.ndarray, box: tuple[slice, ...], kind: str = ""
) -> tuple[tuple[slice, ...], np.ndarray] | None:
    """Return the parts of a proposed change (connected, 26 neighbours) that reach into a box: their own box, and where they are in it.

    Args:
        kind: of a region; any where not given, or `unsure`.
    """
    from scipy import ndimage

    seeds = _kinds(given[box], proposed[box])
    number = {"missing": 1, "too much": 2, "other class": 3}.get(kind, 0)
    wanted = (seeds == number) if number else seeds > 0
    if not wanted.any():
        return None
    numbers = {int(value) for value in np.unique(seeds[wanted])}
    outer = _box_of(given != proposed)
    changed = np.isin(_kinds(given[outer], proposed[outer]), list(numbers))
    parts, _ = ndimage.label(changed, np.ones((3, 3, 3)))
    inner = tuple(slice(max(b.start, o.start) - o.start, max(b.stop, o.start) - o.start) for b, o in zip(box, outer, strict=True))
    chosen = np.isin(parts, np.setdiff1d(np.unique(parts[inner]), [0]))
    own = _box_of(chosen)
    place = tuple(slice(o.start + p.start, o.start + p.stop) for o, p in zip(outer, own, strict=True))
    return place, chosen[own]


def _box_of(where: np.ndarray) -> tuple[slice, ...]:
    """Return the box of what is true, which something is."""
    across = np.asarray(where.any(axis=0))
    places = [np.flatnonzero(where.any(axis=(1, 2))), np.flatnonzero(across.any(axis=1)), np.flatnonzero(across.any(axis=0))]
    return tuple(slice(int(place[0]), int(place[-1]) + 1) for place in places)


def _kinds(given: np.ndarray, proposed: np.ndarray) -> np.ndarray:
    kinds = np.where(given == 0, np.uint8(1), np.where(proposed == 0, np.uint8(2), np.uint8(3)))
    kinds[given == proposed] = 0
    return kinds
