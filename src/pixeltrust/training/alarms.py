"""Signs that a run does not learn what it should, in words: for the end of `train`, for RUN/warnings.txt and for the page of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from pixeltrust.plumbing.labels import IGNORE

MANY = 20  # steps in a row without any weight that are remarked on
_ROLES = {0: "background", 1: "foreground", IGNORE: "ignored"}


@dataclass
class Idle:
    """The steps in which all weights were 0, by their updates."""

    steps: int = 0
    """How many there were."""
    since: int = 0
    """The first of those in a row that the last step is in; 0 where it is in none."""
    first: int = 0
    """Of the longest row so far."""
    last: int = -1
    """Likewise."""

    def count(self, update: int, *, all_zero: bool) -> None:
        """One more step."""
        self.steps += all_zero
        self.since = (self.since or update) if all_zero else 0
        if all_zero and update - self.since > self.last - self.first:
            self.first, self.last = self.since, update

    @property
    def longest(self) -> int:
        """Steps of the longest row."""
        return self.last - self.first + 1


def alarms(*, idle: Idle, epochs: Sequence[Mapping[str, Any]], clean: int, clean_label: int | None, classes: int) -> dict[str, str]:
    """A sentence for each sign, by a name for it; none where all is well.

    Args:
        idle: the steps so far without any weight.
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
    if idle.longest >= MANY:
        found["weights"] = (
            f"in {idle.longest:,} steps in a row, updates {idle.first:,} to {idle.last:,}, no noisy pixel helped on the clean "
            "masks: all weights were 0, and the noisy masks taught nothing; are noisy and clean masks of the same kind, and values?"
        )
    return found


def _named(label: int, classes: int) -> str:
    return f"{label} ({_ROLES[label]})" if classes == 1 or label == IGNORE else str(label)
