"""Folders of masks: the project's own format, <id>.png, and the folder of an audit."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.auditing.folder import FORMAT, read_audit_cases, read_record
from pixeltrust.data.cases import files_by_id
from pixeltrust.data.images import case_id, image_suffix
from pixeltrust.data.masks import MaskMeaning, decode_labels
from pixeltrust.formats.annotations import Masked
from pixeltrust.plumbing.errors import DataError, RunError

AUDIT = "audit.json"


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

    def decode(self, file: MaskFile, name: str, image: Path | None) -> tuple[Masked, list[MaskMeaning]]:
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
    if not listing.files and not listing.faults:
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
    try:
        record = read_record(folder)
    except RunError as error:
        raise DataError(f"no audit of format {FORMAT} with its number of classes: {error}") from None
    table = folder / "cases.csv"
    files, faults = [], []
    for number, row in enumerate(read_audit_cases(folder).to_dict("records"), 2):
        identity, agreement, share = row["id"], row["agreement"], row["doubtful_share"]
        wrong = [f"the id {identity!r} names no file"] if "\\" in identity else []
        wrong += [] if 0 <= agreement <= 1 else [f"agreement {agreement}: between 0 and 1"]
        faults += [f"{table}, row {number}: {one}" for one in wrong]
        facts = {"rank": row["rank"], "agreement": agreement}
        if math.isfinite(share):  # where both masks are empty it is not defined
            facts["doubtful_share"] = share
        files.append(MaskFile(identity, folder / "mended" / f"{identity}.png", Path(row["image"]), Path(row["mask"]), facts))
    if not files:
        raise DataError(f"{table}: no case in it")
    return MaskFolder(files, record.classes, record.ignore_label, faults, [])


def file_values(labels: np.ndarray, *, binary: bool) -> np.ndarray:
    """What a mask file holds: 0 and 255 of a binary mask, else the labels themselves."""
    return np.where(labels == 1, np.uint8(255), np.uint8(0)) if binary else labels


def name_of(file: MaskFile, image: Path | None) -> str:
    """The image's file name where it tells the case, as in a folder; else the case's id with that file's ending, or the mask's."""
    known = image or file.image
    if known and case_id(known) == file.id:
        return known.name
    return f"{file.id}{image_suffix(known or file.mask) or '.png'}"
