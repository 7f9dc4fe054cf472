"""The audit folder that is reviewed: what it says of itself, and where the files of a case are.

AUDIT/audit.json  cases.csv (worst first)  regions.csv  trust/<id>.png  mended/<id>.png
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pixeltrust.audits import read_record
from pixeltrust.errors import DataError, count, some
from pixeltrust.tables import read_table

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
            RunError: it is none, none that came to its end, or one of a later version.
        """
        folder = Path(folder).absolute()
        record = read_record(folder)
        return cls(folder=folder, data=Path(record.data), classes=record.classes, ignore_label=record.ignore_label)

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


def _numbers(rows: pd.DataFrame, texts: list[str], numbers: dict[str, type], table: Path) -> pd.DataFrame:
    missing = [name for name in [*texts, *numbers] if name not in rows.columns]
    if missing:
        raise DataError(f"{table}: no column {', '.join(missing)}; found: {some(list(rows.columns), 20)}")
    cells = rows[[*texts, *numbers]]
    defined = [name for name, kind in numbers.items() if kind is float]
    cells = cells.assign(**{name: cells[name].replace("", "nan") for name in defined})  # an agreement with nothing to agree on
    try:
        return cells.astype(numbers)
    except ValueError as error:
        raise DataError(f"{table}: a cell that is no number: {error}") from None
