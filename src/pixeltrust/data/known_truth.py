"""A source: a folder of images whose true masks are known, for simulation and benchmarks.

    SOURCE/  images/<id>.*  masks/<id>.*  split.csv (id, split; may be absent)

A mask has 0 and at most one other value, or the labels of several classes. All cases are pictures, or all are volumes.

Cases whose split is `train` are for training, those of every other split for tests; without split.csv all are for training.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pixeltrust.data.images import read_header
from pixeltrust.data.layouts import find_best_ending
from pixeltrust.data.listings import Listing, channel_files, files_by_id, join_channels
from pixeltrust.data.masks import decode_labels
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError
from pixeltrust.plumbing.progress import attempt_in_threads, faults_of
from pixeltrust.plumbing.tables import read_table
from pixeltrust.plumbing.text import count


@dataclass(frozen=True)
class SourceCase:
    """One image with its true mask."""

    id: str
    image: Path
    mask: Path
    trains: bool
    image_files: tuple[Path, ...] = ()
    """One for each channel."""
    spacing: tuple[float, ...] | None = None
    """Of a volume, along (D, H, W) in mm."""


def read_source(source: Path, *, classes: int = 1, show_progress: bool = True) -> list[SourceCase]:
    """Read every case of the source, in the order of the ids; decode every mask and read every image's header.

    Args:
        classes: as in `Config`.

    Raises:
        DataError: lists every fault.
    """
    faults: list[str] = []
    listed, masked = (_list_files(source / part) for part in ("images", "masks"))
    channels = join_channels(listed, masked.files)
    faults += [*listed.faults, *masked.faults]
    images, masks = listed.files, masked.files
    splits = _read_splits(source / "split.csv", faults)
    endings = (find_best_ending(masks.keys() - images.keys(), images), find_best_ending(images.keys() - masks.keys(), masks))
    for ending in [ending for ending, matched in endings if len(matched) > 1]:
        faults.append(f"{source}: masks and images match once `{ending}` is taken off their names; rename them")
    lone = "images without a mask", "masks without an image"
    faults += [Fault(f"{images[id_]}: has no mask in {source / 'masks'}", kind=lone[0]) for id_ in sorted(images.keys() - masks.keys())]
    faults += [Fault(f"{masks[id_]}: has no image in {source / 'images'}", kind=lone[1]) for id_ in sorted(masks.keys() - images.keys())]
    paired = sorted(images.keys() & masks.keys())
    if splits is not None:
        faults += [f"{source / 'split.csv'}: {id_} has no files" for id_ in splits if id_ not in images.keys() | masks.keys()]
        faults += [f"{images[id_]}: has no row in {source / 'split.csv'}" for id_ in paired if id_ not in splits]
    cases = [
        SourceCase(
            id_,
            images[id_],
            masks[id_],
            splits is None or splits.get(id_) == "train",
            tuple(channel_files(images[id_], channels.get(id_, 1))),
        )
        for id_ in paired
    ]
    checked = attempt_in_threads(partial(_check_files, classes=classes), cases, text="checking", shown=show_progress)
    spacings: list[tuple[float, ...] | None] = []
    for _, outcome in checked:
        if isinstance(outcome, PixeltrustError):
            faults += faults_of(outcome)
        else:
            spacings.append(outcome)
    if not faults and None in spacings and any(spacings):
        volume, picture = (cases[[bool(spacing) for spacing in spacings].index(wanted)].mask for wanted in (True, False))
        faults.append(f"pictures and volumes together: {volume} is a volume, {picture} a picture; put them in sources of their own")
    if faults:
        raise DataError(f"{source}: {count(len(faults), 'fault')}", faults)
    if not cases:
        raise DataError(f"{source}: has no images in images/ with masks in masks/")
    return [replace(case, spacing=spacing) for case, spacing in zip(cases, spacings, strict=True)]


def _list_files(folder: Path) -> Listing:
    try:
        return files_by_id(folder)
    except DataError as error:
        raise DataError(f"{error}; a source has images/ and masks/") from None


def _read_splits(path: Path, faults: list[str]) -> dict[str, str] | None:
    """Read the split of every id; None without a file."""
    if not path.exists():
        return None
    table = read_table(path)
    if not {"id", "split"} <= set(table.columns):
        raise DataError(f"{path}: needs the columns id and split, has {', '.join(map(str, table.columns))}")
    splits: dict[str, str] = {}
    for id_, split in zip(table["id"].str.strip(), table["split"].str.strip(), strict=True):
        if id_ in splits:
            faults.append(f"{path}: {id_} has two rows")
        if not split:
            faults.append(f"{path}: {id_} has no split")
        splits[id_] = split
    return splits


def _check_files(case: SourceCase, *, classes: int) -> tuple[float, ...] | None:
    """Check the files of a case, and return the spacing of a volume."""
    faults: list[Fault] = []
    mask = read_header(case.mask)
    for image in case.image_files:
        header = read_header(image)
        if mask.size != header.size:
            wrong = f"{case.mask}: of size {mask.size}, its image of size {header.size}"
            faults.append(Fault(wrong, kind="masks of another size than their image"))
        elif mask.grid and header.grid and (off := mask.grid.difference(header.grid)):
            wrong = f"{case.mask}: not on the grid of its image {image}: {off}"
            faults.append(Fault(wrong, kind="masks that are not on the grid of their image"))
    try:
        decode_labels(case.mask, classes=classes, ignore_label=None, may_ignore=False)
    except DataError as error:
        faults.append(error.fault)
    if faults:
        raise DataError(f"{case.id}: cannot be used", faults)
    return mask.grid.spacing if mask.grid else None
