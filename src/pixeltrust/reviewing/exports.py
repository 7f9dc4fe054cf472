"""`pixeltrust review --export`: what was decided becomes a data folder for `pixeltrust train`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import Audit
from pixeltrust.data.cases import COLUMNS, Case, Cases, Role, read_cases
from pixeltrust.data.images import image_suffix, read_size, write_png
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import fill_folder_atomically, link_or_copy, require_free
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import count
from pixeltrust.reviewing.decisions import Decision, Decisions

KEPT = ("given", "proposed", "mended")
"""Decisions whose mask becomes a clean one."""
_COMPLAINT = "These files cannot be exported:"


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What a review has made of a data folder."""

    out: Path
    decided: dict[str, int]
    """Cases with an accepted or mended mask, by decision: now clean."""
    clean: int
    """Clean cases, those that were clean before among them."""
    noisy: int
    test: int
    rejected: int
    """Cases left out."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ", ".join(f"{number:,} {what}" for what, number in self.decided.items())
        lines = [
            f"{self.out}: {self.noisy:,} noisy, {self.clean:,} clean, {count(self.test, 'test case')}",
            f"now clean             {sum(self.decided.values()):,}" + (f" ({parts})" if parts else ""),
            f"rejected, left out    {self.rejected:,}",
        ]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class _Planned:
    """A case of the new folder: its mask is that of a decision, or stays the file it was."""

    case: Case
    role: Role
    decision: Decision | None = None


def export(audit: Path, out: Path, *, show_progress: bool = True) -> ExportSummary:
    """Write a data folder of what was decided: images/, noisy/, clean/, test/; whole or not at all.

    Accepted and mended masks are clean, exactly the masks that were decided on even where a file has changed since; undecided and skipped
    cases stay noisy with their given mask; rejected ones are left out. Clean and test cases of the data are kept as they are.

    Args:
        audit: a folder that was reviewed.
        out: a folder that does not exist or is empty. Images, and masks that stay, are hard links where the disk allows it.

    Raises:
        DataError: the audit or its data folder has faults, all of them named.
        RunError: `out` is in use, or cannot be written.
    """
    folder, out = Audit.read(audit), Path(out)
    require_free(out)
    data = read_cases(folder.data, needed=("noisy",), show_progress=show_progress)
    decisions = Decisions(folder)
    try:
        made = decisions.all_in_force()
        planned, notes = _plan(data, made)
        encode, more = _encoding(folder, planned, decisions, show_progress)
        with fill_folder_atomically(out) as unfinished:
            _write(planned, unfinished, decisions, encode, show_progress)
    finally:
        decisions.close()
    roles = Counter(one.role for one in planned)
    kept = Counter(one.decision.what for one in planned if one.decision)
    noisy = data.of("noisy").texts("id")
    return ExportSummary(
        out=out,
        decided={what: kept[what] for what in KEPT if kept[what]},
        clean=roles["clean"],
        noisy=roles["noisy"],
        test=roles["test"],
        rejected=sum(what is not None and what.what == "rejected" for what in map(made.get, noisy)),
        notes=(*notes, *more),
    )


def _plan(data: Cases, made: dict[str, Decision]) -> tuple[list[_Planned], list[str]]:
    planned = []
    for case in data.cases:
        decision = made.get(case.id) if case.role == "noisy" else None
        if decision is None or decision.what == "skipped":
            planned.append(_Planned(case, case.role))
        elif decision.what in KEPT:
            planned.append(_Planned(case, "clean", decision))
    notes = []
    gone = set(made) - set(data.of("noisy").texts("id"))
    if gone:
        notes.append(f"{count(len(gone), 'decision')} of cases that are no longer noisy cases of {data.data}: not used")
    if not any(one.role == "noisy" for one in planned):
        notes.append("no noisy case is left: there is nothing to learn to trust, and `pixeltrust train` needs at least one")
    if not any(one.role == "clean" for one in planned):
        raise DataError(f"{data.data}: no clean case, and no mask was accepted or mended; nothing to train by")
    return planned, notes


def _encoding(
    audit: Audit, planned: list[_Planned], decisions: Decisions, show_progress: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """How labels are written so that all files of the folder are read alike, and what is to be said of it."""

    def look(one: _Planned) -> tuple[MaskMeaning, bool]:
        if one.decision:
            assert one.decision.after is not None
            decided = decisions.mask(one.decision.after)
            size = read_size(one.case.image)
            if decided.shape != size:  # the data were exchanged since
                sides = f"{decided.shape[1]}x{decided.shape[0]}"
                raise DataError(
                    f"{one.case.image}: {size[1]}x{size[0]} pixels, but the mask decided on has {sides}; audit and decide again"
                )
            ignored = bool((decided == IGNORE).any())
            means = audit.classes == 1 and audit.ignore_label is None and ignored
            return MaskMeaning(one.case.mask, "ignored" if means else "absent"), ignored
        labels, kind = decode_labels(one.case.mask, classes=audit.classes, ignore_label=audit.ignore_label)
        return kind, bool((labels == IGNORE).any())

    looked = map_in_threads(look, planned, text="reading masks", complaint=_COMPLAINT, shown=show_progress)
    faults = mixture_faults([kind for kind, _ in looked])
    if faults:
        raise DataError(_COMPLAINT, faults)
    values = np.arange(256, dtype=np.uint8)
    notes = []
    ignores = any(ignored for _, ignored in looked)
    if audit.ignore_label is not None:
        values[IGNORE] = audit.ignore_label
    if audit.classes == 1:
        values[1] = 1 if values[IGNORE] == IGNORE and (ignores or audit.ignore_label is not None) else 255
    if ignores and audit.classes == 1:
        notes.append(f"some pixels are ignored: train with --set ignore_label={values[IGNORE]}")
    return lambda labels: values[labels], notes


def _write(
    planned: list[_Planned], folder: Path, decisions: Decisions, encode: Callable[[np.ndarray], np.ndarray], show_progress: bool
) -> None:
    for name in ("images", "noisy", "clean", "test"):
        if name == "images" or any(one.role == name for one in planned):
            (folder / name).mkdir()

    def write(one: _Planned) -> dict[str, Any]:
        case = one.case
        image = folder / "images" / f"{case.id}{image_suffix(case.image) or case.image.suffix}"
        link_or_copy(case.image, image)
        if one.decision:
            assert one.decision.after is not None
            mask = folder / one.role / f"{case.id}.png"
            write_png(mask, encode(decisions.mask(one.decision.after)))
        else:
            mask = folder / one.role / f"{case.id}{image_suffix(case.mask) or case.mask.suffix}"
            link_or_copy(case.mask, mask)
        return {
            "id": case.id,
            "image": image.relative_to(folder).as_posix(),
            "mask": mask.relative_to(folder).as_posix(),
            "role": one.role,
            "group": case.group or "",
        }

    rows = map_in_threads(write, planned, text="writing", complaint=_COMPLAINT, shown=show_progress)
    names = (row[part] for row in rows for part in ("image", "mask"))
    needs_table = any(row["group"] or row["id"].startswith(".") for row in rows) or not all(image_suffix(Path(name)) for name in names)
    if needs_table:  # a folder alone tells no groups, and leaves out hidden files and those whose name is not an image's
        write_csv(pd.DataFrame(rows)[[*COLUMNS, "group"]], folder / "cases.csv")
