"""The audit folder that is reviewed: what it says of itself, and where the files of a case are.

AUDIT/audit.json  cases.csv (worst first)  regions.csv  trust/<id>.png  mended/<id>.png
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pixeltrust.errors import DataError, count, some
from pixeltrust.tables import read_table

FORMAT = 1  # of the audit folder; a later one is refused
CASE_NUMBERS = {
    "agreement": float,
    "doubtful_pixels": int,
    "doubtful_share": float,
    "changed_pixels": int,
    "added_pixels": int,
    "removed_pixels": int,
    "regions": int,
    "height": int,
    "width": int,
}
REGION_NUMBERS = {"region": int, "area": int, "share": float, "top": int, "left": int, "bottom": int, "right": int, "confidence": float}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit folder by what its audit.json says."""

    folder: Path
    data: Path
    """The data folder or table that was audited."""
    classes: int
    ignore_label: int | None

    @classmethod
    def read(cls, folder: Path) -> "Audit":
        """The audit in a folder.

        Raises:
            DataError: it is none, or one of a later version.
        """
        folder = Path(folder).absolute()
        record = _record(folder)
        try:
            return cls(
                folder=folder, data=Path(record["data"]), classes=int(record["classes"]), ignore_label=_or_none(record.get("ignore_label"))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / 'audit.json'}: not what `pixeltrust audit` writes: {error!r}") from None

    def version(self) -> str:
        """A text that is another one when the tables are."""
        digest = hashlib.sha256()
        for name in ("audit.json", "cases.csv", "regions.csv"):
            file = self.folder / name
            digest.update(file.read_bytes() if file.is_file() else b"")
            digest.update(b"\0")
        return digest.hexdigest()[:16]

    def cases(self) -> pd.DataFrame:
        """cases.csv in its order, numbers as numbers.

        Raises:
            DataError: lists every fault: a missing column, a cell that is no number, an id that is no file name or is there twice.
        """
        table = self.folder / "cases.csv"
        rows = _numbers(read_table(table), ["id", "image", "mask"], CASE_NUMBERS, table)
        ids = rows["id"]
        wrong = ids.isin(["", ".", ".."]) | ids.str.contains("[/\0]")
        faults = [f"{table}, row {row + 2}: id {rows['id'][row]!r} is no file name" for row in rows.index[wrong]]
        faults += [f"{table}: id {identity!r} is there twice" for identity in rows["id"][ids.duplicated()]]
        if faults:
            raise DataError(f"{table}: {count(len(faults), 'fault')}", faults)
        return rows

    def regions(self) -> pd.DataFrame:
        """regions.csv, numbers as numbers, `mended` as True or False; no rows where there is no such file.

        Raises:
            DataError: a missing column, or a cell that is no number.
        """
        table = self.folder / "regions.csv"
        if not table.is_file():
            return pd.DataFrame(columns=["id", "kind", "mended", *REGION_NUMBERS])
        rows = _numbers(read_table(table), ["id", "kind", "mended"], REGION_NUMBERS, table)
        return rows.assign(mended=rows["mended"].str.lower().isin(["true", "1"]))

    def trust_file(self, identity: str) -> Path:
        """AUDIT/trust/<id>.png"""
        return self.folder / "trust" / f"{identity}.png"

    def proposed_file(self, identity: str) -> Path:
        """AUDIT/mended/<id>.png"""
        return self.folder / "mended" / f"{identity}.png"


def _record(folder: Path) -> dict[str, Any]:
    file = folder / "audit.json"
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if not file.is_file():
        raise DataError(f"{folder}: not an audit (it has no audit.json); `pixeltrust audit` makes one")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    made = record.get("format") if isinstance(record, dict) else None
    if not isinstance(made, int):
        raise DataError(f"{file}: has no format; not what `pixeltrust audit` writes")
    if made > FORMAT:
        raise DataError(f"{file}: format {made} of a later pixeltrust, this one knows {FORMAT}; install a newer pixeltrust")
    return record


def _numbers(rows: pd.DataFrame, texts: list[str], numbers: dict[str, type], table: Path) -> pd.DataFrame:
    missing = [name for name in [*texts, *numbers] if name not in rows.columns]
    if missing:
        raise DataError(f"{table}: no column {', '.join(missing)}; found: {some(list(rows.columns), 20)}")
    try:
        return rows[[*texts, *numbers]].astype(numbers)
    except ValueError as error:
        raise DataError(f"{table}: a cell that is no number: {error}") from None


def _or_none(value: Any) -> int | None:
    return None if value is None else int(value)
