"""A data folder, or a table, becomes a list of cases; every fault of it is found in one go.

    DATA/images/<id>.*   DATA/noisy/<id>.*   DATA/clean/<id>.*   DATA/test/<id>.*
    or DATA (a .csv or .parquet file, or DATA/cases.csv, DATA/cases.parquet): id, image, mask, role, optionally group

A case is paired by id, never by order. One in clean/ and in noisy/ is trained as clean.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pixeltrust.errors import DataError, PixeltrustError, count, some
from pixeltrust.images import case_id, image_suffix, read_image, read_labels, read_size
from pixeltrust.losses import IGNORE
from pixeltrust.progress import in_threads

Role = Literal["noisy", "clean", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
TABLES = ("cases.csv", "cases.parquet")
COLUMNS = ("id", "image", "mask", "role")


@dataclass(frozen=True)
class Case:
    """One image with the mask it is trained on or measured by."""

    id: str
    image: Path
    mask: Path
    role: Role
    group: str | None = None
    """A patient, say: cases of one group are never on both sides of training and test."""


@dataclass(frozen=True)
class Cases:
    """All cases of a data folder, sorted by id, and what was noticed while reading it."""

    data: Path
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()

    def of(self, role: Role) -> list[Case]:
        """The cases of one role, in the order of their ids."""
        return [case for case in self.cases if case.role == role]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(role)):,} {role}" for role in ROLES)
        groups = {case.group for case in self.cases if case.group}
        return "\n".join([f"{self.data}: no faults; {counts} cases" + (f" in {len(groups):,} groups" if groups else ""), *self.notes])


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def raise_faults(self, data: Path) -> None:
        faults = list(dict.fromkeys(self.faults))  # a broken file is met by its header and again by its pixels
        if faults:
            raise DataError(f"{data}: {count(len(faults), 'fault')}", faults)


def read_cases(data: Path, *, show_progress: bool = True) -> Cases:
    """The cases of a data folder or table, by names and image headers; no pixel is decoded.

    Args:
        data: a data folder, or a `.csv` or `.parquet` table whose paths count from its own folder.

    Raises:
        DataError: lists every fault: two files of one id, a mask without an image, a mask of another size, a test id that also
            trains, a group on both sides, no clean or no noisy case, and so on.
    """
    cases, found = _read(data, show_progress)
    found.raise_faults(data)
    return cases


def check(data: Path, *, classes: int = 1, ignore_label: int | None = None, show_progress: bool = True) -> Cases:
    """Every fault of a data folder: those that `read_cases` finds, and those of decoding every file, in one go.

    Args:
        classes, ignore_label: as in `Config`.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: lists every fault.
    """
    cases, found = _read(data, show_progress)
    kinds: list[Kind] = []
    empty: Counter[str] = Counter()
    images = list(dict.fromkeys(case.image for case in cases.cases))
    for _, picture in in_threads(read_image, images, text="decoding images", shown=show_progress):
        if isinstance(picture, PixeltrustError):
            found.faults.append(str(picture))
    decode = partial(_decode_mask, classes=classes, ignore_label=ignore_label)
    for case, outcome in in_threads(decode, cases.cases, text="decoding masks", shown=show_progress):
        if isinstance(outcome, PixeltrustError):
            found.faults.append(str(outcome))
        else:
            kinds.append(outcome[0])
            empty[case.role] += outcome[1]
    found.faults += mixture_faults(kinds)
    found.raise_faults(data)
    without = [f"{count(number, f'{role} mask')} without foreground: allowed" for role, number in empty.items() if number]
    return Cases(cases.data, cases.cases, (*cases.notes, *without))


def _read(data: Path, show_progress: bool) -> tuple[Cases, _Findings]:
    """What can be paired, and everything that was found on the way, by names and headers."""
    found = _Findings()
    table = _table_of(data)
    cases = _cases_of_table(table, found) if table else _cases_of_folder(data, found)
    cases = sorted(_without_doubles(cases, found), key=lambda case: case.id)
    _compare_sizes(cases, found, show_progress)
    _compare_sides(cases, found)
    for role in ("noisy", "clean"):
        if not any(case.role == role for case in cases):
            use = {"noisy": "there is nothing to learn to trust", "clean": "a few expert masks are needed: 10 or more, best 50 to 100"}[
                role
            ]
            found.faults.append(f"{table or data / role}: no usable {role} mask; {use}")
    return Cases(data, tuple(cases), tuple(found.notes)), found


Meaning = Literal["foreground", "ignored", "absent"]


@dataclass(frozen=True)
class Kind:
    """What 255 means in one file of a binary folder."""

    path: Path
    meaning: Meaning


def decode_labels(path: Path, *, classes: int, ignore_label: int | None, may_ignore: bool = True) -> tuple[np.ndarray, Kind]:
    """A mask file as labels uint8 (H, W), and what 255 means in the file; see `labels_of`.

    Raises:
        DataError: the file cannot be read, or holds a value that no class has.
    """
    try:
        labels, meaning = labels_of(read_labels(path), classes=classes, ignore_label=ignore_label, may_ignore=may_ignore)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return labels, Kind(path, meaning)


def labels_of(values: np.ndarray, *, classes: int, ignore_label: int | None = None, may_ignore: bool = True) -> tuple[np.ndarray, Meaning]:
    """A mask's values as labels 0 … max(classes, 2) − 1 and 255 for ignored, and what 255 means among the values.

    With one class there are 0 and at most one other value, which is the foreground (255 too); of exactly 0, 1 and 255
    the 255 is ignored. With more, 0 … classes − 1, and 255 is ignored. `ignore_label`, where given, is the ignored value instead.

    Args:
        values: uint8 (H, W), as the file has them.
        classes: 1 (binary) or 2 … 255 with the background.
        may_ignore: False where no value means ignored: a prediction ignores nothing.

    Raises:
        ValueError: a value that no class has.
    """
    present = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    ignored = _ignored_value(present, classes, ignore_label) if may_ignore else None
    if classes > 1:
        strange = present - {*range(classes), ignored}
        if strange:
            also = f" and {ignored} for ignored" if may_ignore else ""
            raise ValueError(f"holds {_values(strange)} where classes = {classes} allows 0 to {classes - 1}{also}")
        labels = values.copy()
    else:
        if len(present - {0, ignored}) > 1:
            also = " (0, 1 and 255 with 255 ignored)" if may_ignore else ""
            raise ValueError(f"holds {_values(present)} where classes = 1 allows 0 and one other{also}")
        labels = (values != 0).astype(np.uint8)
    if ignored is not None:
        labels[values == ignored] = IGNORE
    if IGNORE not in present or ignore_label is not None:
        return labels, "absent"
    return labels, "foreground" if ignored is None else "ignored"


def _ignored_value(present: Collection[int], classes: int, ignore_label: int | None) -> int | None:
    if ignore_label is not None:
        return ignore_label
    return IGNORE if classes > 1 or present == {0, 1, IGNORE} else None


def mixture_faults(kinds: Iterable[Kind]) -> list[str]:
    """A fault if 255 is the foreground of some files and ignored in others: which one a file of 0 and 255 means is then unknown."""
    by_meaning = {kind.meaning: kind for kind in kinds}
    if "foreground" in by_meaning and "ignored" in by_meaning:
        return [
            f"{by_meaning['ignored'].path} holds 0, 1 and 255, and {by_meaning['foreground'].path} 0 and 255: is 255 foreground "
            "or ignored? Set ignore_label (255: ignored everywhere), or save the masks alike"
        ]
    return []


def _decode_mask(case: Case, classes: int, ignore_label: int | None) -> tuple[Kind, bool]:
    labels, kind = decode_labels(case.mask, classes=classes, ignore_label=ignore_label)
    return kind, not ((labels != 0) & (labels != IGNORE)).any()


def _table_of(data: Path) -> Path | None:
    if data.is_file():
        if data.suffix.lower() not in (".csv", ".parquet"):
            raise DataError(f"{data}: a data folder, or a .csv or .parquet table of cases, is needed")
        return data
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder")
    return next((data / name for name in TABLES if (data / name).is_file()), None)


def _cases_of_folder(data: Path, found: _Findings) -> list[Case]:
    if not (data / "images").is_dir():
        raise DataError(f"{data}: not a data folder: it has no images/ (wanted: images/, noisy/, clean/ and perhaps test/)")
    images = _listed(data / "images", found)
    cases, used = [], set()
    for role in ROLES:
        for identity, mask in _listed(data / role, found).items():
            if identity in images:
                cases.append(Case(identity, images[identity], mask, role))
                used.add(identity)
            else:
                found.faults.append(f"{mask}: a mask without an image: no images/{identity}.*")
    unused = len(images) - len(used)
    if unused:
        found.notes.append(f"{count(unused, 'image')} without any mask: not used")
    return cases


def _listed(folder: Path, found: _Findings) -> dict[str, Path]:
    """The files of a folder by id; an absent folder has none."""
    if not folder.is_dir():
        return {}
    listing = files_by_id(folder)
    found.faults += listing.faults
    found.notes += listing.notes
    return listing.files


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by the id of their case, the first of each, and what was noticed."""

    files: dict[str, Path]
    faults: list[str]
    notes: list[str]


def files_by_id(folder: Path) -> Listing:
    """The image files of a folder; two of one id are a fault, other entries a note, hidden files nothing.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder" if folder.exists() else f"{folder}: there is no such folder")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    by_id: dict[str, list[Path]] = defaultdict(list)
    others = []
    for path in entries:
        if image_suffix(path) and not path.is_dir():  # so a link to nowhere is a fault, not an entry to leave out
            by_id[case_id(path)].append(path)
        else:
            others.append(path.name)
    faults = [
        f"{folder}: {len(paths)} files of one id, {identity}: {', '.join(path.name for path in paths)}"
        for identity, paths in by_id.items()
        if len(paths) > 1
    ]
    notes = [f"{folder}: {count(len(others), 'entry', 'entries')} that are no images left out: {some(others)}"] if others else []
    return Listing({identity: paths[0] for identity, paths in by_id.items()}, faults, notes)


def _cases_of_table(table: Path, found: _Findings) -> list[Case]:
    rows = read_table(table)
    missing = [name for name in COLUMNS if name not in rows.columns]
    if missing:
        raise DataError(
            f"{table}: no column {', '.join(missing)}; wanted: {', '.join(COLUMNS)}, and perhaps group; found: {list(rows.columns)}"
        )
    groups = rows["group"] if "group" in rows.columns else [""] * len(rows)
    cases = []
    for number, identity, image, mask, role, group in zip(
        range(2, len(rows) + 2), rows["id"], rows["image"], rows["mask"], rows["role"], groups, strict=True
    ):
        where = f"{table}, row {number}"
        if role not in ROLES:
            found.faults.append(f"{where}: role {role!r}; wanted: {', '.join(ROLES)}")
        elif not identity or not image or not mask or identity in (".", "..") or set(identity) & set("/\\"):
            found.faults.append(f"{where}: id, image and mask must not be empty, and an id has no slash (id {identity!r})")
        else:
            cases.append(Case(identity, table.parent / image, table.parent / mask, role, group or None))
    return cases


def read_table(table: Path) -> pd.DataFrame:
    """A .csv or .parquet file, every cell a text, an empty one where it has nothing.

    Raises:
        DataError: it cannot be read.
    """
    try:
        csv = table.suffix.lower() == ".csv"
        rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig") if csv else pd.read_parquet(table)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{table}: cannot be read as a table: {str(error).strip()}") from None
    if csv and not isinstance(rows.index, pd.RangeIndex):  # pandas has taken the ids for names of rows
        raise DataError(f"{table}: its rows have more cells than its header")
    return rows.astype(object).where(rows.notna(), "").astype(str)


def _without_doubles(cases: list[Case], found: _Findings) -> list[Case]:
    """One case per id: clean stands above noisy; a test case that also trains, a role given twice, two images or groups are faults."""
    by_id: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_id[case.id].append(case)
    kept, both = [], 0
    for identity, same in by_id.items():
        roles = {case.role: case for case in same}
        if len(roles) < len(same):
            found.faults.append(f"{identity}: {len(same)} rows of one id: {some([case.mask for case in same])}")
        if len({(case.image, case.group) for case in same}) > 1:
            named = [f"{case.image} (group {case.group})" for case in same]
            found.faults.append(f"{identity}: rows of one id that differ in image or group: {some(named)}")
        if "test" in roles and len(roles) > 1:
            other = roles.get("clean", roles.get("noisy"))
            assert other is not None
            found.faults.append(f"{roles['test'].mask}: a test case that also trains: {other.mask}")
        both += "clean" in roles and "noisy" in roles
        kept.append(roles.get("clean") or roles.get("noisy") or roles["test"])
    if both:
        found.notes.append(f"{count(both, 'case')} with a clean and a noisy mask: trained as clean")
    return kept


def _compare_sizes(cases: list[Case], found: _Findings, show_progress: bool) -> None:
    files = list(dict.fromkeys(path for case in cases for path in (case.image, case.mask)))
    sizes = dict(in_threads(read_size, files, text="reading headers", shown=show_progress))
    found.faults += [str(size) for size in sizes.values() if isinstance(size, PixeltrustError)]
    for case in cases:
        image, mask = sizes[case.image], sizes[case.mask]
        if not isinstance(image, PixeltrustError) and not isinstance(mask, PixeltrustError) and image != mask:
            (height, width), (mask_height, mask_width) = image, mask
            found.faults.append(f"{case.mask}: {mask_width}x{mask_height} pixels, its image {case.image} has {width}x{height}")


def _compare_sides(cases: list[Case], found: _Findings) -> None:
    """No group, and no image file, on both sides of training and test."""
    for name, key in (("group", lambda case: case.group), ("image", lambda case: case.image.resolve())):
        tested = {key(case): case for case in cases if case.role == "test" and key(case)}
        crossing = {key(case): case for case in cases if case.role != "test" and key(case) in tested}
        found.faults += [
            f"{name} {value} is on both sides: case {tested[value].id} tests, case {case.id} trains" for value, case in crossing.items()
        ]


def _values(present: Collection[int]) -> str:
    return f"{count(len(present), 'value')} ({some(sorted(present))})"


def table_of(cases: Iterable[Case], held_out: Collection[str] = ()) -> pd.DataFrame:
    """The cases as a table with the columns of `cases.csv`, and whether a case was held out of training; for the record of a run.

    Paths are absolute: a run is read from anywhere.
    """
    rows = [
        (case.id, str(case.image.absolute()), str(case.mask.absolute()), case.role, case.group or "", case.id in held_out) for case in cases
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "group", "held_out"])
