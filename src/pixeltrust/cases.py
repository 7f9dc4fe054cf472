"""A data folder, or a table, becomes a list of cases; every fault of it is found in one go.

    DATA/images/<id>.*   DATA/noisy/<id>.*   DATA/clean/<id>.*   DATA/test/<id>.*
    or DATA (a .csv or .parquet file, or DATA/cases.csv, DATA/cases.parquet): id, image, mask, role, optionally group

A case is paired by id, never by order. One in clean/ and in noisy/ is trained as clean.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pixeltrust.errors import DataError, PixeltrustError
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


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_cases(data: Path, *, show_progress: bool = True) -> Cases:
    """The cases of a data folder or table, by names and image headers; no pixel is decoded.

    Args:
        data: a data folder, or a `.csv` or `.parquet` table whose paths count from its own folder.

    Raises:
        DataError: lists every fault: two files of one id, a mask without an image, a mask of another size, a test id that also
            trains, a group on both sides, no clean or no noisy case, and so on.
    """
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
    if found.faults:
        raise DataError(f"{data}: {_count(len(found.faults), 'fault')}", found.faults)
    return Cases(data, tuple(cases), tuple(found.notes))


def check(data: Path, *, classes: int = 1, ignore_label: int | None = None, show_progress: bool = True) -> Cases:
    """Every fault of a data folder: `read_cases`, and then every file decoded.

    Args:
        classes, ignore_label: as in `Config`.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: lists every fault.
    """
    cases = read_cases(data, show_progress=show_progress)
    faults: list[str] = []
    kinds: list[Kind] = []
    empty: Counter[str] = Counter()
    images = list(dict.fromkeys(case.image for case in cases.cases))
    for _, picture in in_threads(read_image, images, text="decoding images", shown=show_progress):
        if isinstance(picture, PixeltrustError):
            faults.append(str(picture))
    decode = partial(_decode_mask, classes=classes, ignore_label=ignore_label)
    for case, outcome in in_threads(decode, cases.cases, text="decoding masks", shown=show_progress):
        if isinstance(outcome, PixeltrustError):
            faults.append(str(outcome))
        else:
            kinds.append(outcome[0])
            empty[case.role] += outcome[1]
    faults += mixture_faults(kinds)
    if faults:
        raise DataError(f"{data}: {_count(len(faults), 'fault')}", faults)
    without = [f"{_count(count, f'{role} mask')} without foreground: allowed" for role, count in empty.items() if count]
    return Cases(cases.data, cases.cases, (*cases.notes, *without))


@dataclass(frozen=True)
class Kind:
    """What 255 means in one file of a binary folder."""

    path: Path
    meaning: Literal["foreground", "ignored", "absent"]


def decode_labels(path: Path, *, classes: int, ignore_label: int | None) -> tuple[np.ndarray, Kind]:
    """A mask file as labels uint8 (H, W), 0 … max(classes, 2) − 1 and 255 for ignored, and what 255 means in the file.

    With one class a file holds 0 and at most one other value, which is the foreground (255 too); a file with exactly 0, 1 and 255
    has 255 ignored. With more, 0 … classes − 1, and 255 is ignored. `ignore_label`, where given, is the ignored value instead.

    Raises:
        DataError: the file cannot be read, or holds a value that no class has.
    """
    raw = read_labels(path)
    present = set(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist())
    ignored = ignore_label if ignore_label is not None else IGNORE
    if classes > 1:
        strange = sorted(present - {*range(classes), ignored})
        if strange:
            raise DataError(f"{path}: {_values(strange)} where classes = {classes} allows 0 to {classes - 1} and {ignored} for ignored")
        return np.where(raw == ignored, np.uint8(IGNORE), raw), Kind(path, "ignored" if IGNORE in present else "absent")
    if ignore_label is None and not {1, IGNORE} <= present:
        ignored = -1  # 255, if it is there, is the foreground
    foreground = present - {0, ignored}
    if len(foreground) > 1:
        raise DataError(f"{path}: {_values(sorted(present))} where classes = 1 allows 0 and one other (0, 1 and 255 with 255 ignored)")
    labels = np.zeros_like(raw)
    for value in foreground:
        labels[raw == value] = 1
    labels[raw == ignored] = IGNORE
    meaning = "absent" if IGNORE not in present or ignore_label is not None else "foreground" if ignored == -1 else "ignored"
    return labels, Kind(path, meaning)  # type: ignore[arg-type]


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
    images = _files_by_id(data / "images", found)
    cases, used = [], set()
    for role in ROLES:
        for identity, mask in _files_by_id(data / role, found).items():
            if identity in images:
                cases.append(Case(identity, images[identity], mask, role))
                used.add(identity)
            else:
                found.faults.append(f"{mask}: a mask without an image: no images/{identity}.*")
    unused = len(images) - len(used)
    if unused:
        found.notes.append(f"{_count(unused, 'image')} without any mask: not used")
    return cases


def _files_by_id(folder: Path, found: _Findings) -> dict[str, Path]:
    """The image files of a folder by id; two of one id are a fault, other files are counted. An absent folder has none."""
    if not folder.is_dir():
        return {}
    by_id: dict[str, list[Path]] = defaultdict(list)
    others = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if image_suffix(path) and not path.is_dir():  # so a link to nowhere is a fault, not an entry to leave out
            by_id[case_id(path)].append(path)
        else:
            others.append(path.name)
    found.faults += [
        f"{folder}: {len(paths)} files of one id, {identity}: {', '.join(path.name for path in paths)}"
        for identity, paths in by_id.items()
        if len(paths) > 1
    ]
    if others:
        found.notes.append(f"{folder}: {_count(len(others), 'entry', 'entries')} that are no images left out: {_some(others)}")
    return {identity: paths[0] for identity, paths in by_id.items()}


def _cases_of_table(table: Path, found: _Findings) -> list[Case]:
    rows = _read_table(table)
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


def _read_table(table: Path) -> pd.DataFrame:
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
            found.faults.append(f"{identity}: {len(same)} rows of one id: {_some([str(case.mask) for case in same])}")
        if len({(case.image, case.group) for case in same}) > 1:
            named = [f"{case.image} (group {case.group})" for case in same]
            found.faults.append(f"{identity}: rows of one id that differ in image or group: {_some(named)}")
        if "test" in roles and len(roles) > 1:
            other = roles.get("clean", roles.get("noisy"))
            assert other is not None
            found.faults.append(f"{roles['test'].mask}: a test case that also trains: {other.mask}")
        both += "clean" in roles and "noisy" in roles
        kept.append(roles.get("clean") or roles.get("noisy") or roles["test"])
    if both:
        found.notes.append(f"{_count(both, 'case')} with a clean and a noisy mask: trained as clean")
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


def _values(present: list[int]) -> str:
    return f"{_count(len(present), 'value')} ({_some([str(value) for value in present])})"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def table_of(cases: Iterable[Case], held_out: Collection[str] = ()) -> pd.DataFrame:
    """The cases as a table with the columns of `cases.csv`, and whether a case was held out of training; for the record of a run."""
    rows = [(case.id, str(case.image), str(case.mask), case.role, case.group or "", case.id in held_out) for case in cases]
    return pd.DataFrame(rows, columns=[*COLUMNS, "group", "held_out"])
