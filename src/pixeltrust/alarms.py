"""Signs that a run does not learn what it should, in words: for the end of `train`, for RUN/warnings.txt and for the page of the run."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import isnan, nan
from typing import Any

MANY = 20  # steps in a row without any weight that are remarked on
_ROLES = {0: "background", 1: "foreground"}


def alarms(
    *, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]], clean: int, clean_label: int | None, classes: int
) -> dict[str, str]:
    """A sentence for each sign, by a name for it; none where all is well.

    Args:
        steps: the rows of steps.csv so far, of which `update` and `all_zero` count.
        epochs: the rows of history.csv so far, of which `epoch` and `one_label` count.
        clean: how many clean cases are trained on.
        clean_label: the label that all pixels of their masks have; None where there are several.
    """
    found = {}
    if clean_label is not None:
        found["clean"] = (
            f"the {clean:,} clean masks to train on have the label {_named(clean_label, classes)} alone: nothing else can be learned from "
            "them; are these the right files, and is `classes` right?"
        )
    alike = [epoch for epoch in epochs if not isnan(epoch.get("one_label", nan))]
    if alike:
        label = _named(int(alike[-1]["one_label"]), classes)
        found["network"] = (
            f"after {len(alike):,} of {len(epochs):,} epochs, epoch {alike[-1]['epoch']} the last of them, the network gave all pixels the "
            f"label {label}, in clean cases whose masks have others; where that stays so, try another learning_rate or more epochs, and "
            "look at the masks"
        )
    idle = max((list(run) for zero, run in groupby(steps, lambda step: bool(step["all_zero"])) if zero), key=len, default=[])
    if len(idle) >= MANY:
        found["weights"] = (
            f"in {len(idle):,} steps in a row, updates {idle[0]['update']:,} to {idle[-1]['update']:,}, no noisy pixel helped on the clean "
            "masks: all weights were 0, and the noisy masks taught nothing; are noisy and clean masks of the same kind, and values?"
        )
    return found


def _named(label: int, classes: int) -> str:
    return f"{label} ({_ROLES[label]})" if classes == 1 else str(label)
