"""Folders of masks: the project's own format, <id>.png, and the folder of an audit."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.cases import files_by_id
from pixeltrust.errors import DataError
from pixeltrust.formats.annotations import Masked
from pixeltrust.formats.documents import of_type, read_json
from pixeltrust.images import image_suffix
from pixeltrust.labels import Kind, decode_labels
from pixeltrust.tables import read_table

AUDIT = "audit.json"
_COLUMNS = ("id", "image", "mask", "rank", "agreement", "doubtful_share")


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file; of an audit, beside the mask that was given."""

    id: str
    mask: Path
    image: Path | None = None
    given: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class MaskFolder:
    """The masks of a folder, not yet decoded."""

    files: list[MaskFile]
    classes: int
    ignore_label: int | None
    faults: list[str]
    notes: list[str]

    def decode(self, file: MaskFile, name: str, image: Path | None) -> tuple[Masked, list[Kind]]:
        """A case's masks, and what 255 means in each file.

        Raises:
            DataError: one cannot be read, holds a value that no class has, or they differ in size.
        """
        labels, kind = decode_labels(file.mask, classes=self.classes, ignore_label=self.ignore_label)
        if file.given is None:
            return Masked(file.id, name, image, labels), [kind]
        given, given_kind = decode_labels(file.given, classes=self.classes, ignore_label=self.ignore_label)
        if given.shape != labels.shape:
            sizes = [f"{plane.shape[1]}x{plane.shape[0]}" for plane in (labels, given)]
            raise DataError(f"{file.mask}: {sizes[0]} pixels, the given mask {file.given} has {sizes[1]}")
        return Masked(file.id, name, image, labels, given, file.facts), [kind, given_kind]


def read_masks(folder: Path, *, classes: int, ignore_label: int | None) -> MaskFolder:
    """The masks of a plain folder.

    Raises:
        DataError: there is no such folder, or no mask in it.
    """
    listing = files_by_id(folder)
    if not listing.files:
        parts = [part for part in ("clean", "noisy", "test", "masks", "mended") if (folder / part).is_dir()]
        inside = f"; is it {folder / parts[0]} that you mean?" if parts else ""
        raise DataError(f"{folder}: no mask in it{inside}")
    files = [MaskFile(identity, path) for identity, path in sorted(listing.files.items())]
    return MaskFolder(files, classes, ignore_label, listing.faults, listing.notes)


def read_audit(folder: Path) -> MaskFolder:
    """The cases of an audit, worst first: the proposed mask beside the given one.

    Raises:
        DataError: its files are not those of an audit.
    """
    record = of_type(read_json(folder / AUDIT), dict, f"{folder / AUDIT}: it")
    classes, ignore_label = record.get("classes"), record.get("ignore_label")
    told = isinstance(classes, int) and 1 <= classes <= 254 and (ignore_label is None or isinstance(ignore_label, int))
    if record.get("format") != 1 or not told:
        raise DataError(f"{folder / AUDIT}: no audit of format 1 with its number of classes")
    table = folder / "cases.csv"
    rows = read_table(table)
    if missing := [name for name in _COLUMNS if name not in rows.columns]:
        raise DataError(f"{table}: no column {', '.join(missing)}")
    files, faults = [], []
    for number, row in enumerate(rows[list(_COLUMNS)].itertuples(index=False), 2):
        try:
            files.append(_audited(folder, *row))
        except ValueError as error:
            faults.append(f"{table}, row {number}: {error}")
    if not files and not faults:
        raise DataError(f"{table}: no case in it")
    return MaskFolder(files, classes, ignore_label, faults, [])


def _audited(folder: Path, identity: str, image: str, mask: str, rank: str, agreement: str, share: str) -> MaskFile:
    if identity in ("", ".", "..") or "/" in identity or "\\" in identity:
        raise ValueError(f"the id {identity!r} names no file")
    facts: dict[str, Any] = {"rank": int(rank), "agreement": float(agreement)}
    if not 0 <= facts["agreement"] <= 1:
        raise ValueError(f"agreement {agreement}: between 0 and 1")
    if share and math.isfinite(float(share)):  # where both masks are empty it is not defined
        facts["doubtful_share"] = float(share)
    return MaskFile(identity, folder / "mended" / f"{identity}.png", Path(image), Path(mask), facts)


def file_values(labels: np.ndarray, *, binary: bool) -> np.ndarray:
    """What a mask file holds: 0 and 255 of a binary mask, else the labels themselves."""
    return np.where(labels == 1, np.uint8(255), np.uint8(0)) if binary else labels


def name_of(file: MaskFile, image: Path | None) -> str:
    """The image's file name; where there is no image, that of the mask."""
    known = image or file.image
    return known.name if known else f"{file.id}{image_suffix(file.mask) or '.png'}"
