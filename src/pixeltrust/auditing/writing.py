"""What an audit and a mending write alike into an audit folder (see `folder`): the pictures of a case, and the tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import CASE_COLUMNS, EXPECTED, OF_VOLUMES, REGION_COLUMNS
from pixeltrust.data.cases import Case, CaseList, Cases, table_of
from pixeltrust.data.images import map_name, read_labels, write_labels
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.data.masks import MaskMeaning
from pixeltrust.plumbing.files import make_folder, sync_files, write_atomically
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.tables import write_csv

PICTURES = ("confidence", "mended", "changed")  # the folders of the pictures of cases

Judged = tuple[dict[str, object], list[dict[str, object]]]
"""The row of a case in cases.csv, and those of its regions."""


@dataclass(frozen=True)
class AuditWriter:
    """A writer of an audit folder."""

    out: Path
    classes: int
    ignore_label: int | None
    place: Path | None = None
    """The folder that `out` becomes in the end, where it is another."""

    def make_folders(self) -> None:
        """Make the folders of pictures."""
        for name in PICTURES:
            make_folder(self.out / name)

    def syncing(self, judged: list[Judged]) -> list[Judged]:
        """Return the rows of cases whose pictures this process has written, once all pictures are on the disk."""
        for name in PICTURES:
            sync_files(self.out / name)
        return judged

    def write_pictures(self, case: Case, given: np.ndarray, confidence: np.ndarray, mended: np.ndarray, foreground_value: int) -> None:
        """Write the pictures of a case; `syncing` is to follow.

        Args:
            given, mended: labels of the given and of the proposed mask, uint8 (*S); 255 ignored. *S is (H, W), or (D, H, W).
            confidence: the probability that each given label is right, uint8 (*S), 0 wrong … 255 right.
            foreground_value: what foreground is in the files of two labels, for a mask without any.
        """
        name = map_name(case.id, given.ndim)
        write_labels(self.out / "confidence" / name, confidence, like=case.mask, synced=False)
        write_labels(self.out / "mended" / name, self._values_of(mended, case, given, foreground_value), like=case.mask, synced=False)
        changed = self.out / "changed" / name
        if (mended != given).any():
            write_labels(changed, (mended != given).astype(np.uint8) * 255, like=case.mask, synced=False)
        else:  # there may be one from before this audit was stopped
            changed.unlink(missing_ok=True)

    def _values_of(self, labels: np.ndarray, case: Case, given: np.ndarray, foreground_value: int) -> np.ndarray:
        """Return the values that the file of the given mask has for these labels; those of the other files where it has no foreground."""
        values = np.arange(256, dtype=np.uint8)
        if self.classes == 1:
            in_file = read_labels(case.mask)
            foreground, ignored = in_file[given == 1], in_file[given == IGNORE]
            values[1] = foreground[0] if foreground.size else foreground_value
            values[IGNORE] = ignored[0] if ignored.size else 255
        elif self.ignore_label is not None:
            values[IGNORE] = self.ignore_label
        return values[labels]

    def write_tables(self, table: pd.DataFrame, regions: pd.DataFrame, cases: Cases, layout: Layout) -> Path:
        """Write regions.csv, cases.csv and mended.csv; return the data folder or table, as readers of the audit find it.

        With layout options that is given.csv, which is written here, so that they need no options.
        """
        write_csv(regions, self.out / "regions.csv")
        with write_atomically(self.out / "cases.csv") as unfinished:
            table.to_csv(unfinished, index=False)
        listed, axes = cases.of("noisy") + cases.of("clean") + cases.of("test"), 3 if cases.volumes else 2
        write_csv(_mended_table(listed, self.place or self.out, axes), self.out / "mended.csv")
        if not layout_options(layout):
            return cases.data.resolve()
        write_csv(table_of(cases.cases, pairs=True), self.out / "given.csv")
        return ((self.place or self.out) / "given.csv").resolve()


def find_foreground_value(kinds: Sequence[MaskMeaning], ignore_label: int | None) -> int:
    """Return what foreground is in files of two labels: what it is in most of them.

    Where none has any, it is 255, or 1 where 255 or another value is ignored in some of them.
    """
    if found := Counter(kind.foreground for kind in kinds if kind.foreground is not None):
        return found.most_common(1)[0][0]
    return 1 if ignore_label is not None or any(kind.meaning == "ignored" for kind in kinds) else 255


def describe_files(case: Case) -> dict[str, object]:
    """Return the names in the row of a case."""
    return {"id": case.id, "image": str(case.image.absolute()), "mask": str(case.mask.absolute())}


def join_judged(judged: list[Judged]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return cases.csv and regions.csv, the worst first: by the expected Dice where it is known, else by agreement."""
    table = pd.DataFrame([row for row, _ in judged])
    first = "expected" if "expected" in table else "agreement"
    table = table.sort_values([first, "doubtful_share", "id"], ascending=[True, False, True], kind="stable")
    further = [name for name in ("depth", *EXPECTED) if name in table]
    table = table.assign(rank=range(1, len(table) + 1)).reindex(columns=[*CASE_COLUMNS, *further])
    table = table.round(dict.fromkeys(("agreement", "doubtful_share", *EXPECTED), 5))
    rank = dict(zip(table["id"], table["rank"], strict=True))
    rows = [{"rank": rank[row["id"]], "id": row["id"]} | region for row, regions in judged for region in regions]
    columns = [*REGION_COLUMNS, *(OF_VOLUMES if "depth" in table else ())]
    regions = pd.DataFrame(rows, columns=columns).sort_values(["rank", "region"], kind="stable", ignore_index=True)
    return table.reset_index(drop=True), regions.round({"share": 5, "doubt": 4})


def _mended_table(cases: CaseList, out: Path, axes: int) -> pd.DataFrame:
    """Return a table of cases in which the noisy masks are the mended ones."""
    table = table_of(cases).drop(columns="held_out").astype(str)
    noisy = table["role"] == "noisy"
    table.loc[noisy, "mask"] = [str((out / "mended" / map_name(identity, axes)).absolute()) for identity in table.loc[noisy, "id"]]
    return table
