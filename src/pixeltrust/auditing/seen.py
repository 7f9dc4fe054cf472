"""The first pass of an audit: what the network sees of every case, kept in AUDIT/.seen on the grid of training until the audit is done.

AUDIT/.seen/  of.json (run, data, settings)  lock  <id>.npz: probabilities float16 (K or 1, h, w), helped float16 (h, w) where the
              clean set was asked, mask (the fingerprint of the labels that were looked at)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixeltrust.auditing.evidence import CleanSet
from pixeltrust.config import Config
from pixeltrust.data.cases import Case
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.files import write_atomically
from pixeltrust.plumbing.text import one_line
from pixeltrust.prediction.network import Network, to_tensor
from pixeltrust.training.helped_maps import fingerprint

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class DecodedCase:
    """A case on the grid of training."""

    case: Case
    picture: np.ndarray
    labels: np.ndarray
    has_helped_map: bool
    """True where the run has a helped map of this very mask."""


@dataclass(frozen=True, eq=False)
class SeenCase:
    """A case as the first pass has kept it, on the grid of training."""

    probabilities: np.ndarray
    """float32 (K, h, w), K ≥ 2."""
    helped: np.ndarray | None
    """The shares (h, w) by the clean set, where training has not seen the mask."""
    mask: str
    """The fingerprint of the labels that were looked at."""


class SeenFolder:
    """The folder AUDIT/.seen."""

    def __init__(self, audit: Path, config: Config) -> None:
        self.folder, self._config = audit / ".seen", config

    def file(self, case: Case) -> Path:
        """Return where a case is kept."""
        return self.folder / f"{case.id}.npz"

    def write(self, case: Case, arrays: Arrays) -> None:
        """Keep a case."""
        with write_atomically(self.file(case)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def read(self, case: Case) -> SeenCase:
        """Return a case that was kept.

        Raises:
            RunError: its file is broken, or has other shapes than the run's.
        """
        file, size = self.file(case), self._config.size
        try:
            with np.load(file, allow_pickle=False) as arrays:
                probabilities = arrays["probabilities"].astype(np.float32)
                helped = arrays["helped"].astype(np.float32) if "helped" in arrays else None
                mask = str(arrays["mask"])
            shapes = probabilities.shape, size if helped is None else helped.shape
            if shapes != ((self._config.classes, *size), size):
                raise ValueError(f"its shapes {shapes} are not those of {self._config.classes} classes at {size}")
        except Exception as error:  # a broken file makes its reader raise anything
            raise RunError(f"{file}: cannot be read: {one_line(error)}; remove it, and continue with --resume") from None
        if len(probabilities) == 1:
            probabilities = np.concatenate([1 - probabilities, probabilities])
        return SeenCase(probabilities, helped, mask)


def look_at(
    decoded: Iterable[tuple[Case, DecodedCase | PixeltrustError]], network: Network, clean: CleanSet | None, faults: dict[str, str]
) -> Iterator[tuple[Case, Arrays]]:
    """Yield every case that could be decoded with its arrays, see the top of this file; add what is wrong with the others to `faults`."""
    waiting: list[DecodedCase] = []
    for case, outcome in decoded:
        if isinstance(outcome, PixeltrustError):
            faults[case.id] = str(outcome)
            continue
        waiting.append(outcome)
        if len(waiting) == network.batch_size:
            yield from _look_at_batch(waiting, network, clean)
            waiting = []
    if waiting:
        yield from _look_at_batch(waiting, network, clean)


def _look_at_batch(batch: Sequence[DecodedCase], network: Network, clean: CleanSet | None) -> Iterator[tuple[Case, Arrays]]:
    planes = network.probabilities_over_turns([decoded.picture for decoded in batch]).astype(np.float16)
    seen = [{"probabilities": plane, "mask": np.array(fingerprint(decoded.labels))} for plane, decoded in zip(planes, batch, strict=True)]
    new = [place for place, decoded in enumerate(batch) if not decoded.has_helped_map]
    if clean is not None and new:
        images = to_tensor([batch[place].picture for place in new]).to(network.device)
        for place, shares in zip(new, clean.helped(images, np.stack([batch[place].labels for place in new])), strict=True):
            seen[place]["helped"] = shares.astype(np.float16)
    for decoded, arrays in zip(batch, seen, strict=True):
        yield decoded.case, arrays
