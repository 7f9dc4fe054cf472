"""Menders: networks that see an image and the mask given for it. They are cross-fitted, so that every pair is judged by some that have not
seen it.

    FOLDER/1/ … FOLDER/<folds>/       run folders (see `training.run_folder`)
    FOLDER/1.csv … FOLDER/<folds>.csv   the clean cases that each is trained on

Every mender is trained on all clean cases but those of its fold, and of their groups. Other masks are judged by all of them together: each
sees another of the flips and turns, and their probabilities are averaged.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pixeltrust.config import Config
from pixeltrust.data.cases import Case, Cases, table_of
from pixeltrust.data.fitting import Crop, crop_around, fit_image, fit_labels, read_spacing, restore, threads_for
from pixeltrust.data.folds import assign_folds, name_groups
from pixeltrust.data.masks import read_mask
from pixeltrust.mending.ways import in_two
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import make_folder
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.progress import attempt_in_threads, map_in_threads
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device, read_network
from pixeltrust.training.models import lay_out
from pixeltrust.training.run_folder import CACHE, Run
from pixeltrust.training.train import train

FOLDS = 4
CROPS = (1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Of which `choose_crop` takes one."""
_LOST = 0.02  # of the pairs' true foreground, at most, may be outside of what menders see
VIEWS = 4  # flips and turns of a mask that all menders see together; twice as many make masks no better (docs/lab.md)
Tick = Callable[[int, int], None]
"""Is told the number of the mender, from 1, and the number of its updates so far."""


def choose_crop(config: Config, cases: Cases, *, show_progress: bool = False) -> Config:
    """Return the settings with `crop_around_given`, where it is unset, for pictures: the least of `CROPS` that holds the clean masks of the
    pairs, all but two percent of their foreground in the mean; 0, the whole picture, where none does.

    Raises:
        DataError: masks that cannot be read.
    """
    if config.crop_around_given is not None or len(config.size) == 3:
        return config
    of_each = [replace(config, crop_around_given=crop) for crop in CROPS]

    def lost(case: Case) -> list[float]:
        given, clean = read_mask(noisy_mask(case), config), read_mask(case.mask, config)
        foreground = is_foreground(clean)
        shown = [foreground[crop_around(given, one) or ...].sum() for one in of_each]
        return [1 - float(pixels) / foreground.sum() if foreground.any() else 0.0 for pixels in shown]

    complaint = f"{cases.data}: pairs that cannot be used"
    shares = np.mean(map_in_threads(lost, cases.pairs, text="reading pairs", complaint=complaint, shown=show_progress), axis=0)
    return replace(config, crop_around_given=next((crop for crop, share in zip(CROPS, shares, strict=True) if share <= _LOST), 0.0))


class Menders:
    """The menders of some pairs.

    Args:
        cases: the data; its pairs, and its clean cases without a noisy mask, are trained on.
        folder: where the run folders are.
        config: the settings of every mender's training.
    """

    def __init__(self, cases: Cases, folder: Path, config: Config) -> None:
        self.folder, self.config, self.clean = folder, config, cases.of("clean")
        groups = name_groups(self.clean.texts("id"), self.clean.texts("group"))
        self.groups = [group for group, given in zip(groups, self.clean.numbers("given"), strict=True) if given >= 0]
        """The group of every pair."""
        self.count = min(FOLDS, len(set(self.groups)))
        self.folds = assign_folds(self.groups, config.seed, self.count)
        """The fold of every pair, from 0."""
        fold_of = dict(zip(self.groups, self.folds.tolist(), strict=True))
        self.updates = config.epochs * (config.updates_per_epoch or 1)
        """Of each mender."""
        self._fold_of_clean = np.array([fold_of.get(group, -1) for group in groups])

    def train(self, tick: Tick, ranks: Ranks = ALONE) -> None:
        """Train what is not trained yet."""
        ranks.on_rank_0(lambda: make_folder(self.folder))
        for number in range(1, self.count + 1):
            table = self.folder / f"{number}.csv"
            learned = self.clean[self._fold_of_clean != number - 1]
            ranks.on_rank_0(lambda: write_csv(table_of(learned, pairs=True).drop(columns="held_out"), table))  # noqa: B023
            train(table, out=self._run(number), config=self.config, watch=_watch(tick, number), resume=True, show_progress=False)
            shutil.rmtree(self._run(number) / CACHE, ignore_errors=True)

    def slim(self) -> None:
        """Remove what only a training that goes on needs."""
        for number in range(1, self.count + 1):
            with suppress(OSError):
                (self._run(number) / "checkpoint.pt").unlink()

    def load(self) -> list[Network]:
        """Return the trained networks, each on its device."""
        networks = []
        for number in range(1, self.count + 1):
            config, model, _ = read_network(Run(self._run(number)), "last")
            device, _, _ = choose_device(config)
            networks.append(Network(device, lay_out(model, len(config.size), device), config))
        return networks

    def _run(self, number: int) -> Path:
        return self.folder / str(number)


@dataclass(frozen=True, eq=False)
class Looked:
    """A case that menders have looked at, on the grid of their training."""

    place: int
    """Its place among the cases that were to be looked at, of which some may not be readable."""
    labels: np.ndarray
    """The given mask, uint8 (*S); 255 ignored."""
    probabilities: np.ndarray
    """float16 (K or 1, *S): the mean of the networks'."""
    of_each: np.ndarray
    """float32 (N, K or 1, *S): those of each network."""


def share_turns(turns: Sequence[int], networks: int) -> list[Sequence[int]]:
    """Return the flips and turns that each of several networks is to see: others, `VIEWS` together where there are as many."""
    return [turns[number::networks][: max(1, VIEWS // networks)] or turns[:1] for number in range(networks)]


def look(
    networks: Sequence[Network],
    cases: Sequence[Case],
    *,
    turns: Sequence[Sequence[int]],
    known: bool,
    text: str,
    show_progress: bool,
) -> Iterator[Looked]:
    """Let networks look at cases together; those that cannot be read are left out until the end.

    Args:
        turns: the flips and turns that each network sees.
        known: show the noisy masks too, and not the images alone.
        text: the work, as the progress bar names it.

    Raises:
        DataError: files that cannot be read, after all others were looked at.
    """
    config, faults = networks[0].config, []

    def decode(case: Case) -> tuple[np.ndarray, np.ndarray]:
        labels, crop = fit_given(case, config, known=known)
        return fit_image(case, config, crop), labels

    most = networks[0].batch_size * math.prod(config.size)  # pixels in a batch, unless a single volume has more
    waiting: list[tuple[int, np.ndarray, np.ndarray]] = []
    threads = threads_for(cases, config.classes)
    for place, (_, decoded) in enumerate(attempt_in_threads(decode, cases, text=text, shown=show_progress, threads=threads)):
        if isinstance(decoded, PixeltrustError):
            faults.append(decoded.fault)
            continue
        if waiting and ((len(waiting) + 1) * decoded[1].size > most or waiting[0][2].shape != decoded[1].shape):
            yield from _look_at(networks, waiting, turns, known)
            waiting = []
        waiting.append((place, *decoded))
    if waiting:
        yield from _look_at(networks, waiting, turns, known)
    if faults:
        raise DataError(f"{count(len(faults), 'case')} of {len(cases):,} cannot be read; repair them, and continue with --resume", faults)


def fit_given(case: Case, config: Config, *, known: bool) -> tuple[np.ndarray, Crop]:
    """Return the given mask of a case on the grid of training, uint8 (*S), and the part of the case that is shown.

    Args:
        known: whether the networks see that mask too; else they see the whole image.
    """
    labels = read_mask(noisy_mask(case), config)
    crop = crop_around(labels, config) if known else None
    return fit_labels(labels, read_spacing(case, config), config, crop), crop


def _look_at(
    networks: Sequence[Network], batch: Sequence[tuple[int, np.ndarray, np.ndarray]], turns: Sequence[Sequence[int]], known: bool
) -> Iterator[Looked]:
    places, pictures, labels = (list(values) for values in zip(*batch, strict=True))
    given = labels if known else None
    planes = [network.probabilities_over_turns(pictures, given, own) for network, own in zip(networks, turns, strict=True)]
    for place, labels_of_case, of_each in zip(places, labels, np.stack(planes, 1), strict=True):
        yield Looked(place, labels_of_case, of_each.mean(0).astype(np.float16), of_each)


def enlarge(seen: np.ndarray, case: Case, given: np.ndarray, config: Config, *, known: bool) -> np.ndarray:
    """Return probabilities float32 (K, *O), K ≥ 2, on the grid of a case's files, of what menders saw, (K or 1, *S).

    Args:
        given: its given mask, labels uint8 (*O).
        known: whether they saw that mask too; then what they were not shown around it is background.
    """
    crop = crop_around(given, config) if known else None
    planes = in_two(restore(seen.astype(np.float32), given[crop or ...].shape, read_spacing(case, config), config))
    if crop is None:
        return planes
    whole = np.zeros((len(planes), *given.shape), np.float32)
    whole[0] = 1
    whole[:, *crop] = planes
    return whole


def noisy_mask(case: Case) -> Path:
    """Return the noisy mask of a case, also of a pair."""
    return case.given or case.mask


def _watch(tick: Tick, number: int) -> Callable[..., Mapping[str, float]]:
    def watch(feed, outcome) -> Mapping[str, float]:  # type: ignore[no-untyped-def]  # noqa: ANN001, ARG001
        tick(number, feed.update + 1)
        return {}

    return watch
