"""An audit folder: what `audit` writes about every noisy mask, and everything else reads.

    AUDIT/audit.json            the run or the probabilities, the data, the settings; written last, so a folder that has it is complete
    AUDIT/cases.csv             a row per mask, worst first
    AUDIT/regions.csv           a row per doubtful region, the surest first within a mask
    AUDIT/confidence/<id>.png   the probability that each label of the mask is right, 0 wrong … 255 right (trust/ in older audits)
    AUDIT/mended/<id>.png       the proposed mask
    AUDIT/changed/<id>.png      255 where it differs from the given one; only where it does
    AUDIT/mended.csv            a table of cases, to train again: the mended masks as noisy ones, the clean and test cases as they were
    AUDIT/report.html           a page

All pictures of a case have the size of its given mask. Of volumes they are NIfTI files on its grid, <id>.nii.gz.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixeltrust.auditing.gain import Gain
from pixeltrust.config import batch_of_patches
from pixeltrust.data.images import map_name
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.tables import read_table
from pixeltrust.plumbing.text import count, some

if TYPE_CHECKING:
    import pandas as pd

    from pixeltrust.data.cases import CaseList

FORMAT = 1
DOUBTFUL_BELOW = 128  # a pixel is doubtful below this confidence of 8 bits: a probability of ½
NOTHING_YET = "nothing yet"
"""The evidence of a case before anything has judged it: no doubt and no proposal of it means anything."""
FAIR = (
    "the verdict is fair only where the probabilities of a mask are by a network that was not trained on that mask, as in "
    "cross-validation: one that has learned a wrong mask agrees with it"
)
"""What files of probabilities do not show, and people have to know."""
KINDS = ("missing", "too much", "other class", "unsure")
"""The kinds of regions: foreground that the network sees and the mask lacks, the other way round, another class, or nothing better."""
AUDIT_TABLES = ("audit.json", "cases.csv", "regions.csv")
"""The files of which `Audit.version` is."""
_CASE_TYPES: dict[str, type] = {
    "rank": int, "id": str, "image": str, "mask": str, "agreement": float, "doubtful_pixels": int, "doubtful_share": float,
    "changed_pixels": int, "added_pixels": int, "removed_pixels": int, "regions": int, "height": int, "width": int, "evidence": str,
}  # fmt: skip
_REGION_TYPES: dict[str, type] = {
    "rank": int, "id": str, "region": int, "kind": str, "area": int, "share": float, "top": int, "left": int, "bottom": int, "right": int,
    "row": float, "column": float, "doubt": float, "mended": str,
}  # fmt: skip
CASE_COLUMNS, REGION_COLUMNS = tuple(_CASE_TYPES), tuple(_REGION_TYPES)
CASE_NUMBERS, REGION_NUMBERS = (
    {name: kind for name, kind in types.items() if kind is not str and name != "rank"} for types in (_CASE_TYPES, _REGION_TYPES)
)
OF_VOLUMES = ("slice", "first", "last", "mm3")
"""Further columns of regions.csv of volumes: the slice in which a region is largest, its first slice and the one after its last, and its
volume. cases.csv has `depth` beside height and width."""
EXPECTED = ("expected_given", "expected")
"""Further columns of a folder that `mend` has written: the expected Dice of the given mask and of the proposed one."""
_LARGEST = 2**53  # whole numbers up to it have a float of their own


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """The content of audit.json."""

    data: str
    run: str = ""
    """The run folder that has judged the masks; empty where it was none."""
    weights: str = ""
    probabilities: str = ""
    """The folder of probabilities by which they were judged; empty where there was none."""
    helped: str = ""
    """The folder of helped maps beside it."""
    classes: int
    ignore_label: int | None
    channels: int
    axes: int = 2
    """3 of volumes."""
    patch: tuple[int, ...] = ()
    """The size of the patches of volumes, where the judge knows one."""
    tilt: tuple[float, ...]
    """One number per label, see `scores`."""
    gain: Mapping[str, Any] = field(default_factory=dict)
    """How much better the proposed masks are expected to be: the values of a `Gain`."""
    menders: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the menders of a mending were given; a mending anew begins with them."""
    seconds: float
    format: int = FORMAT

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit folder, with what its readers need of audit.json."""

    folder: Path
    data: Path
    """The data folder or table that was audited."""
    judge: str
    """What judged it, in words; empty where nothing has."""
    is_by_files: bool
    """Whether that is files of probabilities, of which only the user knows how they were made."""
    classes: int
    ignore_label: int | None
    axes: int
    """2 of pictures, 3 of volumes."""
    patch: tuple[int, ...]
    """The size of the patches of volumes, where the judge knows one."""
    gain: Gain
    menders: Mapping[str, Any]
    """The settings that menders were given."""

    @classmethod
    def read(cls, folder: Path) -> "Audit":
        """Read the audit in a folder.

        Raises:
            RunError: it is not an audit, not a finished one, or one of a later version.
        """
        return cls.of(Path(folder).absolute(), read_audit_record(Path(folder)))

    @classmethod
    def of(cls, folder: Path, record: AuditRecord) -> "Audit":
        """Return the audit in a folder that has this record."""
        place = Path(*Path(record.probabilities).parts[-2:])  # the last name alone is `validation`, or `probabilities`
        judge = f"the probabilities in {place}" if record.probabilities else f"the run {Path(record.run).name}"
        return cls(
            folder=folder,
            data=Path(record.data),
            judge=judge if record.probabilities or record.run else "",
            is_by_files=bool(record.probabilities),
            classes=record.classes,
            ignore_label=record.ignore_label,
            axes=record.axes,
            patch=record.patch,
            gain=Gain.of(record.gain),
            menders=record.menders,
        )

    def version(self) -> str:
        """Return a text that changes when the tables do."""
        digest = hashlib.sha256()
        for name in AUDIT_TABLES:
            file = self.folder / name
            digest.update(file.read_bytes() if file.is_file() else b"")
            digest.update(b"\0")
        return digest.hexdigest()[:16]

    def confidence_file(self, identity: str) -> Path:
        """AUDIT/confidence/<id>.png, .nii.gz of a volume; in an audit of an earlier version AUDIT/trust/<id>.png"""
        earlier = not (self.folder / "confidence").is_dir() and (self.folder / "trust").is_dir()
        return self.folder / ("trust" if earlier else "confidence") / map_name(identity, self.axes)

    def proposed_file(self, identity: str) -> Path:
        """AUDIT/mended/<id>.png, .nii.gz of a volume"""
        return self.folder / "mended" / map_name(identity, self.axes)


def read_audit_record(audit: Path) -> AuditRecord:
    """Read audit.json.

    Raises:
        RunError: the folder is not an audit, not a finished one, or one of a later version.
    """
    path = audit / "audit.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{audit}: not an audit that has finished (it has no audit.json); `pixeltrust audit` makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise RunError(f"{audit}: was written by a later pixeltrust (format {values['format']}, this one knows {FORMAT}); update it")
    try:
        record = AuditRecord(**values | {"tilt": tuple(values["tilt"]), "patch": tuple(values.get("patch", ()))})
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not the record of an audit: {error}") from None
    if strange := [f"{name} is {value!r}" for name, value in asdict(record).items() if not _CAN_BE[name](value)]:
        raise RunError(f"{path}: not the record of an audit: {', '.join(strange)}")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_gain(values: Any) -> bool:
    try:
        return isinstance(Gain.of(values), Gain)
    except (TypeError, ValueError):
        return False


_CAN_BE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("data", "run", "weights", "probabilities", "helped"), lambda value: isinstance(value, str)),
    "classes": _is_whole(1, 254),
    "ignore_label": lambda value: value is None or _is_whole(0, 255)(value),
    "channels": _is_whole(1, 64),
    "axes": _is_whole(2, 3),
    "patch": lambda values: len(values) in (0, 3) and all(map(_is_whole(1, 2**14), values)),
    "tilt": lambda values: all(map(_is_number, values)),
    "seconds": _is_number,
    "gain": _is_gain,
    "menders": lambda values: isinstance(values, dict),
    "format": _is_whole(FORMAT, FORMAT),
}
"""The check of each value of a record."""


def review_command(audit: Path) -> str:
    """Return the command to review its masks."""
    return shlex.join(["pixeltrust", "review", str(audit)])


def train_command(audit: Path, classes: int, ignore_label: int | None, *, method: str = "", patch: Sequence[int] = ()) -> str:
    """Return the command to train on its mended masks, of volumes in such patches; by the default method where none is named."""
    settings = [f"method={method}"] * bool(method)
    settings += [f"classes={classes}"] * (classes > 1) + [f"ignore_label={ignore_label}"] * (ignore_label is not None)
    if patch:
        batch = batch_of_patches(patch)
        settings += [f"image_size=[{','.join(map(str, patch))}]", f"batch_size={batch}", f"clean_batch_size={batch}"]
    words = ["pixeltrust", "train", str(audit / "mended.csv"), "--out", "RUN"]
    return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])


def check_names(noisy: "CaseList", data: Path) -> None:
    """Check that tables can hold the names of the cases, or raise DataError."""
    faults = [f"{identity!r}: an id with a backslash; rename the case" for identity in noisy.texts("id") if "\\" in identity]
    for file in dict.fromkeys(path for case in noisy for path in (case.image, case.mask)):
        try:
            str(file.absolute()).encode()
        except UnicodeEncodeError:
            faults.append(f"{str(file)!r}: not UTF-8, which a table of cases needs; rename it, or its folder")
    if faults:
        raise DataError(f"{data}: names that cannot be audited", faults)


def read_audit_cases(audit: Path) -> "pd.DataFrame":
    """Read cases.csv in its order: `CASE_NUMBERS` and the rank are numbers, all else texts, ids like 007 and NA too.

    Raises:
        DataError: lists every fault: a missing column, a cell that is not a number, an id that is not a file name or is there twice.
    """
    table = audit / "cases.csv"
    rows = read_table(table)
    expected = {name: float for name in EXPECTED if name in rows}
    rows, faults = _convert_numbers(rows, ["id", "image", "mask", "evidence"], {"rank": int, **CASE_NUMBERS, **expected}, table)
    wrong = rows["id"].isin(["", ".", ".."]) | rows["id"].str.contains("[/\0]")
    faults += [
        f"{table}, row {row + 2}: id {rows['id'][row]!r} is not a file name, so it names no file of the audit" for row in rows.index[wrong]
    ]
    faults += [f"{table}: id {identity!r} is there twice" for identity in rows["id"][rows["id"].duplicated()]]
    if faults:
        raise DataError(f"{table}: {count(len(faults), 'fault')}", faults)
    return rows


def read_audit_regions(audit: Path) -> "pd.DataFrame":
    """Read regions.csv in its order: `REGION_NUMBERS` and the rank are numbers, `mended` is True or False, all else texts.

    An earlier version called the column `doubt` confidence.

    Raises:
        DataError: it cannot be read, or lists every fault: a missing column, or a cell that is not a number.
    """
    table = audit / "regions.csv"
    rows = read_table(table)
    if "doubt" not in rows:
        rows = rows.rename(columns={"confidence": "doubt"})
    rank = {"rank": int} if "rank" in rows else {}
    rows, faults = _convert_numbers(rows, ["id", "kind", "mended"], REGION_NUMBERS | rank, table)
    if faults:
        raise DataError(f"{table}: {count(len(faults), 'fault')}", faults)
    return rows.assign(mended=rows["mended"].str.lower().isin(["true", "1"]))


def _convert_numbers(rows: "pd.DataFrame", texts: list[str], numbers: dict[str, type], table: Path) -> "tuple[pd.DataFrame, list[str]]":
    """Return the rows with these columns as numbers, NaN for an empty cell where one may be, and a fault for every other cell."""
    import pandas as pd

    if absent := [name for name in [*texts, *numbers] if name not in rows.columns]:
        raise DataError(f"{table}: no column {', '.join(absent)}; found: {some(list(rows.columns), 20)}")
    read: dict[str, np.ndarray] = {}
    faults = []
    for name, kind in numbers.items():
        cells = rows[name]
        values = pd.to_numeric(cells.to_numpy(object), errors="coerce").astype(float)
        missing = np.isnan(values) if kind is int else np.isnan(values) & ~cells.str.lower().isin(["", "nan"]).to_numpy()
        broken = missing if kind is float else missing | (np.floor(values) != values) | (np.abs(values) > _LARGEST)
        for row in np.flatnonzero(broken):
            faults.append(f"{table}, row {row + 2}: {name} {cells.iloc[row]!r} is not a {'' if missing[row] else 'whole '}number")
        read[name] = np.where(broken, 0, values).astype(kind)
    return rows.assign(**read), faults
