"""A source: a folder of images whose true masks are known, for simulation and benchmarks.

    SOURCE/  images/<id>.*  masks/<id>.* (each 0 and at most one other value)  split.csv (id, split; may be absent)

Cases whose split is `train` are for training, those of every other split for tests; without split.csv all are for training.
"""

from dataclasses import dataclass
from pathlib import Path

from pixeltrust.data.images import read_size
from pixeltrust.data.layouts import find_best_ending
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.masks import read_binary
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


def read_source(source: Path, *, show_progress: bool = True) -> list[SourceCase]:
    """Read every case of the source, in the order of the ids; decode every mask and read every image's header.

    Raises:
        DataError: lists every fault.
    """
    faults: list[str] = []
    images, masks = (_list_files(source / part, faults) for part in ("images", "masks"))
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
    cases = [SourceCase(id_, images[id_], masks[id_], splits is None or splits.get(id_) == "train") for id_ in paired]
    for _, outcome in attempt_in_threads(_check_files, cases, text="checking", shown=show_progress):
        faults += faults_of(outcome) if isinstance(outcome, PixeltrustError) else []
    if faults:
        raise DataError(f"{source}: {count(len(faults), 'fault')}", faults)
    if not cases:
        raise DataError(f"{source}: has no images in images/ with masks in masks/")
    return cases


def _list_files(folder: Path, faults: list[str]) -> dict[str, Path]:
    try:
        listing = files_by_id(folder)
    except DataError as error:
        raise DataError(f"{error}; a source has images/ and masks/") from None
    faults += listing.faults
    return listing.files


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


def _check_files(case: SourceCase) -> None:
    faults: list[Fault] = []
    size, mask_size = read_size(case.image), read_size(case.mask)
    if mask_size != size:
        wrong = f"{case.mask}: of size {mask_size}, its image of size {size}"
        faults.append(Fault(wrong, kind="masks of another size than their image"))
    try:
        read_binary(case.mask)
    except DataError as error:
        faults.append(error.fault)
    if faults:
        raise DataError(f"{case.id}: cannot be used", faults)
