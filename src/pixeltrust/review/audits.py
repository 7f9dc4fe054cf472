"""The audit folder that is reviewed: what it says of itself, and where the files of a case are.

AUDIT/audit.json  cases.csv (worst first)  regions.csv  trust/<id>.png  mended/<id>.png
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pixeltrust.audits import read_record


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

    def trust_file(self, identity: str) -> Path:
        """AUDIT/trust/<id>.png"""
        return self.folder / "trust" / f"{identity}.png"

    def proposed_file(self, identity: str) -> Path:
        """AUDIT/mended/<id>.png"""
        return self.folder / "mended" / f"{identity}.png"
