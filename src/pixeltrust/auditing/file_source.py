"""Files of probabilities as the source of evidence: any program's softmax outputs, and helped maps where there are some.

The first pass reads and checks every file. Of a case AUDIT/.seen/<id>.npz has confusion (K, K), in shares of the pixels, and stamp (of its
files: one that has changed since is looked at again).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.auditing.folder import FAIR
from pixeltrust.auditing.scores import count_confusion
from pixeltrust.auditing.seen import Arrays, SeenFolder
from pixeltrust.auditing.source import Evidence
from pixeltrust.config import Config
from pixeltrust.data.cases import Case, CaseList, Cases
from pixeltrust.data.fitting import threads_for
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.masks import decode_labels
from pixeltrust.data.probabilities import ProbabilityFiles, check_grid
from pixeltrust.data.resizing import resize_labels, resize_plane
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import stamp
from pixeltrust.plumbing.processes import Ranks, connect
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.text import count
from pixeltrust.training.helped_maps import fingerprint, read_helped_file


class FileSource:
    """The evidence in files (see `source.Source`).

    Args:
        probabilities: a folder, see `data.probabilities`.
        helped: a folder of helped maps: <id>.png, of volumes <id>.nii.gz, as a run has them; or <id>.npy, as `Trust.write_maps` has them
            of volumes. Those of other programs have no fingerprint of their mask.
        classes: as in `Config`.
        ignore_label: as in `Config`.

    Raises:
        DataError: a folder is missing, or holds nothing of the kind, or two files for the same.
        ConfigError: `classes` or `ignore_label` is invalid.
    """

    alone = "probabilities"
    patch: tuple[int, ...] = ()

    def __init__(self, probabilities: Path, helped: Path | None, *, classes: int, ignore_label: int | None) -> None:
        Config(classes=classes, ignore_label=ignore_label)  # checks them
        self.classes, self.ignore_label = classes, ignore_label
        self._probabilities, self._folder = ProbabilityFiles(probabilities, classes=classes), helped
        self._maps: dict[str, Path] = {}
        if helped is not None:
            listing = files_by_id(helped)
            if listing.faults:
                raise DataError(f"{helped}: helped maps that cannot be told apart", listing.faults)
            self._maps = {path.stem: path for path in sorted(helped.glob("*.npy"))} | listing.files

    def choose_pairs(self, pairs: CaseList, /) -> CaseList:
        """Return the pairs that have probabilities."""
        return pairs[np.array([bool(self._probabilities.files(identity)) for identity in pairs.texts("id")], bool)]

    def has_not_learned(self, pairs: CaseList, /) -> np.ndarray:
        """Return all: that the probabilities are of masks not learned is the user's word."""
        return np.ones(len(pairs), bool)

    def refuse_unlike(self, _cases: Cases, /) -> None:
        """Take pictures and volumes."""

    def connect(self, noisy: CaseList, pairs: CaseList, /) -> Ranks:
        """Check that all noisy cases have probabilities; return the processes that share the work.

        Raises:
            DataError: names the cases without; or there is no helped map of any of these cases.
        """
        _, ranks = connect("cpu")
        self._probabilities.require(noisy, pairs.texts("id"))
        self._having_maps = sum(identity in self._maps for identity in noisy.texts("id"))
        if self._folder is not None and not self._having_maps:
            hint = f"; is {self._folder / 'helped'} meant?" if (self._folder / "helped").is_dir() else ""
            raise DataError(f"{self._folder}: no helped map, <id>.png, of any of the noisy masks{hint}")
        self._cases = len(noisy)
        return ranks

    def describe(self) -> dict[str, Any]:
        """Return the folders."""
        return {
            "probabilities": str(self._probabilities.folder.resolve()),
            "helped": "" if self._folder is None else str(self._folder.resolve()),
            "channels": 3,
        }

    def inputs(self) -> dict[str, object]:
        """Return the folders and what the values of masks mean."""
        return self.describe() | {"classes": self.classes, "ignore_label": self.ignore_label}

    def notes(self) -> list[str]:
        """Return what makes the verdict fair, and what was not read."""
        without = self._cases - self._having_maps
        notes = [f"{self._folder}: no helped map of {count(without, 'mask')}"] if self._folder is not None and without else []
        return [FAIR, *self._probabilities.notes, *notes]

    # --- the first pass: every file is checked ----------------------------------------------------------------------

    def has_seen(self, case: Case, seen: SeenFolder) -> bool:
        """Return whether a case was looked at, and its files are still the same."""
        return seen.file(case).is_file() and seen.read(case, lambda arrays: str(arrays["stamp"])) == self._stamp(case)

    def look(self, cases: Sequence[Case], faults: dict[str, str], *, show_progress: bool) -> Iterator[tuple[Case, Arrays]]:
        """Yield every case with its confusion."""
        threads = threads_for(cases, self.classes)
        for case, outcome in attempt_in_threads(self._look, cases, text="looking", shown=show_progress, threads=threads):
            if isinstance(outcome, PixeltrustError):
                faults[case.id] = outcome.fault
            else:
                yield case, outcome

    def _look(self, case: Case) -> Arrays:
        stamped = self._stamp(case)
        labels, _ = decode_labels(case.mask, classes=self.classes, ignore_label=self.ignore_label)
        self._helped(case, labels)
        return {"confusion": count_confusion(labels, self._read(case, labels)) / labels.size, "stamp": np.array(stamped)}

    # --- the second pass --------------------------------------------------------------------------------------------

    def confusion(self, case: Case, _: np.ndarray, seen: SeenFolder, /) -> np.ndarray:
        """Return the confusion of a case, as it was looked at."""
        size = max(self.classes, 2)
        return seen.read(case, lambda arrays: arrays["confusion"].reshape(size, size).astype(np.float64))

    def evidence(self, case: Case, labels: np.ndarray, seen: SeenFolder) -> Evidence:
        """Return the probabilities and the shares of the helped map.

        Raises:
            DataError: a file has changed since it was looked at.
        """
        if not self.has_seen(case, seen):
            raise DataError(f"{case.mask}: it, or what it is judged by, has changed since this audit looked at it; continue with --resume")
        helped, origin = self._helped(case, labels)
        return Evidence(self._read(case, labels), helped, origin)

    def _read(self, case: Case, labels: np.ndarray) -> np.ndarray:
        return _on_grid(self._probabilities.read(case, labels.shape), labels.shape)

    def _helped(self, case: Case, labels: np.ndarray) -> tuple[np.ndarray | None, str]:
        """Return the shares at the size of the mask, where there is a map of it, and the origin of the evidence in words."""
        if (path := self._maps.get(case.id)) is None:
            return None, "probabilities"
        learned = read_helped_file(path)
        if learned.mask is None:
            check_grid(path, learned.shares.shape, labels.shape)
            origin = "probabilities and a helped map without its mask's fingerprint"
        elif learned.mask == fingerprint(labels if labels.ndim == 3 else resize_labels(labels, learned.shares.shape)):
            origin = "probabilities and training"
        else:
            return None, "probabilities alone, as the helped map is of another mask"
        return _on_grid(learned.shares[None], labels.shape)[0], origin

    def _stamp(self, case: Case) -> str:
        return stamp(case.mask, *self._probabilities.files(case.id), self._maps.get(case.id, case.mask))


def _on_grid(planes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return planes (K, *S) on the grid of a mask of this shape."""
    if len(shape) == 2:
        return np.stack([resize_plane(plane, (shape[0], shape[1])) for plane in planes])
    if planes.shape[1:] == shape:
        return planes
    from pixeltrust.data.resampling import resample  # imported here: it loads torch

    return np.stack([resample(plane[None], shape)[0] for plane in planes])
