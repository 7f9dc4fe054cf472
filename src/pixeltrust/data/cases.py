"""A data folder, or a table, becomes cases; all its faults are found in one go.

    DATA/images/<id>.*   DATA/noisy/<id>.*   DATA/clean/<id>.*   DATA/test/<id>.*   (other names: see `layouts`)
    or DATA (a .csv or .parquet file, or DATA/cases.csv, DATA/cases.parquet): id, image, mask, role, optionally group and channels

Files meet by id, never by order. A case in clean/ and in noisy/ is trained as clean, and is a pair: it shows how noisy masks err.
Millions of cases are a few columns.
"""

import operator
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack, get_args, overload

import numpy as np
import pandas as pd

from pixeltrust.data import volumes
from pixeltrust.data.checks import Findings, clean_warnings, compare_headers, compare_sides, drop_repeated_ids
from pixeltrust.data.image_files import SUFFIXES, case_id
from pixeltrust.data.images import read_values
from pixeltrust.data.layouts import Folders, Layout, layout_options, other_folders, propose_endings, propose_folders
from pixeltrust.data.listings import Listing, channel_files, files_by_id, join_channels
from pixeltrust.data.masks import MaskMeaning, decode_labels, role_faults
from pixeltrust.data.nnunet import labels_of, list_dataset, read_dataset
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError
from pixeltrust.plumbing.files import LONGEST_NAME
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.tables import read_table
from pixeltrust.plumbing.text import CONTROL, count, some

Role = Literal["noisy", "clean", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
TABLES = ("cases.csv", "cases.parquet")
COLUMNS = ("id", "image", "mask", "role")
FEWEST_PAIRS = 5
"""From fewer it cannot be known what helps."""
LONGEST_ID = LONGEST_NAME - len(".png")  # bytes
_LONGEST_PATH = 4095  # bytes
_FIRST_CHANNEL = rf"(?i)_0000(?:{'|'.join(map(re.escape, volumes.SUFFIXES))})$"
_NAMES = (
    "name both alike, give the ending in which they differ (--mask-suffix or --image-suffix), "
    "or write a table of cases (docs/reference/data.md)"
)
_USE: dict[Role, str] = {
    "noisy": "there is nothing to learn to trust",
    "clean": "a few expert masks are needed: 10 or more, best 50 to 100",
}


_Row = tuple[str, Path, Path, Role, str, Path | None, int]


@dataclass(frozen=True)
class Case:
    """One image with the mask it is trained on or measured by."""

    id: str
    image: Path
    mask: Path
    role: Role
    group: str | None = None
    """A patient, say: cases of one group are never on both sides of training and test."""
    given: Path | None = None
    """The noisy mask of a clean case, where it has one; the two are a pair."""
    channels: int = 1
    """Files of its image: `image` is <id>_0000, the others are <id>_0001 and so on."""

    @property
    def image_files(self) -> list[Path]:
        """The files of its image, one for each channel."""
        return channel_files(self.image, self.channels)


class CaseList(Sequence[Case]):
    """Cases as rows of a table, in any order; a `Case` is made when it is asked for.

    A slice or an array of places gives another list over the same table.

    Args:
        table: columns id and group (texts; an empty group is none), image, mask and given (numbers in `files`; −1 is no given mask), role
            (numbers in `ROLES`), channels (files of the image).
        files: the path of every file, once.
        rows: those of the table; all where not given.
    """

    def __init__(self, table: pd.DataFrame, files: np.ndarray, rows: np.ndarray | None = None) -> None:
        self._table, self._files = table, files
        self._columns = {name: column.array for name, column in table.items()}
        self._rows = np.arange(len(table), dtype=np.int32) if rows is None else rows

    @classmethod
    def of(cls, cases: Iterable[Case]) -> "CaseList":
        """Make a list of cases."""
        rows = [(case.id, case.image, case.mask, case.role, case.group or "", case.given, case.channels) for case in cases]
        return cls.of_paths(rows, Path())

    @classmethod
    def of_paths(cls, rows: "pd.DataFrame | list[_Row]", folder: Path) -> "CaseList":
        """Make a list from rows of id, image, mask, role, group, given and channels; paths count from the folder."""
        columns_of = [*COLUMNS, "group", "given", "channels"]
        texts = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=columns_of, dtype=object)
        numbers: dict[str, int] = {}

        def number(paths: pd.Series) -> np.ndarray:
            places, distinct = pd.factorize(paths)
            known = [numbers.setdefault(os.fspath(folder / path), len(numbers)) for path in distinct]
            return np.array([*known, -1], np.int32)[places]  # the place of None is −1

        columns = {
            "id": texts["id"].astype(str),
            "image": number(texts["image"]),
            "mask": number(texts["mask"]),
            "role": pd.Categorical(texts["role"], ROLES).codes,
            "group": texts["group"].astype(str),
            "given": number(texts["given"]),
            "channels": texts["channels"].astype(np.int16),
        }
        return cls(pd.DataFrame(columns).reset_index(drop=True), np.array(list(numbers), object))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, places: int) -> Case: ...
    @overload
    def __getitem__(self, places: slice | np.ndarray) -> "CaseList": ...
    def __getitem__(self, places: int | slice | np.ndarray) -> "Case | CaseList":
        if isinstance(places, slice | np.ndarray):
            return CaseList(self._table, self._files, self._rows[places])
        row = int(self._rows[places])
        identity, image, mask, role, group, given, channels = (column[row] for column in self._columns.values())
        noisy = None if given < 0 else Path(self._files[given])
        return Case(identity, Path(self._files[image]), Path(self._files[mask]), ROLES[role], group or None, noisy, int(channels))

    def __add__(self, other: "CaseList") -> "CaseList":
        if self._table is not other._table:
            raise ValueError("lists of cases of different tables cannot be joined")
        return CaseList(self._table, self._files, np.concatenate([self._rows, other._rows]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaseList | list | tuple) and len(self) == len(other) and all(map(operator.eq, self, other))

    def texts(self, name: Literal["id", "group"]) -> pd.Series:
        """Return a column of texts, of these cases in their order."""
        return pd.Series(self._columns[name].take(self._rows))

    def numbers(self, name: Literal["image", "mask", "role", "given", "channels"]) -> np.ndarray:
        """Return a column of numbers, of these cases in their order: places in `files()` (−1: none) or in `ROLES`, or channels."""
        return self._columns[name].to_numpy()[self._rows]

    def has_role(self, role: Role) -> np.ndarray:
        """Return which of these cases have the role, as bools."""
        return np.asarray(self.numbers("role") == ROLES.index(role))

    def files(self, numbers: np.ndarray | None = None) -> list[Path]:
        """Return the files that have these numbers; all of the table where not given."""
        return list(map(Path, self._files if numbers is None else self._files[numbers]))

    def with_given(self, noisy: np.ndarray) -> "CaseList":
        """Make pairs: give each of these cases the noisy mask of that number (−1: none), in a table that holds these cases alone."""
        return CaseList(self._table.iloc[self._rows].assign(given=noisy).reset_index(drop=True), self._files)

    def one_per_mask(self) -> "CaseList":
        """Return these cases without their given masks, then every given mask as a noisy case of the same id: the rows of a table."""
        if not len(pairs := self[self.numbers("given") >= 0]):
            return self
        given = pairs._table.iloc[pairs._rows]
        given = given.assign(mask=given["given"], role=np.int8(ROLES.index("noisy")))
        return CaseList(pd.concat([self._table.iloc[self._rows], given], ignore_index=True).assign(given=np.int32(-1)), self._files)

    def by_id(self) -> "CaseList":
        """Sort by id, into a table that holds these cases alone."""
        order = self._rows[self.texts("id").array.argsort()]
        return CaseList(self._table.iloc[order].reset_index(drop=True), self._files)


@dataclass(frozen=True, repr=False)
class Cases(Summary):
    """All cases of a data folder, sorted by id, and the notes made while reading it."""

    data: Path
    cases: CaseList
    notes: tuple[str, ...] = ()
    volumes: bool = False
    """Whether they are volumes, and not pictures."""

    def of(self, role: Role) -> CaseList:
        """Return the cases of one role, in the order of their ids."""
        return self.cases[self.cases.has_role(role)]

    @property
    def pairs(self) -> CaseList:
        """The clean cases that have a noisy mask too, in the order of their ids."""
        return self.cases[self.cases.numbers("given") >= 0]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(role)):,} {role}" for role in ROLES)
        groups = set(self.cases.texts("group").unique()) - {""}
        return "\n".join([f"{self.data}: no faults; {counts} cases" + (f" in {len(groups):,} groups" if groups else ""), *self.notes])


def read_cases(
    data: Path,
    *,
    needed: Sequence[Role] = ("noisy", "clean"),
    may_be_volumes: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Cases:
    """Read the cases of a data folder or table, by names and headers; no pixel is decoded.

    Args:
        data: a data folder, or a `.csv` or `.parquet` table whose paths count from its own folder.
        needed: roles that must have a case.
        may_be_volumes: volumes are taken too.
        layout: what differs in the data folder from the usual: `images`, `noisy`, `clean`, `test`, `mask_suffix`, `image_suffix`
            (see `layouts.Layout`).

    Raises:
        DataError: lists every fault: two files of one id, a mask without an image, a mask of another size, a test id that also
            trains, a group on both sides, no case of a role that is needed, and so on; or says that these are volumes.
    """
    cases, findings = _read(Path(data), needed, show_progress, layout)
    if findings.volumes and not may_be_volumes:
        raise DataError(f"{data}: holds volumes: {volumes.NOT_YET}")
    findings.raise_faults(data)
    return cases


def check(
    data: Path,
    *,
    classes: int | None = None,
    ignore_label: int | None = None,
    headers: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Cases:
    """Decode every file of a data folder, and report all its faults in one go: also those that `read_cases` finds.

    Example:
        print(pixeltrust.check("lesions"))  # a DataError names every fault

    Args:
        classes: as in `Config`; those of dataset.json in a dataset of nnU-Net, where not given.
        ignore_label: as in `Config`; those of dataset.json in a dataset of nnU-Net, where not given.
        headers: names and headers alone: thousands of volumes in seconds.
        show_progress: a progress bar on standard error.
        layout: as for `read_cases`.

    Raises:
        DataError: lists every fault.
    """
    cases, findings = _read(Path(data), ("noisy", "clean"), show_progress, layout)
    classes, ignore_label = labels_of(data, classes, ignore_label)
    decoded = [] if headers else _decode(cases.cases, classes, ignore_label, findings, show_progress)
    findings.raise_faults(data)
    notes = list(cases.notes)
    if findings.volumes or classes > 1:
        notes += _labels_note(decoded, "voxels" if findings.volumes else "pixels")
    for role in ROLES:
        if empty := sum(of == role and not meaning.labelled for of, meaning, _ in decoded):
            notes.append(f"{count(empty, f'{role} mask')} without foreground: allowed")
    if headers:
        notes.append("names and headers alone: no pixel was read")
    return replace(cases, notes=(*notes, *clean_warnings(len(cases.of("clean")))))


def _decode(
    cases: CaseList, classes: int, ignore_label: int | None, findings: Findings, show_progress: bool
) -> list[tuple[Role, MaskMeaning, np.ndarray]]:
    """Decode every image and mask; return the role of each mask, what its 255 means, and how many pixels have each label (256)."""
    _, firsts = np.unique(cases.numbers("image"), return_index=True)
    images = [file for case in cases[np.sort(firsts)] for file in case.image_files]
    for image, error in attempt_in_threads(_try_image, images, text="decoding images", shown=show_progress):
        if error is not None and image not in findings.faulty_files:
            findings.faults.append(error.fault)

    def decode(case: Case) -> tuple[Role, MaskMeaning, np.ndarray]:
        labels, meaning = decode_labels(case.mask, classes=classes, ignore_label=ignore_label)
        return case.role, meaning, np.bincount(labels.ravel(), minlength=256)

    decoded = []
    for case, outcome in attempt_in_threads(decode, cases.one_per_mask(), text="decoding masks", shown=show_progress):
        if not isinstance(outcome, PixeltrustError):
            decoded.append(outcome)
        elif case.mask not in findings.faulty_files:
            findings.faults.append(outcome.fault)
    findings.faults += role_faults({role: [meaning for of, meaning, _ in decoded if of == role] for role in ROLES})
    return decoded


def _try_image(image: Path) -> None:
    read_values(image)  # which is not kept: many are on their way at once


def _labels_note(decoded: Sequence[tuple[Role, MaskMeaning, np.ndarray]], units: str) -> list[str]:
    """Say how many pixels, or voxels, have each label."""
    counts = np.array([pixels for *_, pixels in decoded], np.int64).reshape(-1, 256)
    total, masks = counts.sum(axis=0), (counts > 0).sum(axis=0)
    share = total / max(total.sum(), 1)
    each = [
        f"{'ignored' if label == IGNORE else label} {total[label]:,} ({share[label]:.2%}, in {count(int(masks[label]), 'mask')})"
        for label in np.flatnonzero(total).tolist()
    ]
    return [f"{units} of each label: {'; '.join(each)}"] if each else []


def _read(data: Path, needed: Sequence[Role], show_progress: bool, layout: Layout) -> tuple[Cases, Findings]:
    """Pair what can be paired, by names and headers, and collect the faults and notes."""
    findings = Findings()
    table = _find_table(data)
    if table and layout_options(layout):
        raise DataError(f"{table}: a table names its files itself; leave out {', '.join(layout_options(layout))}, which are for folders")
    dataset = None if table else read_dataset(data)
    folders = Folders.of(data, {} if dataset else layout)
    listings = list_dataset(dataset, layout) if dataset else None
    listed = _pair_table(table, findings) if table else _pair_folder(data, folders, findings, listings)
    distinct = drop_repeated_ids(listed, findings).by_id()
    compare_headers(distinct, findings, show_progress)
    compare_sides(distinct, findings)
    cases = Cases(data, distinct, tuple(findings.notes), findings.volumes)
    for role in needed:
        if not cases.of(role) and role not in findings.unpaired_roles:
            proposed = "" if table or dataset or folders.paths[role].is_dir() else propose_folders(data, folders, [role])
            where = table or (dataset.path_of(role) if dataset else folders.paths[role])
            findings.faults.append(f"{where}: no usable {role} mask; {_USE[role]}{proposed}")
    return cases, findings


def _find_table(data: Path) -> Path | None:
    if data.is_file():
        if data.suffix.lower() not in (".csv", ".parquet"):
            raise DataError(f"{data}: a data folder, or a .csv or .parquet table of cases, is needed")
        return data
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder")
    return next((data / name for name in TABLES if (data / name).is_file()), None)


def _pair_folder(data: Path, folders: Folders, findings: Findings, listings: Mapping[str, Listing] | None = None) -> CaseList:
    """Pair the files of the parts; `listings` are given where these are not folders of their own."""
    where = folders.paths
    if listings is None and not where["images"].is_dir():
        missing = [part for part, path in where.items() if not path.is_dir()]
        wanted = "it has no images/ (wanted: images/, noisy/, clean/ and perhaps test/)"
        raise DataError(f"{data}: not a data folder: {wanted}{propose_folders(data, folders, missing)}")
    suffixes = volumes.SUFFIXES if listings is None else SUFFIXES
    listings = listings or {part: _list_files(part, folders) for part in where}
    images = listings["images"].files
    channels = join_channels(listings["images"], {identity for role in ROLES for identity in listings[role].files}, suffixes=suffixes)
    for listing in listings.values():
        findings.faults += listing.faults
        findings.notes += listing.notes
    rows: list[_Row] = []
    unpaired: dict[str, list[Path]] = defaultdict(list)
    for role in ROLES:
        for identity, mask in listings[role].files.items():
            if identity in images:
                rows.append((identity, images[identity], mask, role, "", None, channels.get(identity, 1)))
            else:
                unpaired[identity].append(mask)
                findings.unpaired_roles.add(role)
    unused = images.keys() - {identity for identity, *_ in rows}
    _report_unpaired(unpaired, listings["images"], findings)
    if unused:
        findings.notes.append(f"{count(len(unused), 'image')} without any mask: not used")
    for what, parts in (("mask", ROLES), ("image", ("images",))):
        names = [case_id(path) for part in parts for path in listings[part].files.values()]
        for ending in folders.endings[parts[0]]:
            if not any(name.endswith(ending) for name in names):
                findings.faults.append(f"{data}: no {what}'s name ends in `{ending}`; leave it out, or mend it")
    others = [] if suffixes is SUFFIXES else other_folders(data, folders)
    if others:
        findings.notes.append(f"{data}: other folders with images, not looked into: {some(others)}")
    return CaseList.of_paths(rows, Path())


def _report_unpaired(unpaired: dict[str, list[Path]], images: Listing, findings: Findings) -> None:
    """Add a fault for every mask without an image; one for all that would have an image if the names were cut."""
    for proposal in propose_endings(unpaired, images.files):
        example = min(str(mask) for identity in proposal.masks for mask in unpaired[identity])
        findings.faults.append(f"{proposal.words} (such as {example})")
        for identity in proposal.masks:
            del unpaired[identity]
    unread = {case_id(path): path for path in images.others if path.suffix}
    for identity, masks in unpaired.items():
        wrong, kind, repair = f"no {images.folder.name}/{identity}.*", "masks without an image", _NAMES
        if other := unread.get(identity):
            wrong = f"there is {images.folder.name}/{other.name}, but {other.suffix} is not read"
            kind = f"masks whose image ends in {other.suffix}"
            repair = f"{other.suffix} is not read; save them as PNG, JPEG, TIFF, BMP or WebP"
        findings.faults += [Fault(f"{mask}: a mask without an image: {wrong}", kind=kind, repair=repair) for mask in masks]


def _list_files(part: str, folders: Folders) -> Listing:
    """List the files of a part by id; an absent folder has none."""
    folder = folders.paths[part]
    return files_by_id(folder, folders.endings[part]) if folder.is_dir() else Listing(folder, {}, [], [])


def _pair_table(table: Path, findings: Findings) -> CaseList:
    rows = read_table(table)
    missing = [name for name in COLUMNS if name not in rows.columns]
    if missing:
        raise DataError(
            f"{table}: no column {', '.join(missing)}; wanted: {', '.join(COLUMNS)}, and perhaps group and channels; "
            f"found: {list(rows.columns)}"
        )
    rows = rows.reindex(columns=[*COLUMNS, "group", "channels"], fill_value="").assign(given=None)
    rows["channels"] = rows["channels"].replace("", "1")
    slashed = rows["id"].isin([".", ".."]) | rows["id"].str.contains(r"[/\\]")
    empty = (rows["id"] == "") | (rows["image"] == "") | (rows["mask"] == "")
    control = rows["id"].str.contains(CONTROL) | rows["image"].str.contains(CONTROL) | rows["mask"].str.contains(CONTROL)
    long = _is_longer(rows["id"], LONGEST_ID) | _is_longer(rows["image"], _LONGEST_PATH) | _is_longer(rows["mask"], _LONGEST_PATH)
    of_several = (rows["channels"] != "1") & ~rows["image"].str.contains(_FIRST_CHANNEL)
    no_number = ~rows["channels"].str.fullmatch("[1-9][0-9]{0,2}")
    wrong = pd.Series(False, rows.index)
    for these, kind, complaint in (
        (~rows["role"].isin(ROLES), "another role", f"role {{role}}; wanted: {', '.join(ROLES)}"),
        (slashed | empty, "an empty cell or a slash in the id", "id, image and mask must not be empty, and an id has no slash (id {id})"),
        (control, "control characters", "id, image and mask must not have control characters (id {id}, image {image}, mask {mask})"),
        (long, "too long a cell", f"an id may have {LONGEST_ID} bytes, a path {_LONGEST_PATH:,}; one is too long (id {{id}})"),
        (no_number, "another number of channels", "channels is the number of files of the image, 1 or more, not {channels}"),
        (of_several, "channels of other names", "of several channels the image is the first, <name>_0000.nii.gz, not {image}"),
    ):
        for place in np.flatnonzero(these & ~wrong):
            cells = {name: f"{rows[name].iloc[place]!r:.60}" for name in (*COLUMNS, "channels")}
            findings.faults.append(Fault(f"{table}, row {place + 2}: {complaint.format(**cells)}", kind=f"rows with {kind}"))
        wrong |= these
    return CaseList.of_paths(rows[~wrong], table.parent)


def _is_longer(texts: pd.Series, most_bytes: int) -> np.ndarray:
    """Return which texts take more bytes in UTF-8, where a character takes up to 4."""
    longer = (texts.str.len() > most_bytes // 4).to_numpy(bool, copy=True)
    longer[longer] = [len(text.encode()) > most_bytes for text in texts[longer]]
    return longer


def table_of(cases: Iterable[Case], held_out: Collection[str] = (), *, pairs: bool = False) -> pd.DataFrame:
    """Return the cases as a table with the columns of `cases.csv`, and whether a case is held out of training.

    The record of a run has one row per case, its mask that of training; a table that is to be read as data has `pairs`: a row more for
    every given mask, with the role noisy. Paths are absolute: a run is read from anywhere.
    """
    listed = cases if isinstance(cases, CaseList) else CaseList.of(cases)
    listed = listed.one_per_mask() if pairs else listed
    files = np.array([os.fsencode(path.absolute()).decode(errors="backslashreplace") for path in listed.files()], object)
    paths = {name: pd.Series(files[listed.numbers(name)], dtype=object) for name in ("image", "mask")}
    roles = pd.Categorical.from_codes(listed.numbers("role"), pd.Index(ROLES))
    ids = listed.texts("id")
    table = pd.DataFrame({"id": ids, **paths, "role": roles, "group": listed.texts("group"), "held_out": ids.isin(held_out)})
    channels = listed.numbers("channels")
    return table.assign(channels=channels) if (channels > 1).any() else table
