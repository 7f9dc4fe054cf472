"""Folders of mask files: the project's own format, <id>.png, and the folder of an audit."""

import math
from pathlib import Path

import numpy as np

from pixeltrust.auditing.folder import FORMAT, read_audit_cases, read_audit_record
from pixeltrust.data.image_files import case_id, image_suffix
from pixeltrust.data.images import read_labels, refuse_volumes
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.pictures import write_png
from pixeltrust.formats.annotations import AnnotatedMask, MaskFile, MaskFolder
from pixeltrust.formats.format import Encoded, Format, Output, Source
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.labels import IGNORE

OF_PICTURES = "Label Studio, CVAT, COCO and FiftyOne hold pictures; 3D Slicer and ITK-SNAP open the NIfTI files as they are"


def read_masks(source: Source) -> MaskFolder:
    """List the masks of a plain folder.

    Raises:
        DataError: the folder does not exist or has no mask.
    """
    folder = source.path
    listing = files_by_id(folder)
    if not listing.files and not listing.faults:
        parts = [part for part in ("clean", "noisy", "test", "masks", "mended") if (folder / part).is_dir()]
        inside = f"; is it {folder / parts[0]} that you mean?" if parts else ""
        raise DataError(f"{folder}: no mask in it{inside}")
    refuse_volumes(listing.files.values(), repair=OF_PICTURES)
    files = [MaskFile(identity, path) for identity, path in sorted(listing.files.items())]
    return MaskFolder(files, source.classes or 1, source.ignore_label, False, listing.faults, listing.notes)


def read_audit(source: Source) -> MaskFolder:
    """List the cases of an audit, worst first: the proposed mask beside the given one.

    Raises:
        DataError: its files are not those of an audit.
        ConfigError: it has another number of classes than was asked for, or an ignore label was asked for.
    """
    folder = source.path
    try:
        record = read_audit_record(folder)
    except RunError as error:
        raise DataError(f"not an audit of format {FORMAT} with its number of classes: {error}") from None
    if source.classes not in (None, record.classes) or source.ignore_label is not None:
        raise ConfigError(f"classes, ignore_label: the audit itself has them ({record.classes} and {record.ignore_label})")
    if record.axes == 3:
        raise DataError(f"{folder}: an audit of volumes: {OF_PICTURES}")
    table = folder / "cases.csv"
    files, faults = [], []
    for number, row in enumerate(read_audit_cases(folder).to_dict("records"), 2):
        identity, agreement, share = row["id"], row["agreement"], row["doubtful_share"]
        where = f"{table}, row {number}"
        if "\\" in identity:
            faults.append(f"{where}: the id {identity!r} is not the name of a file")
        if not 0 <= agreement <= 1:
            faults.append(f"{where}: agreement {agreement}: between 0 and 1")
        facts = {"rank": row["rank"], "agreement": agreement}
        if math.isfinite(share):  # it is not defined if both masks are empty
            facts["doubtful_share"] = share
        files.append(MaskFile(identity, folder / "mended" / f"{identity}.png", Path(row["image"]), Path(row["mask"]), facts))
    if not files:
        raise DataError(f"{table}: no case in it")
    return MaskFolder(files, record.classes, record.ignore_label, True, faults)


def image_name(file: MaskFile, image: Path | None) -> str:
    """Return the image's file name if it is that of the case; else the case's id with that file's ending, or with the mask's."""
    known = image or file.image
    if known and case_id(known) == file.id:
        return known.name
    return f"{file.id}{image_suffix(known or file.mask) or '.png'}"


def write_mask(mask: AnnotatedMask, output: Output) -> bool:
    """Write a case's file, and return whether it holds 0 and 255 for background and foreground."""
    assert output.folder is not None
    plain = output.binary and not (mask.labels == IGNORE).any()
    write_png(output.folder / f"{mask.id}.png", np.where(mask.labels == 1, np.uint8(255), np.uint8(0)) if plain else mask.labels)
    return plain


def write_alike(encoded: Encoded, output: Output) -> dict[str, str]:
    """Write plain files again if others ignore pixels: 255 cannot be foreground in some files and ignored in others."""
    assert output.folder is not None
    for mask in (mask for mask, plain in encoded if plain and output.ignores):
        path = output.folder / f"{mask.id}.png"
        write_png(path, read_labels(path) // 255)
    return {}


def _notes_for_training(_encoded: Encoded, output: Output) -> list[str]:
    if output.classes > 1:
        return [f"train with --set classes={output.classes}"]
    return ["255 is ignored in these files: train with --set ignore_label=255"] if output.ignores else []


PNG = Format(
    name="png", title="PNG folder", looks="a folder of masks", masks=True,
    sources=("folder",), recognises=lambda source: source.path.is_dir(), read=read_masks,
    makes="folder", encode=write_mask, document=write_alike, notes=_notes_for_training,
)  # fmt: skip
AUDIT = Format(
    name="audit", title="Audit", looks="a folder with audit.json", masks=True,
    sources=("folder",), recognises=lambda source: (source.path / "audit.json").is_file(), read=read_audit,
)  # fmt: skip
