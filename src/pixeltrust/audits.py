"""An audit folder: what `audit` writes about every noisy mask, and everything else reads.

    AUDIT/audit.json        what was audited by what; written last, so a folder that has it is complete
    AUDIT/cases.csv         a row per mask, worst first          AUDIT/regions.csv   a row per doubtful region
    AUDIT/trust/<id>.png    how likely each pixel of the mask is right, 0 to 255
    AUDIT/mended/<id>.png   the proposed mask                    AUDIT/changed/<id>.png   255 where it differs, where it does
    AUDIT/mended.csv        a table of cases, to train again: the mended masks as noisy ones, the clean and test cases as they were
    AUDIT/report.html       a page

All pictures of a case have the size of its given mask.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from pixeltrust.errors import RunError

FORMAT = 1
SURE = 128  # a pixel is doubtful below this in its 8-bit trust, a probability of ½
KINDS = ("missing", "too much", "other class", "unsure")
"""Of regions: what the network sees there and the mask has not, the other way round, another class, or nothing better."""
CASE_COLUMNS = (
    "rank", "id", "image", "mask", "agreement", "doubtful_pixels", "doubtful_share", "changed_pixels", "added_pixels", "removed_pixels",
    "regions", "height", "width", "evidence",
)  # fmt: skip
REGION_COLUMNS = (
    "rank", "id", "region", "kind", "area", "share", "top", "left", "bottom", "right", "row", "column", "confidence", "mended",
)  # fmt: skip
_TEXTS = dict.fromkeys(("id", "image", "mask", "kind", "evidence"), str)


@dataclass(frozen=True)
class AuditRecord:
    """What `audit.json` says."""

    data: str
    run: str
    weights: str
    classes: int
    ignore_label: int | None
    channels: int
    tilt: tuple[float, ...]
    """Of every label, as in `scores`."""
    seconds: float
    format: int = FORMAT

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def read_record(audit: Path) -> AuditRecord:
    """What was audited by what.

    Raises:
        RunError: the folder is no audit, none that came to its end, or one of a later version.
    """
    path = audit / "audit.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{audit}: not an audit that came to its end (it has no audit.json); `pixeltrust audit` makes one") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise RunError(f"{audit}: was written by a later pixeltrust (format {values['format']}, this one knows {FORMAT}); update it")
    try:
        return AuditRecord(**values | {"tilt": tuple(values["tilt"])})
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not the record of an audit: {error}") from None


def read_audit_table(audit: Path, name: str) -> pd.DataFrame:
    """cases.csv or regions.csv of an audit; ids and paths are texts, 007 and NA too.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return pd.read_csv(audit / name, dtype=_TEXTS, keep_default_na=False, na_values={"agreement": [""], "share": [""]})
    except (OSError, ValueError) as error:
        raise RunError(f"{audit / name}: cannot be read: {error}") from None
