"""What a source of evidence is: what judges the masks of an audit (`run_source`: a run; `file_source`: files of probabilities)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pixeltrust.auditing.seen import Arrays, SeenFolder
from pixeltrust.data.cases import Case, CaseList, Cases
from pixeltrust.plumbing.processes import Ranks


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a mask, at its own size."""

    probabilities: np.ndarray
    """float32 (K, *S), K ≥ 2, that sum to 1; *S is (H, W) or (D, H, W)."""
    helped: np.ndarray | None
    """The shares float32 (*S) of visits, or of clean batches, in which a pixel helped; None where they are not known."""
    origin: str
    """Where it is from, in words."""


class Source(Protocol):
    """The evidence on the noisy masks of an audit. Each process has its own; what one has seen of a case, all read."""

    classes: int
    ignore_label: int | None
    alone: str
    """What it is in words, where nothing of training comes with it."""
    patch: tuple[int, ...]
    """The size of the patches of volumes that it was trained in, where that is known."""

    def refuse_unlike(self, cases: Cases, /) -> None:
        """Raise DataError where it cannot judge such cases."""

    def choose_pairs(self, pairs: CaseList, /) -> CaseList:
        """Return the pairs that show best how good it is."""

    def has_not_learned(self, pairs: CaseList, /) -> np.ndarray:
        """Return of which pairs, bool (N,), it knows the clean mask no better than those of other cases."""

    def connect(self, noisy: CaseList, pairs: CaseList, /) -> Ranks:
        """Get ready for these cases; return the processes that share the work."""

    def describe(self) -> dict[str, Any]:
        """Return the values of `AuditRecord` that are about the source."""

    def inputs(self) -> dict[str, object]:
        """Return what must be the same where a stopped audit is continued."""

    def has_seen(self, case: Case, seen: SeenFolder) -> bool:
        """Return whether the first pass has looked at a case."""

    def look(self, cases: Sequence[Case], faults: dict[str, str], *, show_progress: bool) -> Iterator[tuple[Case, Arrays]]:
        """Yield every case with what is kept of it; add what is wrong with those that cannot be used to `faults`, by id."""

    def confusion(self, case: Case, labels: np.ndarray, seen: SeenFolder, /) -> np.ndarray:
        """Return the confusion (K true, K given) of a case with these labels uint8 (*S); see `scores`."""

    def evidence(self, case: Case, labels: np.ndarray, seen: SeenFolder) -> Evidence:
        """Return what is known of a case with these labels.

        Raises:
            DataError: what it was when it was looked at has changed.
        """

    def notes(self) -> list[str]:
        """Return what the user should know, when all masks are judged."""
