"""Datasets of nnU-Net, read as they are: their labels are noisy but for those of some ids.

DATA/  dataset.json  imagesTr/<id>_0000.nii.gz …  labelsTr/<id>.nii.gz  clean.txt (ids, one a line)  labelsTs/ (tests; may be absent)
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from pixeltrust.data import volumes
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.data.listings import Listing, files_by_id
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.text import count, some

RECORD = "dataset.json"
CLEAN_IDS = "clean.txt"
IGNORED = "ignore"
"""The name of the label of ignored pixels."""


@dataclass(frozen=True)
class Dataset:
    """What a dataset.json says."""

    folder: Path
    record: Mapping[str, Any]

    @cached_property
    def labels(self) -> dict[str, list[int]]:
        """The values of each label; a region has several."""
        return {name: values if isinstance(values, list) else [values] for name, values in self.record["labels"].items()}

    @property
    def ignore_label(self) -> int | None:
        """The value of ignored pixels."""
        return self.labels[IGNORED][0] if IGNORED in self.labels else None

    @property
    def classes(self) -> int:
        """How many labels there are, with the background."""
        return 1 + max(value for name, values in self.labels.items() if name != IGNORED for value in values)

    def path_of(self, role: str) -> Path:
        """Return the place where the masks of a role come from."""
        return self.folder / {"noisy": "labelsTr", "clean": CLEAN_IDS, "test": "labelsTs"}[role]


def read_dataset(data: Path) -> Dataset | None:
    """Read the record of a dataset; None where the folder is not one.

    Raises:
        DataError: the record cannot be used; says why.
    """
    file = data / RECORD
    if not (file.is_file() and (data / "imagesTr").is_dir()):
        return None
    try:
        record = loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JSONDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    wrong = next(_faults(record), None)
    if wrong:
        raise DataError(f"{file}: {wrong}; wanted is the format of nnU-Net 2 (nnUNetv2_convert_MSD_dataset makes it of a Decathlon's)")
    return Dataset(data, record)


def labels_of(data: Path, classes: int | None = None, ignore_label: int | None = None) -> tuple[int, int | None]:
    """Return the number of classes and the label of ignored pixels: as given, else of a dataset's record, else 1 and none.

    Raises:
        DataError: the record cannot be used; says why.
    """
    dataset = read_dataset(Path(data))
    if dataset is None:
        return classes or 1, ignore_label
    return classes or dataset.classes, dataset.ignore_label if ignore_label is None else ignore_label


def name_labels(data: Path) -> dict[int, str]:
    """Return the names of labels that the record of a dataset has; none of other data, and none of regions of several labels."""
    with suppress(DataError):
        if dataset := read_dataset(data):
            return {values[0]: name for name, values in dataset.labels.items() if len(values) == 1}
    return {}


def _faults(record: Any) -> Iterator[str]:
    if not isinstance(record, dict):
        yield "is not an object"
        return
    if not isinstance(record.get("file_ending"), str):
        yield "has no file_ending"
    if not (isinstance(record.get("channel_names"), dict) and record["channel_names"]):
        yield "has no channel_names"
    labels = record.get("labels")
    if not (isinstance(labels, dict) and labels):
        yield "has no labels"
        return
    for name, values in labels.items():
        if not all(type(value) is int and 0 <= value < 255 for value in (values if isinstance(values, list) and values else [values])):
            yield f"its label {name!r} is {values!r}, not a whole number of 0 … 254, or a list of them"


def list_dataset(dataset: Dataset, layout: Layout) -> dict[str, Listing]:
    """List the images, and the masks by role; `layout` may say in its `clean` which file lists the clean ids.

    Raises:
        DataError: a folder is missing, the file of clean ids is missing or empty, or another part of the layout was given.
    """
    data, ending = dataset.folder, dataset.record["file_ending"]
    others = [option for option in layout_options(layout) if not option.startswith("--clean")]
    if others:
        raise DataError(f"{data}: a dataset of nnU-Net names its folders itself; leave out {', '.join(others)}")
    named = layout.get("clean")
    file = data / (named or CLEAN_IDS)
    if named and not file.is_file():
        raise DataError(f"{file}: there is no such file; in a dataset of nnU-Net --clean names a file of clean ids, one a line")
    clean = set(file.read_text(encoding="utf-8-sig").split()) if file.is_file() else set()
    images, labels = (files_by_id(data / name) for name in ("imagesTr", "labelsTr"))
    tests = data / "labelsTs"
    test = files_by_id(tests) if tests.is_dir() else Listing(tests, {}, [], [])
    if test.files:
        more = files_by_id(data / "imagesTs")
        images.faults.extend(more.faults)
        images.files.update(more.files)
    for listing in (images, labels, test):
        if odd := [path.name for path in listing.files.values() if not path.name.endswith(ending)]:
            listing.faults.append(f"{listing.folder}: {count(len(odd), 'file')} without the file_ending {ending} of {RECORD}: {some(odd)}")
    channels = len(dataset.record["channel_names"])
    stems = {path.name[-len(ending) - 5 : -len(ending)] for path in images.files.values()}
    of_one_picture = stems == {"_0000"} and ending not in volumes.SUFFIXES  # which has several channels: colours
    if stems != (wanted := {f"_{number:04}" for number in range(channels)}) and not of_one_picture:
        said = f"where {RECORD} has {count(channels, 'channel')} ({some(sorted(wanted))})"
        images.faults.append(f"{images.folder}: its files are numbered {some(sorted(stems))}, {said}")
    if unknown := sorted(clean - labels.files.keys()):
        labels.faults.append(f"{file}: {count(len(unknown), 'id')} that no mask in {labels.folder} has: {some(unknown)}")
    noisy = {identity: path for identity, path in labels.files.items() if identity not in clean}
    trusted = {identity: path for identity, path in labels.files.items() if identity in clean}
    return {
        "images": images,
        "noisy": Listing(labels.folder, noisy, labels.faults, labels.notes),
        "clean": Listing(labels.folder, trusted, [], []),
        "test": test,
    }
