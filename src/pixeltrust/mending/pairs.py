"""What pairs say of menders: how good every way of treating a mask is, by a mender that has not seen the pair.

FOLDER/pairs-without-mask/, FOLDER/pairs-with-mask/: what the menders see of the pairs (see `seen`)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pixeltrust.auditing.scores import count_confusion, estimate_tilt
from pixeltrust.config import Config
from pixeltrust.data.cases import Case, Cases
from pixeltrust.data.fitting import fitted_shapes, threads_for
from pixeltrust.data.masks import read_mask
from pixeltrust.mending.estimate import Measured
from pixeltrust.mending.menders import Looked, Menders, enlarge, fit_given, look, noisy_mask, share_turns
from pixeltrust.mending.seen import SeenMasks
from pixeltrust.mending.ways import ALONE, WAYS, Way, dice_between, drop_parts_apart, in_two, propose, soft_dice
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.prediction.network import Network

WAYS_BY: Mapping[bool, tuple[Way, ...]] = {False: ALONE, True: ("mender",)}
"""The ways that go by what menders see without, and with the given mask."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """What was measured on the pairs."""

    measured: Measured
    soft_given: Mapping[bool, np.ndarray]
    """The soft Dice of their given masks (N,): by what menders see without, and with the given masks."""
    tilt: np.ndarray
    """See `auditing.scores.estimate_tilt`."""
    seen: Mapping[bool, SeenMasks]
    """What menders see of pairs that they were not trained on: without, and with the given masks."""
    drops_apart: bool
    """Whether the parts that menders see apart from the given masks are dropped."""

    def drops(self, way: Way) -> bool:
        """Return whether a way drops them: what sees the image alone does not."""
        return self.drops_apart and way not in ALONE

    def beside(self, way: Way) -> "Pairs":
        """Return them with the soft Dice of the given masks by what menders see of masks that are treated in a way."""
        given = np.column_stack([self.measured["given"][:, 0], self.soft_given[way not in ALONE]])
        return replace(self, measured={**self.measured, "given": given})

    def judge(self, case: Looked, way: Way) -> tuple[float, float, float]:
        """Return the soft Dice of a mask as given and as a way makes it, and how far the menders agree on the latter (see `Views`)."""
        views = Views.of(case, drops_apart=self.drops(way))
        return views.soft("given", self.tilt), views.soft(way, self.tilt), views.agreement(way, self.tilt)

    def enlarge(self, planes: np.ndarray, case: Case, given: np.ndarray, way: Way, config: Config) -> np.ndarray:
        """Return what menders saw of a case, on the grid of its given mask, as a way takes it."""
        probabilities = enlarge(planes, case, given, config, known=way not in ALONE)
        if self.drops(way):
            drop_parts_apart(probabilities, given)
        return probabilities


def look_at_pairs(cases: Cases, menders: Menders, networks: Sequence[Network], folder: Path, ranks: Ranks, *, show_progress: bool) -> Pairs:
    """Measure every way of treating a mask on the pairs, by menders that have not seen them.

    The Dice is by all flips and turns. The soft Dice is by those that the mender sees of other masks, to be comparable. What a mender sees
    apart from the given masks is dropped unless that makes the masks of the pairs worse. Menders that have never seen a given mask are
    shown none.

    Args:
        networks: of the menders, trained.
        folder: where what they see is kept.
    """
    pairs, config = cases.pairs, menders.config
    shapes, every = fitted_shapes(pairs, config), [network.turns for network in networks]
    seen, confusions = {}, {}
    for known in (False, True) if config.given_dropped < 1 else (False,):
        seen[known] = SeenMasks(folder, shapes, config, f"pairs-{'with' if known else 'without'}-mask", ranks)
        for place, looked in _look_as_strangers(cases, menders, networks, every, known):
            seen[known].planes(place)[...] = looked.probabilities
            if not known:
                confusions[place] = count_confusion(looked.labels, in_two(looked.probabilities))
    tilt = estimate_tilt([confusions[place] for place in range(len(pairs))])
    dice, drops_apart = _measure_dice(cases, config, seen, tilt, show_progress=show_progress)
    measured = {way: np.column_stack([values, np.full(len(pairs), np.nan)]) for way, values in dice.items()}
    soft_given = {known: np.full(len(pairs), np.nan) for known in seen}
    shares = share_turns(networks[0].turns, len(networks))
    for known, planes in seen.items():
        again = _recall(cases, planes, config, known) if shares == every else _look_as_strangers(cases, menders, networks, shares, known)
        for place, looked in again:
            views = Views.of(looked, drops_apart=drops_apart and known)
            soft_given[known][place] = views.soft("given", tilt)
            for way in WAYS_BY[known]:
                measured[way][place, 1] = views.soft(way, tilt)
    return Pairs(measured, soft_given, tilt, seen, drops_apart)


def _look_as_strangers(
    cases: Cases, menders: Menders, networks: Sequence[Network], turns: Sequence[Sequence[int]], known: bool
) -> Iterator[tuple[int, Looked]]:
    """Yield every pair, by its place, as the mender sees it that was not trained on it."""
    for fold, network in enumerate(networks):
        places = np.flatnonzero(menders.folds == fold)
        for looked in look([network], cases.pairs[places], turns=[turns[fold]], known=known, text="judging pairs", show_progress=False):
            yield int(places[looked.place]), looked


def _recall(cases: Cases, seen: SeenMasks, config: Config, known: bool) -> Iterator[tuple[int, Looked]]:
    """Yield every pair as it was seen before."""
    for place, case in enumerate(cases.pairs):
        (labels, _), planes = fit_given(case, config, known=known), np.array(seen.planes(place))
        yield place, Looked(place, labels, planes, planes[None].astype(np.float32))


def _measure_dice(
    cases: Cases, config: Config, seen: Mapping[bool, SeenMasks], tilt: np.ndarray, *, show_progress: bool
) -> tuple[dict[Way, np.ndarray], bool]:
    """Return the Dice of the pairs by every way (N,), and whether parts apart from the given masks are dropped.

    Raises:
        DataError: masks that cannot be read.
    """
    pairs = cases.pairs
    measured = {way: np.full(len(pairs), np.nan) for way in WAYS if way != "mender" or True in seen}
    without_parts_apart = np.full(len(pairs), np.nan)

    def measure(place: int) -> None:
        case = pairs[place]
        given, clean = read_mask(noisy_mask(case), config), read_mask(case.mask, config)

        def dice_by(way: Way, probabilities: np.ndarray) -> float:
            return dice_between(propose(way, given, probabilities, tilt), clean, config.classes)

        measured["given"][place] = dice_between(given, clean, config.classes)
        for known, planes in seen.items():
            probabilities = enlarge(planes.planes(place), case, given, config, known=known)
            for way in WAYS_BY[known]:
                measured[way][place] = dice_by(way, probabilities)
            if known:
                drop_parts_apart(probabilities, given)
                without_parts_apart[place] = dice_by("mender", probabilities)

    complaint, threads = f"{cases.data}: pairs that cannot be measured", threads_for(pairs, config.classes)
    map_in_threads(measure, range(len(pairs)), text="judging pairs", complaint=complaint, shown=show_progress, threads=threads)
    drops_apart = True in seen and bool(np.nanmean(without_parts_apart - measured["mender"]) >= 0)
    if drops_apart:
        measured["mender"] = without_parts_apart
    return measured, drops_apart


@dataclass(frozen=True, eq=False)
class Views:
    """What several menders see of a case, as the masks are made from it; probabilities float32 (K, *S), K ≥ 2."""

    labels: np.ndarray
    """The given mask, uint8 (*S)."""
    together: np.ndarray
    of_each: list[np.ndarray]

    @classmethod
    def of(cls, looked: Looked, *, drops_apart: bool) -> "Views":
        """Take the views; with `drops_apart` without what lies apart from the given mask."""
        views = [in_two(planes) for planes in (looked.probabilities, *looked.of_each)]
        for view in views if drops_apart else ():
            drop_parts_apart(view, looked.labels)
        return cls(looked.labels, views[0], views[1:])

    def soft(self, way: Way, tilt: np.ndarray) -> float:
        """Return the soft Dice of the mask that each would make by a way, with what it sees, in the mean: the same for one mender and for
        several."""
        pairs = zip(self._masks(way, tilt), self.of_each, strict=True)
        return float(np.mean([soft_dice(mask, view) for mask, view in pairs]))

    def agreement(self, way: Way, tilt: np.ndarray) -> float:
        """Return the Dice of the masks that each would make with the one that they make together, in the mean; NaN for a single mender."""
        if len(self.of_each) == 1:
            return math.nan
        joint = propose(way, self.labels, self.together, tilt)
        shared = [dice_between(mask, joint, len(self.together)) for mask in self._masks(way, tilt)]
        return float(np.nan_to_num(shared, nan=1).mean())  # NaN where neither has any foreground

    def _masks(self, way: Way, tilt: np.ndarray) -> list[np.ndarray]:
        return [propose(way, self.labels, view, tilt) for view in self.of_each]
