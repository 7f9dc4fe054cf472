"""What every format is read as, and what every format writes.

    file → Annotations (pictures with regions) → labels uint8 (H, W) per picture → file
    folder → MaskFolder (mask files)           →

labels   uint8 (H, W): 0 background, 1 … in the order of the label names, 255 ignored
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.data.masks import MaskMeaning, decode_labels
from pixeltrust.plumbing.errors import DataError

Size = tuple[int, int]
Tally = Counter[str]
"""What was noticed, in words, and how often."""
Decode = Callable[[Size, Tally], np.ndarray | None]
IGNORED = "ignored"
"""The label name of ignored pixels in a file."""


@dataclass(frozen=True)
class Region:
    """One annotated region of a picture.

    `decode(size, tally)` returns bool (H, W), or None if the region covers no pixel: then the tally counts what it left out.
    It raises DataError if the region is broken.
    """

    label: str
    decode: Decode
    where: str = ""
    """Its place in the file, for messages."""


@dataclass(frozen=True)
class Picture:
    """One image of an annotation file with its regions, later ones above earlier ones."""

    id: str
    name: str
    """The image's file name, without a folder."""
    size: Size | None
    """(height, width) if the file has it."""
    regions: tuple[Region, ...]
    left_out: tuple[str | None, ...] = ()
    """The label, if any, of every annotation that is not drawn, such as a point."""
    annotated: bool = True
    """False if the file says that nobody has judged the image: then it gets no mask, not an empty one."""


@dataclass
class Annotations:
    """An annotation file, read but not yet decoded."""

    file: Path
    labels: list[str] = field(default_factory=list)
    """Every label, in the order in which the file declares them."""
    pictures: list[Picture] = field(default_factory=list)
    tally: Tally = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_label(self, name: str) -> str:
        if name not in self.labels:
            self.labels.append(name)
        return name

    def fault(self, where: str, wrong: object) -> None:
        self.faults.append(f"{self.file}, {where}: {wrong}")

    @contextmanager
    def collect_fault(self, where: str) -> Iterator[None]:
        """Leave the block at its first DataError, which becomes a fault."""
        try:
            yield
        except DataError as error:
            self.fault(where, error)


@dataclass(frozen=True)
class AnnotatedMask:
    """The mask of a picture: what a writer encodes."""

    id: str
    name: str
    image: Path | None
    labels: np.ndarray
    """uint8 (H, W)."""
    given: np.ndarray | None = None
    """For a case of an audit: the mask that was audited, uint8 (H, W)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For a case of an audit: rank, agreement, doubtful_share."""

    @property
    def score(self) -> float | None:
        return self.facts.get("agreement")


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file; for a case of an audit, beside the mask that was audited."""

    id: str
    mask: Path
    image: Path | None = None
    given: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class MaskFolder:
    """The masks of a folder, not yet decoded."""

    files: list[MaskFile]
    classes: int
    ignore_label: int | None
    knows_images: bool
    """Whether every file has its image."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def decode(self, file: MaskFile, name: str, image: Path | None) -> tuple[AnnotatedMask, list[MaskMeaning]]:
        """Return a case's masks, and what 255 means in each file.

        Raises:
            DataError: one cannot be read, holds a value that no class has, or they differ in size.
        """
        labels, meaning = decode_labels(file.mask, classes=self.classes, ignore_label=self.ignore_label)
        if file.given is None:
            return AnnotatedMask(file.id, name, image, labels), [meaning]
        given, given_meaning = decode_labels(file.given, classes=self.classes, ignore_label=self.ignore_label)
        if given.shape != labels.shape:
            sizes = [f"{plane.shape[1]}x{plane.shape[0]}" for plane in (labels, given)]
            raise DataError(f"{file.mask}: {sizes[0]} pixels, the given mask {file.given} has {sizes[1]}")
        return AnnotatedMask(file.id, name, image, labels, given, file.facts), [meaning, given_meaning]


def draw(picture: Picture, size: Size, numbers: Mapping[str, int]) -> tuple[np.ndarray | None, Tally]:
    """Draw a picture's regions as labels uint8 (H, W), and count what was noticed.

    The labels are None if every annotation was left out: the image is annotated, so an empty mask would be wrong.

    Args:
        numbers: the number of each label; regions of other labels are left out and counted.

    Raises:
        DataError: lists every region that cannot be decoded.
    """
    labels = np.zeros(size, np.uint8)
    overlapping = np.zeros(size, bool)
    tally: Tally = Counter()
    faults: list[str] = []
    drawn, left_out = 0, len(picture.left_out)
    for region in picture.regions:
        number = numbers.get(region.label)
        if number is None:
            tally[f"regions of the label {region.label}, which was not asked for, left out"] += 1
            continue
        try:
            mask = region.decode(size, tally)
        except DataError as error:
            faults += error.faults or [f"{region.where}: {error}" if region.where else str(error)]
            continue
        if mask is None:
            left_out += 1
            continue
        drawn += 1
        overlapping |= mask & (labels != 0) & (labels != number)
        labels[mask] = number
    if faults:
        raise DataError("regions that cannot be decoded", faults)
    if left_out and not drawn:
        return None, tally
    if pixels := int(overlapping.sum()):
        tally["images in which regions of different labels overlap (the later one is above the earlier)"] += 1
        tally["pixels in which they overlap"] += pixels
    return labels, tally


def split_labels(labels: np.ndarray, names: Mapping[int, str]) -> list[tuple[str, np.ndarray]]:
    """Return (name, bool (H, W)) of every label that has pixels, in the order of the numbers."""
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
    return [(names[number], labels == number) for number in present if number]


def notes_from(tally: Tally) -> list[str]:
    """Return what was noticed as sentences."""
    return [f"{what}: {number:,}" for what, number in tally.items() if number]
