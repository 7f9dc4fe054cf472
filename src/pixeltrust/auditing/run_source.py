"""A run as the source of evidence: its network, and what training or the clean set says of every mask.

Of every case AUDIT/.seen/<id>.npz has, on the grid of training (*S, see `data.fitting`): probabilities float16 (K or 1, *S), helped float16
(*S) where the clean set was asked, mask (the fingerprint of the labels that were looked at).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pixeltrust.auditing.evidence import CleanSet, clean_set_of
from pixeltrust.auditing.scores import count_confusion
from pixeltrust.auditing.seen import Arrays, SeenFolder
from pixeltrust.auditing.source import Evidence
from pixeltrust.config import patch_of
from pixeltrust.data.cases import Case, CaseList, Cases
from pixeltrust.data.fitting import fit_image, fit_labels, read_spacing, restore, threads_for, to_floats
from pixeltrust.data.masks import decode_labels
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device, read_network
from pixeltrust.training.helped_maps import fingerprint, has_helped_maps, read_helped_map
from pixeltrust.training.run_folder import Run

ENOUGH_UNSEEN = 50  # pairs that training has not seen: with so many the others are left out


@dataclass(frozen=True, eq=False)
class DecodedCase:
    """A case on the grid of training."""

    case: Case
    image: np.ndarray
    """(C, *S)."""
    labels: np.ndarray
    has_helped_map: bool
    """True where the run has a helped map of this very mask."""


@dataclass(frozen=True, eq=False)
class SeenCase:
    """A case as the first pass has kept it, on the grid of training."""

    probabilities: np.ndarray
    """float32 (K, *S), K ≥ 2."""
    helped: np.ndarray | None
    """The shares (*S) by the clean set, where training has not seen the mask."""
    mask: str
    """The fingerprint of the labels that were looked at."""


class RunSource:
    """The evidence of a run (see `source.Source`).

    Args:
        weights: `last`, or `best` by the held-out clean cases.
        batch_size: images in one pass; the run's where not given.

    Raises:
        RunError: it is not a run folder or has not finished.
        ConfigError: `weights` is invalid.
    """

    alone = "network"

    def __init__(self, run: Run, weights: str, batch_size: int | None) -> None:
        self._run, self._weights, self._batch_size = run, weights, batch_size
        self._config, self._model, self._notes = read_network(run, weights)
        self.classes, self.ignore_label, self.patch = self._config.classes, self._config.ignore_label, patch_of(self._config)

    def refuse_unlike(self, cases: Cases, /) -> None:
        """Raise where the run was trained on pictures and these are volumes, or the other way round."""
        if cases.volumes != bool(self.patch):
            kinds = ("volumes", "pictures") if cases.volumes else ("pictures", "volumes")
            raise DataError(f"{cases.data}: holds {kinds[0]}, and {self._run.folder} was trained on {kinds[1]}")

    def choose_pairs(self, pairs: CaseList, /) -> CaseList:
        """Return the pairs of which the network has not learned the clean mask, where they are enough; else all."""
        unseen = self.has_not_learned(pairs)
        if unseen.sum() >= ENOUGH_UNSEEN:
            return pairs[unseen]
        if not unseen.all():
            self._notes.append(
                f"{(~unseen).sum():,} of {count(len(pairs), 'pair')} trained the network, so it may know them better than other cases"
            )
        return pairs

    def has_not_learned(self, pairs: CaseList, /) -> np.ndarray:
        """Return which pairs, bool (N,), have not trained the network with their clean mask; nor has another case of their group."""
        table = self._run.read_table("cases.csv")
        learned = table[(table["role"] == "clean") & (table["held_out"].astype(str) != "True")]
        ids, groups = (set(learned[name].astype(str)) - {""} if name in learned else set() for name in ("id", "group"))
        return ~(pairs.texts("id").isin(ids) | pairs.texts("group").isin(groups)).to_numpy(bool)

    def connect(self, _noisy: CaseList, _pairs: CaseList, /) -> Ranks:
        """Put the network on its device; return the processes that share the work.

        Raises:
            ConfigError: the batch size is invalid, or the network does not fit the settings.
        """
        device, ranks, moved = choose_device(self._config)
        self._network = Network(device, self._model, self._config, self._batch_size)
        self._notes += moved
        return ranks

    def describe(self) -> dict[str, Any]:
        """Return the run, its weights and the channels of its images."""
        return {"run": str(self._run.folder.resolve()), "weights": self._weights, "channels": self._config.channels}

    def inputs(self) -> dict[str, object]:
        """Return the run, a fingerprint of its weights, and whether it has helped maps."""
        return {
            "run": str(self._run.folder.resolve()),
            "weights": f"{self._weights} ({self._run.fingerprint(self._weights)})",
            "helped maps": has_helped_maps(self._run),
        }

    def notes(self) -> list[str]:
        """Return what there is to say of the run, its device and its helped maps."""
        notes, folder = list(self._notes), self._run.folder
        if not self._run.finished():
            notes.append(f"{folder}: its helped maps are written at its end, so only the clean set was used")
        elif not has_helped_maps(self._run):
            notes.append(f"{folder}: its method leaves no helped maps (trust, pixel and image do)")
        return notes

    # --- the first pass: the network looks --------------------------------------------------------------------------

    def has_seen(self, case: Case, seen: SeenFolder) -> bool:
        """Return whether the network has looked at a case."""
        return seen.file(case).is_file()

    def look(self, cases: Sequence[Case], faults: dict[str, str], *, show_progress: bool) -> Iterator[tuple[Case, Arrays]]:
        """Yield every case with the network's probabilities, and with the clean set's shares for a mask unseen in training."""
        clean, without = clean_set_of(self._run, self._network)
        self._notes += without
        decoded = attempt_in_threads(self._decode, cases, text="looking", shown=show_progress, threads=threads_for(cases, self.classes))
        yield from _look_at(decoded, self._network, clean, faults)

    def _decode(self, case: Case) -> DecodedCase:
        labels = decode_labels(case.mask, classes=self.classes, ignore_label=self.ignore_label)[0]
        fitted, image = self._fit(case, labels), fit_image(case, self._config)
        return DecodedCase(case, image, fitted, has_helped_map=self._learned(case, labels, fitted) is not None)

    def _fit(self, case: Case, labels: np.ndarray) -> np.ndarray:
        return fit_labels(labels, read_spacing(case, self._config), self._config)

    def _learned(self, case: Case, labels: np.ndarray, fitted: np.ndarray) -> np.ndarray | None:
        """Return what training has learned about this mask, on its own grid; None where it is nothing."""
        learned = read_helped_map(self._run, case.id, fitted if labels.ndim == 2 else labels)
        return learned if learned is None or labels.ndim == 3 else self._restore(case, learned[None], labels)[0]

    def _restore(self, case: Case, planes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return restore(planes, labels.shape, read_spacing(case, self._config), self._config)

    # --- the second pass --------------------------------------------------------------------------------------------

    def confusion(self, case: Case, labels: np.ndarray, seen: SeenFolder, /) -> np.ndarray:
        """Return the confusion of a case, on the grid of training."""
        return count_confusion(self._fit(case, labels), seen.read(case, self._parse).probabilities)

    def evidence(self, case: Case, labels: np.ndarray, seen: SeenFolder) -> Evidence:
        """Return what the network saw, with the helped map of training or the shares of the clean set.

        Raises:
            DataError: the mask has changed since the network looked at the case.
        """
        fitted, kept = self._fit(case, labels), seen.read(case, self._parse)
        if kept.mask != fingerprint(fitted):
            again = f"remove {seen.file(case)}, and continue with --resume"
            raise DataError(f"{case.mask}: has changed since this audit looked at it; {again}")
        helped = learned = self._learned(case, labels, fitted)
        if learned is None and kept.helped is not None:
            helped = self._restore(case, kept.helped[None], labels)[0]
        origin = "network and training" if learned is not None else "network" if helped is None else "network and clean set"
        return Evidence(self._restore(case, kept.probabilities, labels), helped, origin)

    def _parse(self, arrays: Mapping[str, np.ndarray]) -> SeenCase:
        probabilities = arrays["probabilities"].astype(np.float32)
        helped = arrays["helped"].astype(np.float32) if "helped" in arrays else None
        size = self._config.size
        seen = probabilities.shape[1:] if self.patch else size
        shapes = probabilities.shape, seen if helped is None else helped.shape
        if shapes != ((self.classes, *seen), seen) or len(seen) != len(size):
            raise ValueError(f"its shapes {shapes} are not those of {count(self.classes, 'class', 'classes')} at {size}")
        if len(probabilities) == 1:
            probabilities = np.concatenate([1 - probabilities, probabilities])
        return SeenCase(probabilities, helped, str(arrays["mask"]))


def _look_at(
    decoded: Iterable[tuple[Case, DecodedCase | PixeltrustError]], network: Network, clean: CleanSet | None, faults: dict[str, str]
) -> Iterator[tuple[Case, Arrays]]:
    """Yield every case that could be decoded with its arrays, see the top of this file; add what is wrong with the others to `faults`."""
    waiting: list[DecodedCase] = []
    for case, outcome in decoded:
        if isinstance(outcome, PixeltrustError):
            faults[case.id] = outcome.fault
            continue
        if waiting and (len(waiting) == network.batch_size or waiting[0].labels.shape != outcome.labels.shape):
            yield from _look_at_batch(waiting, network, clean)
            waiting = []
        waiting.append(outcome)
    if waiting:
        yield from _look_at_batch(waiting, network, clean)


def _look_at_batch(batch: Sequence[DecodedCase], network: Network, clean: CleanSet | None) -> Iterator[tuple[Case, Arrays]]:
    planes = network.probabilities_over_turns([decoded.image for decoded in batch]).astype(np.float16)
    seen = [{"probabilities": plane, "mask": np.array(fingerprint(decoded.labels))} for plane, decoded in zip(planes, batch, strict=True)]
    new = [place for place, decoded in enumerate(batch) if not decoded.has_helped_map]
    if clean is not None and new:
        images = to_floats(torch.from_numpy(np.stack([batch[place].image for place in new])))
        for place, shares in zip(new, clean.helped(images, np.stack([batch[place].labels for place in new])), strict=True):
            seen[place]["helped"] = shares.astype(np.float16)
    for decoded, arrays in zip(batch, seen, strict=True):
        yield decoded.case, arrays
