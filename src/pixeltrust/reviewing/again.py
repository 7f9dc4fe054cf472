"""`pixeltrust mend --again`: the decisions of a review become pairs, menders learn from them, and the masks under review are mended anew.

AUDIT/corrected/<id>.png, .nii.gz of a volume   the mask that was decided on, for every case with an accepted or mended mask
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.auditing.folder import Audit
from pixeltrust.config import Config, batch_of_patches
from pixeltrust.data.cases import CaseList, Cases, read_cases
from pixeltrust.data.fitting import propose_patch
from pixeltrust.data.images import map_name, write_labels
from pixeltrust.mending.run import Mended, mend_cases
from pixeltrust.mending.settings import as_mender_config, chosen_settings
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
    config, chosen, notes = _settle(config, audit, cases)
    listed = CaseList.of([case for case in cases.cases if case.role == "noisy" or case.id in decided])
    notes = [*data.notes, f"{count(len(decided), 'pair')} by the decisions of this review", *notes]
    cases = replace(cases, notes=tuple(notes))
    return mend_cases(cases, listed, out=audit.folder, config=config, chosen=chosen, show_progress=show_progress)


def _settle(given: Config | Mapping[str, Any] | None, audit: Audit, cases: Cases) -> tuple[Config, dict[str, Any], list[str]]:
    """Return the settings of the menders, those of them that were given now and before, and notes."""
    before, notes = dict(audit.menders), []
    if ":" in str(before.get("model", "")) and not (isinstance(given, Config) or "model" in (given or {})):
        model = before.pop("model")  # it names code, and the folder may be somebody else's
        notes.append(f"the menders before had model = {model!r}, which is used again only where it is given again, by --set model={model}")
    chosen = before | chosen_settings(given, as_mender_config(given))
    settings: Config | dict[str, Any] = given if isinstance(given, Config) else {**before, **(given or {})}
    if audit.axes == 3 and not isinstance(settings, Config) and np.size(settings.get("image_size", 0)) != audit.axes:
        settings = {**settings, "image_size": audit.patch or propose_patch(cases)}
    config = as_mender_config(settings, clean=len(cases.of("clean")))
    if audit.axes == 3 and len(config.size) == 2:
        depth, height, width = audit.patch or propose_patch(cases)
        config = replace(config, image_size=(depth, height, width), clean_batch_size=batch_of_patches((depth, height, width)))
    return replace(config, classes=audit.classes, ignore_label=audit.ignore_label), chosen, notes


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
