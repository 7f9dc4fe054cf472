"""Signs that a run does not learn what it should, as sentences: for the end of `train`, RUN/warnings.txt and the page of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from pixeltrust.plumbing.labels import IGNORE

MANY = 20  # steps in a row with all weights 0 that are warned of
_ROLES = {0: "background", 1: "foreground", IGNORE: "ignored"}


@dataclass
class Idle:
    """A count of the steps in which all weights were 0."""

    steps: int = 0
    """How many."""
    since: int = 0
    """The update at which the present row of them began; 0 where the last step is not one."""
    first: int = 0
    """The update at which the longest row began."""
    last: int = -1
    """The update at which it ended."""

    def count(self, update: int, *, all_zero: bool) -> None:
        """Count one more step."""
        self.steps += all_zero
        self.since = (self.since or update) if all_zero else 0
        if all_zero and update - self.since > self.last - self.first:
            self.first, self.last = self.since, update

    @property
    def longest(self) -> int:
        """The number of steps in the longest row."""
        return self.last - self.first + 1


def warning_signs(*, idle: Idle, epochs: Sequence[Mapping[str, Any]], clean: int, clean_label: int | None, classes: int) -> dict[str, str]:
    """Return a sentence for each sign, by a name for it; nothing where all is well.

    Args:
        idle: the steps so far in which all weights were 0.
        epochs: the rows of history.csv so far; `epoch` and `one_label` count.
        clean: the number of clean cases that are trained on.
        clean_label: the label that all pixels of their masks have; None where there are several.
    """
    found = {}
    if clean_label is not None:
        found["clean"] = (
            f"the {clean:,} clean masks to train on have the label {_named(clean_label, classes)} alone: nothing else can be learned from "
            "them; are these the right files, and is `classes` right?"
        )
    uniform = [epoch for epoch in epochs if not isnan(epoch.get("one_label", nan))]
    if uniform:
        label = _named(int(uniform[-1]["one_label"]), classes)
        found["network"] = (
            f"after {len(uniform):,} of {len(epochs):,} epochs, epoch {uniform[-1]['epoch']} the last of them, the network gave all pixels "
            f"the label {label}, in clean cases whose masks have others; if that continues, try another learning_rate or more epochs, and "
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
