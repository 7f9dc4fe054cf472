"""`pixeltrust mend --again`: the decisions of a review become pairs, menders learn from them, and the masks under review are mended anew.

AUDIT/corrected/<id>.png, .nii.gz of a volume   the mask that was decided on, for every case with an accepted or mended mask
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.auditing.folder import Audit
from pixeltrust.config import Config, to_values
from pixeltrust.data.cases import CaseList, Cases, read_cases
from pixeltrust.data.fitting import propose_patch
from pixeltrust.data.images import map_name, write_labels
from pixeltrust.mending.run import Mended, mend_cases
from pixeltrust.mending.settings import as_mender_config
from pixeltrust.plumbing.files import make_folder
from pixeltrust.plumbing.text import count
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.exports import MADE_CLEAN


def mend_again(folder: Path, *, config: Config | Mapping[str, Any] | None = None, show_progress: bool = True) -> Mended:
    """Mend the masks of a folder under review anew, with its decisions as further pairs; the decisions stay.

    Args:
        folder: one that `pixeltrust review DATA`, `pixeltrust mend` or `pixeltrust audit` has made.
        config: the settings of the menders, as a Config or a mapping of some, over those that the mending before was given; classes,
            ignore_label and channels are those of the folder. Of volumes the patches are, where `image_size` is for pictures, those of
            the mending before, or of about the size of the volumes.
        show_progress: progress bars on standard error.

    Raises:
        RunError: the folder is not an audit, or another process mends in it.
        DataError: the data have faults, or there are too few pairs.
    """
    audit = Audit.read(folder)
    data = read_cases(audit.data, needed=("noisy",), may_be_volumes=True, show_progress=show_progress)
    cases, decided = _with_decisions(audit, data)
    settings = to_values(config) if isinstance(config, Config) else {**audit.menders, **(config or {})}
    if audit.axes == 3 and np.ndim(settings.get("image_size", 0)) == 0:
        settings["image_size"] = audit.patch or propose_patch(data)
    settings |= {"classes": audit.classes, **({} if audit.ignore_label is None else {"ignore_label": audit.ignore_label})}
    config = as_mender_config(settings, clean=len(cases.of("clean")))
    listed = CaseList.of([case for case in cases.cases if case.role == "noisy" or case.id in decided])
    notes = (*data.notes, f"{count(len(decided), 'pair')} by the decisions of this review")
    return mend_cases(replace(cases, notes=notes), listed, out=audit.folder, config=config, show_progress=show_progress)


def _with_decisions(audit: Audit, data: Cases) -> tuple[Cases, set[str]]:
    """Return the data in which every accepted or mended case is a pair, and the ids of those."""
    corrected, made = audit.folder / "corrected", {}
    make_folder(corrected)
    decisions = Decisions(audit)
    try:
        masks = {case.id: case.mask for case in data.of("noisy")}
        for identity, decision in decisions.all_in_force().items():
            if decision.what in MADE_CLEAN and decision.after is not None and identity in masks:
                labels = decisions.mask(decision.after)
                file = corrected / map_name(identity, labels.ndim)
                write_labels(file, labels, like=masks[identity])
                made[identity] = file
    finally:
        decisions.close()
    cases = [
        replace(case, mask=made[case.id], role="clean", given=case.mask) if case.role == "noisy" and case.id in made else case
        for case in data.cases
    ]
    return replace(data, cases=CaseList.of(cases)), {case.id for case in cases if case.id in made and case.role == "clean"}
