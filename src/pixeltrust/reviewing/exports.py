"""`pixeltrust review --export`: decisions become a data folder for `pixeltrust train`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import Audit
from pixeltrust.data.cases import COLUMNS, Case, Cases, read_cases
from pixeltrust.data.image_files import image_suffix
from pixeltrust.data.images import link_channels, link_image, mask_name, read_header, write_labels
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import fill_folder_atomically, require_free
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import count
from pixeltrust.reviewing.decisions import Decision, Decisions

MADE_CLEAN = ("given", "proposed", "mended")
"""Decisions whose mask becomes a clean one."""
_COMPLAINT = "These files cannot be exported:"


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportSummary(Summary):
    """The data folder that an export has made."""

    out: Path
    decided: dict[str, int]
    """The number of cases with an accepted or mended mask, by decision; they are clean now."""
    clean: int
    """The number of clean cases, those that were clean before included."""
    pairs: int
    """The number of clean cases that have a noisy mask too, their given one."""
    noisy: int
    """The number of cases with a noisy mask alone."""
    test: int
    rejected: int
    """The number of cases left out."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ", ".join(f"{number:,} {what}" for what, number in self.decided.items())
        pairs = f" ({count(self.pairs, 'pair')})" if self.pairs else ""
        lines = [
            f"{self.out}: {self.noisy:,} noisy, {self.clean:,} clean{pairs}, {count(self.test, 'test case')}",
            f"now clean             {sum(self.decided.values()):,}" + (f" ({parts})" if parts else ""),
            f"rejected, left out    {self.rejected:,}",
        ]
        return "\n".join([*lines, *self.notes])


_Planned = tuple[Case, Decision | None]
"""A case of the new folder, with the decision whose mask it gets; without one it keeps its file. It always keeps a given mask."""


def export_decisions(audit: Path, out: Path, *, show_progress: bool = True) -> ExportSummary:
    """Write a data folder from the decisions: images/, noisy/, clean/, test/; whole or not at all.

    Accepted and mended masks are clean: exactly the masks that were decided on, even if a file has changed since; the given mask stays in
    noisy/, and the two are a pair. Undecided and skipped cases stay noisy with their given mask; rejected ones are left out. Clean and
    test cases of the data stay as they are.

    Example:
        print(pixeltrust.export("mended", "lesions-reviewed"))

    Args:
        audit: a folder that was reviewed.
        out: a folder that does not exist or is empty. Images, and masks that stay, are hard links if the disk allows it.

    Raises:
        DataError: lists every fault of the audit and its data folder.
        RunError: `out` is in use, or cannot be written.
    """
    folder, out = Audit.read(audit), Path(out)
    require_free(out)
    data = read_cases(folder.data, needed=("noisy",), may_be_volumes=True, show_progress=show_progress)
    decisions = Decisions(folder)
    try:
        in_force = decisions.all_in_force()
        planned, notes = _plan(data, in_force)
        encode, more_notes = _choose_encoding(folder, planned, decisions, show_progress)
        with fill_folder_atomically(out) as unfinished:
            _write(planned, unfinished, decisions, encode, show_progress)
    finally:
        decisions.close()
    roles = Counter(case.role for case, _ in planned)
    decided = Counter(decision.what for _, decision in planned if decision)
    noisy = data.of("noisy").texts("id")
    return ExportSummary(
        out=out,
        decided={what: decided[what] for what in MADE_CLEAN if decided[what]},
        clean=roles["clean"],
        pairs=sum(case.given is not None for case, _ in planned),
        noisy=roles["noisy"],
        test=roles["test"],
        rejected=sum(identity in in_force and in_force[identity].what == "rejected" for identity in noisy),
        notes=(*notes, *more_notes),
    )


def _plan(data: Cases, in_force: dict[str, Decision]) -> tuple[list[_Planned], list[str]]:
    planned: list[_Planned] = []
    for case in data.cases:
        decision = in_force.get(case.id) if case.role == "noisy" else None
        if decision is None or decision.what == "skipped":
            planned.append((case, None))
        elif decision.what in MADE_CLEAN:
            planned.append((replace(case, role="clean", given=case.mask), decision))
    notes = []
    gone = set(in_force) - set(data.of("noisy").texts("id"))
    if gone:
        notes.append(f"{count(len(gone), 'decision')} on cases that are no longer noisy cases of {data.data}: not used")
    if not any(case.role == "noisy" for case, _ in planned):
        notes.append("no noisy case is left, and `pixeltrust train` needs at least one")
    if not any(case.role == "clean" for case, _ in planned):
        raise DataError(f"{data.data}: no clean case, and no mask was accepted or mended; training needs clean masks")
    return planned, notes


def _choose_encoding(
    audit: Audit, planned: list[_Planned], decisions: Decisions, show_progress: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """Return how to write labels so that all files of the folder are read alike, and notes for the user."""

    def look_at_file(mask: Path) -> tuple[MaskMeaning, bool]:
        labels, meaning = decode_labels(mask, classes=audit.classes, ignore_label=audit.ignore_label)
        return meaning, bool((labels == IGNORE).any())

    def look(planned_case: _Planned) -> list[tuple[MaskMeaning, bool]]:
        case, decision = planned_case
        of_given = [look_at_file(case.given)] if case.given else []
        if decision is None:
            return [look_at_file(case.mask), *of_given]
        assert decision.after is not None
        mask, size = decisions.mask(decision.after), read_header(case.image).size
        if mask.shape != size:  # the data have been replaced since
            now, then = ("x".join(map(str, reversed(sides))) for sides in (size, mask.shape))
            raise DataError(f"{case.image}: {now} pixels, but the mask decided on has {then}; audit and decide again")
        ignored = bool((mask == IGNORE).any())
        means_ignored = audit.classes == 1 and audit.ignore_label is None and ignored
        return [(MaskMeaning(case.mask, "ignored" if means_ignored else "absent"), ignored), *of_given]

    looked = list(chain.from_iterable(map_in_threads(look, planned, text="reading masks", complaint=_COMPLAINT, shown=show_progress)))
    faults = mixture_faults([meaning for meaning, _ in looked])
    if faults:
        raise DataError(_COMPLAINT, faults)
    values = np.arange(256, dtype=np.uint8)
    notes = []
    ignores = any(ignored for _, ignored in looked)
    if audit.ignore_label is not None:
        values[IGNORE] = audit.ignore_label
    if audit.classes == 1:
        is_one = audit.axes == 3 or (values[IGNORE] == IGNORE and (ignores or audit.ignore_label is not None))
        values[1] = 1 if is_one and audit.ignore_label != 1 else 255  # as programs have it for volumes, and for pictures
    if ignores and audit.classes == 1:
        notes.append(f"some pixels are ignored: train with --set ignore_label={values[IGNORE]}")
    return lambda labels: values[labels], notes


def _write(
    planned: list[_Planned], folder: Path, decisions: Decisions, encode: Callable[[np.ndarray], np.ndarray], show_progress: bool
) -> None:
    for name in {"images", *(case.role for case, _ in planned), *("noisy" for case, _ in planned if case.given)}:
        (folder / name).mkdir()

    def write(planned_case: _Planned) -> list[dict[str, str]]:
        case, decision = planned_case
        images = link_channels(case.image_files, folder / "images", case.id)
        if decision:
            assert decision.after is not None
            labels = encode(decisions.mask(decision.after))
            mask = folder / case.role / (f"{case.id}.png" if labels.ndim == 2 else mask_name(case.id, case.mask))
            write_labels(mask, labels, like=case.mask)
        else:
            mask = link_image(case.mask, folder / case.role, case.id)
        masks = {case.role: mask} | ({"noisy": link_image(case.given, folder / "noisy", case.id)} if case.given else {})
        of_both = {"id": case.id, "image": images[0].relative_to(folder).as_posix(), "group": case.group or ""}
        return [{**of_both, "mask": path.relative_to(folder).as_posix(), "role": role} for role, path in masks.items()]

    rows = list(chain.from_iterable(map_in_threads(write, planned, text="writing", complaint=_COMPLAINT, shown=show_progress)))
    names = (row[part] for row in rows for part in ("image", "mask"))
    needs_table = any(row["group"] or row["id"].startswith(".") for row in rows) or not all(image_suffix(Path(name)) for name in names)
    if needs_table:  # a folder alone has no groups, and skips hidden files and files without an image's ending
        write_csv(pd.DataFrame(rows)[[*COLUMNS, "group"]], folder / "cases.csv")
