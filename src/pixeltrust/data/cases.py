"""A data folder, or a table, becomes cases; every fault of it is found in one go.

    DATA/images/<id>.*   DATA/noisy/<id>.*   DATA/clean/<id>.*   DATA/test/<id>.*   (other names: see `layouts`)
    or DATA (a .csv or .parquet file, or DATA/cases.csv, DATA/cases.parquet): id, image, mask, role, optionally group

A case is paired by id, never by order. One in clean/ and in noisy/ is trained as clean. Millions of cases are a few columns, and
what is asked of all of them is asked of the columns.
"""

import itertools
import operator
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Unpack, get_args, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pixeltrust.config import Config
from pixeltrust.data.images import Header, case_id, image_suffix, read_header, read_image
from pixeltrust.data.layouts import Folders, Layout, layout_options, other_folders, propose_endings, propose_folders, without_ending
from pixeltrust.data.masks import MaskMeaning, decode_labels, role_faults
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError
from pixeltrust.plumbing.files import LONGEST_NAME
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.tables import read_table
from pixeltrust.plumbing.text import CONTROL, count, some

Role = Literal["noisy", "clean", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
TABLES = ("cases.csv", "cases.parquet")
COLUMNS = ("id", "image", "mask", "role")
LONGEST_ID = LONGEST_NAME - len(".png")  # bytes
FEW_CLEAN = 10  # below this many the method has too little to go by
MIN_HELD_OUT = 10  # with fewer, the choice of the best weights is mostly luck
_LONGEST_PATH = 4095  # bytes
_SWAPPED = 5  # from this EXIF orientation on width and height change places
_UNTURN = "take the orientation out of the image (exiftool -Orientation= FILE)"
_NAMES = "name both alike, give the ending in which they differ (--mask-suffix or --image-suffix), or write a table of cases (docs/data.md)"
_USE: dict[Role, str] = {
    "noisy": "there is nothing to learn to trust",
    "clean": "a few expert masks are needed: 10 or more, best 50 to 100",
}


@dataclass(frozen=True)
class Case:
    """One image with the mask it is trained on or measured by."""

    id: str
    image: Path
    mask: Path
    role: Role
    group: str | None = None
    """A patient, say: cases of one group are never on both sides of training and test."""


class CaseList(Sequence[Case]):
    """Cases as rows of a table, in any order; a `Case` is made when it is asked for.

    The table has texts for id and group (empty: none), and for image, mask and role a number, whose path or name is kept once. A slice
    or an array of places gives another list over the same table.
    """

    def __init__(self, table: pa.RecordBatch, rows: np.ndarray | None = None) -> None:
        self._table = table
        self._columns = dict(zip(table.schema.names, table.columns, strict=True))
        self._rows = np.arange(table.num_rows, dtype=np.int32) if rows is None else rows

    @classmethod
    def of(cls, cases: Iterable[Case]) -> "CaseList":
        """Cases that were made one by one."""
        return cls(_table([(case.id, case.image, case.mask, case.role, case.group or "") for case in cases], Path()))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, places: int) -> Case: ...
    @overload
    def __getitem__(self, places: slice | np.ndarray) -> "CaseList": ...
    def __getitem__(self, places: int | slice | np.ndarray) -> "Case | CaseList":
        if isinstance(places, slice | np.ndarray):
            return CaseList(self._table, self._rows[places])
        row = int(self._rows[places])
        identity, image, mask, role, group = (column[row].as_py() for column in self._columns.values())
        return Case(identity, _path(image), _path(mask), role, group or None)

    def __add__(self, other: "CaseList") -> "CaseList":
        if self._table is not other._table:
            raise ValueError("lists of cases of different tables cannot be joined")
        return CaseList(self._table, np.concatenate([self._rows, other._rows]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaseList | list | tuple) and len(self) == len(other) and all(map(operator.eq, self, other))

    def texts(self, name: Literal["id", "group"]) -> pd.Series:
        """A column of texts, of these cases in their order."""
        return self._columns[name].take(self._rows).to_pandas()

    def numbers(self, name: Literal["image", "mask", "role"]) -> np.ndarray:
        """A column of numbers, of these cases in their order: places in `files()`, or in `ROLES`."""
        return self._columns[name].indices.to_numpy()[self._rows]

    def files(self, numbers: np.ndarray | None = None) -> list[Path]:
        """The files that have these numbers; all of the table where not given."""
        names = self._columns["image"].dictionary
        return [_path(name) for name in (names if numbers is None else names.take(numbers)).to_pylist()]

    def by_id(self) -> "CaseList":
        """Sorted by id, in a table of its own that holds these cases alone."""
        order = pc.sort_indices(self._columns["id"].take(self._rows)).to_numpy()
        return CaseList(self._table.take(pa.array(self._rows[order])))


def _table(rows: pd.DataFrame | list[tuple[str, Path, Path, Role, str]], folder: Path) -> pa.RecordBatch:
    """The table of a `CaseList` from rows of id, image, mask, role and group; paths count from the folder."""
    texts = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=[*COLUMNS, "group"], dtype=object)
    numbers: dict[bytes, int] = {}

    def numbered(paths: pd.Series) -> np.ndarray:
        places, distinct = pd.factorize(paths)
        return np.array([numbers.setdefault(os.fsencode(folder / path), len(numbers)) for path in distinct], np.int32)[places]

    images, masks = numbered(texts["image"]), numbered(texts["mask"])
    files = pa.array(list(numbers), pa.large_binary())
    columns = {
        "id": _array(texts["id"]),
        "image": pa.DictionaryArray.from_arrays(images, files),
        "mask": pa.DictionaryArray.from_arrays(masks, files),
        "role": pa.DictionaryArray.from_arrays(pd.Categorical(texts["role"], ROLES).codes, pa.array(ROLES)),
        "group": _array(texts["group"]),
    }
    return pa.RecordBatch.from_pydict(columns)


def _array(texts: pd.Series) -> pa.Array:
    array = pa.array(texts, pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name))


@dataclass(frozen=True)
class Cases:
    """All cases of a data folder, sorted by id, and what was noticed while reading it."""

    data: Path
    cases: CaseList
    notes: tuple[str, ...] = ()

    def of(self, role: Role) -> CaseList:
        """The cases of one role, in the order of their ids."""
        return self.cases[self.cases.numbers("role") == ROLES.index(role)]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(role)):,} {role}" for role in ROLES)
        groups = set(self.cases.texts("group").unique()) - {""}
        return "\n".join([f"{self.data}: no faults; {counts} cases" + (f" in {len(groups):,} groups" if groups else ""), *self.notes])


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)
    """Files of which the headers told a fault: what their pixels would tell is no further one."""
    unpaired: set[str] = field(default_factory=set)
    """Roles with masks that have no image, which is said of each."""

    def raise_faults(self, data: Path) -> None:
        faults = list(dict.fromkeys(self.faults))  # a broken mask may be that of many rows
        if faults:
            raise DataError(f"{data}: {count(len(faults), 'fault')}", faults)


def read_cases(data: Path, *, needed: Sequence[Role] = ("noisy", "clean"), show_progress: bool = True, **layout: Unpack[Layout]) -> Cases:
    """The cases of a data folder or table, by names and image headers; no pixel is decoded.

    Args:
        data: a data folder, or a `.csv` or `.parquet` table whose paths count from its own folder.
        needed: roles of which there must be a case.
        layout: what is other in the data folder than usual: `images`, `noisy`, `clean`, `test`, `mask_suffix`, `image_suffix`
            (see `layouts.Layout`).

    Raises:
        DataError: lists every fault: two files of one id, a mask without an image, a mask of another size, a test id that also
            trains, a group on both sides, no case of a role that is needed, and so on.
    """
    cases, found = _read(Path(data), needed, show_progress, layout)
    found.raise_faults(data)
    return cases


def check(data: Path, *, classes: int = 1, ignore_label: int | None = None, show_progress: bool = True, **layout: Unpack[Layout]) -> Cases:
    """Every fault of a data folder: those that `read_cases` finds, and those of decoding every file, in one go.

    Args:
        classes, ignore_label: as in `Config`.
        show_progress: a progress bar on standard error.
        layout: as for `read_cases`.

    Raises:
        DataError: lists every fault.
    """
    cases, found = _read(Path(data), ("noisy", "clean"), show_progress, layout)
    kinds: dict[str, list[MaskMeaning]] = defaultdict(list)
    empty: Counter[str] = Counter()
    images = cases.cases.files(pd.unique(cases.cases.numbers("image")))
    for image, picture in attempt_in_threads(read_image, images, text="decoding images", shown=show_progress):
        if isinstance(picture, PixeltrustError) and image not in found.faulty:
            found.faults.append(picture.fault)
    decode = partial(_decode_mask, classes=classes, ignore_label=ignore_label)
    for case, outcome in attempt_in_threads(decode, cases.cases, text="decoding masks", shown=show_progress):
        if isinstance(outcome, PixeltrustError):
            if case.mask not in found.faulty:
                found.faults.append(outcome.fault)
        else:
            kinds[case.role].append(outcome)
            empty[case.role] += not outcome.labelled
    found.faults += role_faults(kinds)
    found.raise_faults(data)
    without = [f"{count(number, f'{role} mask')} without foreground: allowed" for role, number in empty.items() if number]
    few = clean_warnings(len(cases.of("clean")), val_fraction=Config.val_fraction)
    return Cases(cases.data, cases.cases, (*cases.notes, *without, *few))


def clean_warnings(clean: int, *, val_fraction: float) -> list[str]:
    """What is to be expected of so few clean masks, if they are few.

    Args:
        clean: how many there are.
        val_fraction: the share of them that is held out, as in `Config`; at 0 it is nobody's wish that some are.
    """
    if clean < FEW_CLEAN:
        return [
            f"warning: {count(clean, 'clean mask')}: what is learned of the noisy masks follows them, and so few are easily one-sided; "
            f"have {FEW_CLEAN} or more, best 50 to 100"
        ]
    if not val_fraction or round(val_fraction * clean) >= MIN_HELD_OUT:
        return []
    begins = next(number for number in itertools.count(clean) if round(val_fraction * number) >= MIN_HELD_OUT)
    enough = -(-100 * MIN_HELD_OUT // clean) / 100
    way = f"; set val_fraction = {enough} to hold {MIN_HELD_OUT} out" if clean >= 2 * MIN_HELD_OUT else ""
    return [
        f"warning: {clean} clean masks: none is held out to choose the best weights by, the last ones count; with val_fraction = "
        f"{val_fraction:g} that begins at {begins:,} clean masks, as fewer than {MIN_HELD_OUT} choose by luck{way}"
    ]


def _read(data: Path, needed: Sequence[Role], show_progress: bool, layout: Layout) -> tuple[Cases, _Findings]:
    """What can be paired, and everything that was found on the way, by names and headers."""
    found = _Findings()
    table = _table_of(data)
    if table and layout_options(layout):
        raise DataError(f"{table}: a table names its files itself; leave out {', '.join(layout_options(layout))}, which are for folders")
    folders = Folders.of(data, layout)
    rows = _cases_of_table(table, found) if table else _cases_of_folder(data, folders, found)
    single = _without_doubles(rows, found).by_id()
    _compare_headers(single, found, show_progress)
    _compare_sides(single, found)
    cases = Cases(data, single, tuple(found.notes))
    for role in needed:
        if not cases.of(role) and role not in found.unpaired:
            proposed = "" if table or folders.paths[role].is_dir() else propose_folders(data, folders, [role])
            found.faults.append(f"{table or folders.paths[role]}: no usable {role} mask; {_USE[role]}{proposed}")
    return cases, found


def _decode_mask(case: Case, classes: int, ignore_label: int | None) -> MaskMeaning:
    return decode_labels(case.mask, classes=classes, ignore_label=ignore_label)[1]


def _table_of(data: Path) -> Path | None:
    if data.is_file():
        if data.suffix.lower() not in (".csv", ".parquet"):
            raise DataError(f"{data}: a data folder, or a .csv or .parquet table of cases, is needed")
        return data
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder")
    return next((data / name for name in TABLES if (data / name).is_file()), None)


def _cases_of_folder(data: Path, folders: Folders, found: _Findings) -> CaseList:
    where = folders.paths
    if not where["images"].is_dir():
        missing = [part for part, path in where.items() if not path.is_dir()]
        wanted = "it has no images/ (wanted: images/, noisy/, clean/ and perhaps test/)"
        raise DataError(f"{data}: not a data folder: {wanted}{propose_folders(data, folders, missing)}")
    listings = {part: _listed(part, folders, found) for part in where}
    images = listings["images"].files
    rows: list[tuple[str, Path, Path, Role, str]] = []
    alone: dict[str, list[Path]] = defaultdict(list)
    for role in ROLES:
        for identity, mask in listings[role].files.items():
            if identity in images:
                rows.append((identity, images[identity], mask, role, ""))
            else:
                alone[identity].append(mask)
                found.unpaired.add(role)
    unused = images.keys() - {identity for identity, *_ in rows}
    _tell_masks_alone(alone, listings["images"], found)
    if unused:
        found.notes.append(f"{count(len(unused), 'image')} without any mask: not used")
    for what, parts in (("mask", ROLES), ("image", ("images",))):
        names = [case_id(path) for part in parts for path in listings[part].files.values()]
        for ending in folders.endings[parts[0]]:
            if not any(name.endswith(ending) for name in names):
                found.faults.append(f"{data}: no {what}'s name ends in `{ending}`; leave it out, or mend it")
    others = other_folders(data, folders)
    if others:
        found.notes.append(f"{data}: other folders with images, not looked into: {some(others)}")
    return CaseList(_table(rows, Path()))


def _tell_masks_alone(alone: dict[str, list[Path]], images: "Listing", found: _Findings) -> None:
    """A fault of every mask without an image; one of all together that would have one if their names were cut."""
    for proposal in propose_endings(alone, images.files):
        example = min(str(mask) for identity in proposal.masks for mask in alone[identity])
        found.faults.append(f"{proposal.words} (such as {example})")
        for identity in proposal.masks:
            del alone[identity]
    unread = {case_id(path): path for path in images.others if path.suffix}
    for identity, masks in alone.items():
        for mask in masks:
            wrong = f"{mask}: a mask without an image: no {images.folder.name}/{identity}.*"
            if identity in unread:
                lies = unread[identity]
                found.faults.append(
                    Fault(
                        f"{mask}: a mask without an image: {images.folder.name}/{lies.name} lies there, but {lies.suffix} is not read",
                        kind=f"masks whose image ends in {lies.suffix}",
                        repair=f"{lies.suffix} is not read; save them as PNG, JPEG, TIFF, BMP or WebP",
                    )
                )
            else:
                found.faults.append(Fault(wrong, kind="masks without an image", repair=_NAMES))


def _listed(part: str, folders: Folders, found: _Findings) -> "Listing":
    """The files of a part by id; an absent folder has none."""
    folder, endings = folders.paths[part], folders.endings[part]
    if not folder.is_dir():
        return Listing(folder, {}, [], [])
    listing = files_by_id(folder, endings)
    found.faults += listing.faults
    found.notes += listing.notes
    return listing


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by the id of their case, the first of each, and what was noticed."""

    folder: Path
    files: dict[str, Path]
    faults: list[str]
    notes: list[str]
    others: list[Path] = field(default_factory=list)
    """Entries that are no images by their names."""


def files_by_id(folder: Path, endings: Sequence[str] = ()) -> Listing:
    """The image files of a folder; two of one id are a fault, other entries a note, hidden files nothing.

    Args:
        folder: is not looked into more deeply.
        endings: are taken off the ids that have one.

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
            by_id[without_ending(case_id(path), endings)].append(path)
        else:
            others.append(path)
    faults: list[str] = [
        Fault(
            f"{folder}: {len(paths)} files of one id, {identity}: {', '.join(path.name for path in paths)}",
            kind="ids of more than one file",
            repair="keep one of them",
        )
        for identity, paths in by_id.items()
        if len(paths) > 1
    ]
    for identity in [identity for identity in by_id if re.search(CONTROL, identity)]:
        faults += [
            Fault(f"{folder}: the name {path.name!r} has control characters", kind="names with control characters", repair="rename it")
            for path in by_id.pop(identity)
        ]
    notes = []
    if others:
        named = some([path.name for path in others])
        notes.append(f"{folder}: {count(len(others), 'entry', 'entries')} that are no images left out: {named}")
    return Listing(folder, {identity: paths[0] for identity, paths in by_id.items()}, faults, notes, others)


def _cases_of_table(table: Path, found: _Findings) -> CaseList:
    rows = read_table(table)
    missing = [name for name in COLUMNS if name not in rows.columns]
    if missing:
        raise DataError(
            f"{table}: no column {', '.join(missing)}; wanted: {', '.join(COLUMNS)}, and perhaps group; found: {list(rows.columns)}"
        )
    rows = rows.reindex(columns=[*COLUMNS, "group"], fill_value="")
    slashed = rows["id"].isin([".", ".."]) | rows["id"].str.contains(r"[/\\]")
    empty = (rows["id"] == "") | (rows["image"] == "") | (rows["mask"] == "")
    control = rows["id"].str.contains(CONTROL) | rows["image"].str.contains(CONTROL) | rows["mask"].str.contains(CONTROL)
    long = (_bytes(rows["id"]) > LONGEST_ID) | (_bytes(rows["image"]) > _LONGEST_PATH) | (_bytes(rows["mask"]) > _LONGEST_PATH)
    wrong = pd.Series(False, rows.index)
    for these, kind, complaint in (
        (~rows["role"].isin(ROLES), "another role", f"role {{role}}; wanted: {', '.join(ROLES)}"),
        (slashed | empty, "an empty cell or a slash in the id", "id, image and mask must not be empty, and an id has no slash (id {id})"),
        (
            control,
            "control characters",
            "id, image and mask must not have control characters (id {id}, image {image}, mask {mask})",
        ),
        (long, "too long a cell", f"an id may have {LONGEST_ID} bytes, a path {_LONGEST_PATH:,}; one is too long (id {{id}})"),
    ):
        for place in np.flatnonzero(these & ~wrong):
            cells = {name: f"{rows[name].iloc[place]!r:.60}" for name in COLUMNS}
            found.faults.append(Fault(f"{table}, row {place + 2}: {complaint.format(**cells)}", kind=f"rows with {kind}"))
        wrong |= these
    return CaseList(_table(rows[~wrong], table.parent))


def _bytes(texts: pd.Series) -> np.ndarray:
    """How long each text is in a file name."""
    return pc.binary_length(_array(texts)).to_numpy(zero_copy_only=False)


def _without_doubles(cases: CaseList, found: _Findings) -> CaseList:
    """One case per id: clean stands above noisy; a test case that also trains, a role given twice, two images or groups are faults."""
    places: dict[str, list[int]] = defaultdict(list)
    for place in np.flatnonzero(cases.texts("id").duplicated(keep=False)).tolist():
        places[cases[place].id].append(place)
    left_out: list[int] = []
    both = 0
    for identity, of_id in places.items():
        same = [cases[place] for place in of_id]
        roles = {case.role: case for case in same}
        if len(roles) < len(same):
            wrong = f"{identity}: {len(same)} rows of one id: {some([case.mask for case in same])}"
            found.faults.append(Fault(wrong, kind="ids of more than one row"))
        if len({(case.image, case.group) for case in same}) > 1:
            named = [f"{case.image} (group {case.group})" for case in same]
            wrong = f"{identity}: rows of one id that differ in image or group: {some(named)}"
            found.faults.append(Fault(wrong, kind="ids whose rows differ in image or group"))
        if "test" in roles and len(roles) > 1:
            other = roles.get("clean", roles.get("noisy"))
            assert other is not None
            wrong = f"{roles['test'].mask}: a test case that also trains: {other.mask}"
            found.faults.append(Fault(wrong, kind="test cases that also train", repair="take one of the two masks away"))
        both += "clean" in roles and "noisy" in roles
        kept = same.index(roles.get("clean") or roles.get("noisy") or roles["test"])
        left_out += of_id[:kept] + of_id[kept + 1 :]
    ids = cases.texts("id")
    twins = ids[ids.str.casefold().duplicated(keep=False) & ~ids.duplicated(keep=False)]
    if len(twins):
        found.notes.append(f"ids that differ in case alone: {some(sorted(twins))}; on macOS and Windows their files are one")
    if both:
        found.notes.append(f"{count(both, 'case')} with a clean and a noisy mask: trained as clean")
    return cases[np.delete(np.arange(len(cases)), left_out)] if left_out else cases


def _compare_headers(cases: CaseList, found: _Findings, show_progress: bool) -> None:
    """A mask has the size of its image, and lies as it does."""
    images, masks = cases.numbers("image"), cases.numbers("mask")
    numbers = pd.unique(np.stack([images, masks], axis=1).ravel())
    sizes = np.full((numbers.max(initial=-1) + 1, 2), -1)  # stays so where a file cannot be read
    lies = np.zeros(len(sizes), np.int8)  # 1 of a NIfTI file that says how it lies, −1 of one that does not
    turns = np.ones(len(sizes), np.int8)  # EXIF orientations
    two_colours = np.zeros(len(sizes), bool)
    read = attempt_in_threads(read_header, cases.files(numbers), text="reading headers", shown=show_progress)
    for number, (path, header) in zip(numbers, read, strict=True):
        if isinstance(header, Header):
            sizes[number], turns[number], two_colours[number] = header.size, header.orientation, header.two_colours
            lies[number] = 0 if header.says_how_it_lies is None else 1 if header.says_how_it_lies else -1
        else:
            found.faults.append(header.fault)
            found.faulty.add(path)
    readable = sizes.min(axis=1) >= 0
    differ = readable[images] & readable[masks] & (sizes[images] != sizes[masks]).any(axis=1)
    for place in np.flatnonzero(differ).tolist():
        case, (height, width), (mask_height, mask_width) = cases[place], sizes[images[place]], sizes[masks[place]]
        found.faulty.add(case.mask)
        wrong = f"{case.mask}: {mask_width}x{mask_height} pixels, its image {case.image} has {width}x{height}"
        if (height, width) == (mask_width, mask_height) and turns[images[place]] >= _SWAPPED > turns[masks[place]]:
            kind, repair = "masks that lie as their image did before EXIF turned it", f"turn these masks as well, or {_UNTURN}"
        else:
            kind, repair = "masks of another size than their image", "save each at the size of its image, scaled without smoothing"
        found.faults.append(Fault(wrong, kind=kind, repair=repair))
    for place in np.flatnonzero(lies[images] * lies[masks] < 0).tolist():
        case = cases[place]
        wrong = f"{case.mask}: of this file and its image {case.image} one alone says how it lies"
        kind = "NIfTI masks and images of which one alone says how it lies"
        found.faults.append(Fault(wrong, kind=kind, repair="save both with one affine"))
    mixed = int(np.count_nonzero((lies[images] != 0) != (lies[masks] != 0)))
    if mixed:
        found.notes.append(f"{count(mixed, 'case')} of a NIfTI file and one of another format: do they lie alike? See docs/data.md")
    _tell_turned(cases, turns[images], turns[masks], sizes[images], differ, found)
    coloured = np.flatnonzero(two_colours[masks])
    if len(coloured):
        palettes = f"{count(len(coloured), 'mask')} with a palette of two colours (such as {cases[int(coloured[0])].mask})"
        found.notes.append(f"{palettes}: the brighter colour is the foreground, whatever its index")


def _tell_turned(
    cases: CaseList, of_images: np.ndarray, of_masks: np.ndarray, sizes: np.ndarray, differ: np.ndarray, found: _Findings
) -> None:
    """A note of images that EXIF turns in another way than their masks, unless the sizes show that the mask was drawn on the turned one."""
    shown = (of_images >= _SWAPPED) & (of_masks == 1) & (sizes[:, 0] != sizes[:, 1])
    apart = np.flatnonzero((of_images != of_masks) & ~shown & ~differ)
    if len(apart):
        place = int(apart[0])
        case = cases[place]
        such = f"{case.image} has orientation {of_images[place]}, {case.mask} {of_masks[place]}"
        found.notes.append(
            f"warning: {count(len(apart), 'image')} turned by EXIF in another way than the mask ({such}): each file is turned as it says. "
            f"That is right where the mask was drawn on the picture as viewers show it; else turn the mask, or {_UNTURN}"
        )


def _compare_sides(cases: CaseList, found: _Findings) -> None:
    """No group, and no image file, on both sides of training and test."""
    images, numbers = pd.factorize(cases.numbers("image"))
    real, paths = pd.factorize(np.array(list(map(os.path.realpath, cases.files(numbers))), object))
    tests: np.ndarray = cases.numbers("role") == ROLES.index("test")
    for name, (keys, values) in (("group", pd.factorize(cases.texts("group"))), ("image", (real[images], paths))):
        both = np.intersect1d(keys[tests], keys[~tests])
        places = np.flatnonzero(np.isin(keys, [key for key in both if values[key]])).tolist()
        tested, trained = ({keys[place]: cases[place].id for place in places if tests[place] == side} for side in (True, False))
        found.faults += [
            Fault(
                f"{name} {values[key]} is on both sides: case {tested[key]} tests, case {identity} trains",
                kind=f"{name}s on both sides of training and test",
            )
            for key, identity in trained.items()
        ]


def table_of(cases: Iterable[Case], held_out: Collection[str] = ()) -> pd.DataFrame:
    """The cases as a table with the columns of `cases.csv`, and whether a case was held out of training; for the record of a run.

    Paths are absolute: a run is read from anywhere.
    """
    listed = cases if isinstance(cases, CaseList) else CaseList.of(cases)
    files = pa.array([os.fsencode(path.absolute()).decode(errors="backslashreplace") for path in listed.files()], pa.large_string())
    paths = {name: pd.arrays.ArrowExtensionArray(pa.DictionaryArray.from_arrays(listed.numbers(name), files)) for name in ("image", "mask")}
    roles = pd.Categorical.from_codes(listed.numbers("role"), pd.Index(ROLES))
    ids = listed.texts("id")
    return pd.DataFrame({"id": ids, **paths, "role": roles, "group": listed.texts("group"), "held_out": ids.isin(held_out)})
