"""What every annotation file is read as, and what every writer gets.

    file → Annotations (pictures with regions) → labels uint8 (H, W) per picture → file

labels   uint8 (H, W): 0 background, 1 … by the order of the label names, 255 ignored
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.data.images import MAX_PIXELS, case_id, image_suffix
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.text import some

Size = tuple[int, int]
Found = Counter[str]
"""What was noticed, in words, and how often."""

Decode = Callable[[Size, Found], np.ndarray | None]

_UNWRITABLE = re.compile(r"[\x00-\x1f\ud800-\udfff\ufffe\uffff]")
_OTHER_ENDING = re.compile(r"\.(webp|gif|jfif|jp2|hei[cf]|avif|svg|p[pgn]m|tga|dcm|svs|ndpi|mrxs|nrrd|mha|npy)$", re.IGNORECASE)
CASE = "pixeltrust_id"
"""What a file of tasks or samples made here calls the id of a case, which the image's name need not tell."""
IGNORED = "ignored"
"""The name that ignored pixels have in a file."""


@dataclass(frozen=True)
class Region:
    """One annotated region of a picture.

    `decode(size, found)` makes bool (H, W) of it, or None where no pixel is its own: it adds to `found` what it left out, and
    raises DataError where it cannot.
    """

    label: str
    decode: Decode


@dataclass(frozen=True)
class Picture:
    """One image of an annotation file with its regions, the later above the earlier."""

    id: str
    name: str
    """The image's file name, without a folder."""
    size: Size | None
    """(height, width) where the file tells it."""
    regions: tuple[Region, ...]
    left_out: tuple[str | None, ...] = ()
    """The label, if any, of every annotation that is not drawn, as points are not."""
    annotated: bool = True
    """False where the file says that nobody has judged the image: having no region then means nothing."""


@dataclass
class Annotations:
    """An annotation file, read but not yet decoded."""

    file: Path
    labels: list[str] = field(default_factory=list)
    """Every label, in the order in which the file declares them."""
    pictures: list[Picture] = field(default_factory=list)
    found: Found = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_label(self, name: str) -> str:
        if name not in self.labels:
            self.labels.append(name)
        return name

    def fault(self, where: str, wrong: object) -> None:
        self.faults.append(f"{self.file}, {where}: {wrong}")


@dataclass(frozen=True)
class Masked:
    """A picture with its pixels: what a writer encodes."""

    id: str
    name: str
    image: Path | None
    labels: np.ndarray
    """uint8 (H, W)."""
    given: np.ndarray | None = None
    """Of an audit: the mask before it was mended, uint8 (H, W)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of an audit: rank, agreement, doubtful_share."""

    @property
    def score(self) -> float | None:
        return self.facts.get("agreement")


def located(decode: Decode, where: str) -> Decode:
    """Return the same decoding, whose errors begin with where in the file the region is."""

    def decode_there(size: Size, found: Found) -> np.ndarray | None:
        try:
            return decode(size, found)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    return decode_there


def draw(picture: Picture, size: Size, numbers: Mapping[str, int]) -> tuple[np.ndarray | None, Found]:
    """Draw a picture's regions as labels uint8 (H, W), and return what was noticed beside them.

    There are no labels (None) where every annotation was left out: that image is annotated, so an empty mask would be wrong.

    Args:
        numbers: the number of each label; regions of others are left out and counted.

    Raises:
        DataError: lists every region that cannot be decoded.
    """
    labels = np.zeros(size, np.uint8)
    overlapping = np.zeros(size, bool)
    found: Found = Counter()
    faults: list[str] = []
    drawn, left_out = 0, len(picture.left_out)
    for region in picture.regions:
        number = numbers.get(region.label)
        if number is None:
            found[f"regions of the label {region.label}, which was not asked for, left out"] += 1
            continue
        try:
            mask = region.decode(size, found)
        except DataError as error:
            faults += error.faults or [str(error)]
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
        return None, found
    if pixels := int(overlapping.sum()):
        found["images in which regions of different labels overlap (the later stands above the earlier)"] += 1
        found["pixels in which they overlap"] += pixels
    return labels, found


def numbers_of(names: Sequence[str], *, classes: int) -> dict[str, int]:
    """The number of each label name: 1 … in order (all 1 if classes = 1), and 255 for `ignored`."""
    drawn = [name for name in names if name != IGNORED]
    numbers = {name: 1 if classes == 1 else place for place, name in enumerate(drawn, 1)}
    return numbers | ({IGNORED: IGNORE} if IGNORED in names else {})


def layers(labels: np.ndarray, names: Mapping[int, str]) -> list[tuple[str, np.ndarray]]:
    """(name, bool (H, W)) of every label that has pixels, in the order of the numbers."""
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
    return [(names[number], labels == number) for number in present if number]


def file_name(text: object) -> str:
    """The file name at the end of a path or address of any system.

    Raises:
        DataError: there is none that a case could be named by.
    """
    if not isinstance(text, str):
        raise DataError(f"the image's name is {text!r}, no text")
    name = re.split(r"[/\\]", text)[-1]
    try:
        identity = id_of(name)
        os.fsencode(identity)
    except (UnicodeError, ValueError):
        identity = ""
    if identity in ("", ".", "..") or any(ord(sign) < 32 for sign in name):
        raise DataError(f"the image's name {text!r} names no file")
    return name


def told_id(text: object) -> str:
    """The id of a case that a file made here tells beside the image's name.

    Raises:
        DataError: it names no file.
    """
    if not isinstance(text, str) or not text or file_name(text) != text:
        raise DataError(f"its {CASE} {text!r} is no id of a case")
    return text


def writable(text: object, what: str) -> str:
    """A name that every format can hold.

    Raises:
        DataError: it is no text, empty, or has signs that no JSON or XML file may have.
    """
    if not isinstance(text, str) or not text or _UNWRITABLE.search(text):
        raise DataError(f"{what} {text!r}: a text without control characters is needed")
    return text


def id_of(name: str) -> str:
    """Return the id of the case whose image has this file name; a name without an image's ending (`img.v2`) is kept whole."""
    return case_id(Path(name if has_image_ending(name) else f"{name}.png"))


def has_image_ending(name: str) -> bool:
    """Tell whether a name ends as the files of images do, those among them that are not read here."""
    return bool(image_suffix(Path(name)) or _OTHER_ENDING.search(name))


def checked_size(height: object, width: object) -> Size:
    """(height, width) of an image.

    Raises:
        DataError: they are no whole numbers from 1, or too large for an image.
    """
    sides = []
    for side in (height, width):
        if isinstance(side, float) and side.is_integer():
            side = int(side)
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise DataError(f"width {width!r} and height {height!r}: whole numbers from 1 are needed")
        sides.append(side)
    if sides[0] * sides[1] > MAX_PIXELS:
        raise DataError(f"{sides[1]}x{sides[0]} pixels: more than the {MAX_PIXELS:,} of any image that can be read")
    return sides[0], sides[1]


def doubles(file: Path, pictures: Sequence[Picture]) -> list[str]:
    """A fault for every case that several images of the file share."""
    by_id: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        by_id[picture.id].append(picture.name)
    return [
        f"{file}: {len(names)} images of one id, {identity}: {some(names)}; a case has one mask: take out the others"
        for identity, names in by_id.items()
        if len(names) > 1
    ]


def told(found: Found) -> list[str]:
    """What was noticed as sentences."""
    return [f"{what}: {number:,}" for what, number in found.items() if number]
