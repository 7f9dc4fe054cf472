"""What pairs teach an audit: how likely a given label is right, by what is seen there and by how far it is from the outline that was drawn.

The log odds that a label L is right, with probabilities P, are

    a  +  b log P[L] / (1 − P[L])  +  c log(d + 0.02)

where d is the distance to the nearest pixel with another label, in units of the square root of the foreground's area. The numbers a, b and
c, others for background than for foreground, are fitted to the pairs by logistic regression. Every pair counts alike: its pixels are
weighed by one over its foreground, as the Dice does. A penalty, which matters where pairs are few, draws the numbers to those of the rule
that needs no pairs (see `scores`): b = 1, c = 0, and a from the tilt.

Whether that is better than the rule without pairs is asked of the pairs as well: the rule of four fifths of them mends the last fifth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from pixeltrust.auditing.scores import TILT, log_odds
from pixeltrust.data.cases import FEWEST_PAIRS
from pixeltrust.data.folds import assign_folds
from pixeltrust.metrics import confusion, dice, mean_of_defined
from pixeltrust.plumbing.labels import IGNORE, is_foreground, most_probable

_FOLDS = 5
_PENALTY = 0.1
_MOST_PIXELS = 4096  # of a pair
_NEAR, _FAR = 0.02, 3.0  # distances: what is added, and the longest
_STEPS, _LONGEST_STEP, _SMALL_STEP = 50, 3.0, 1e-4  # of Newton's method


@dataclass(frozen=True, eq=False)
class PairPixels:
    """A sample of the pixels of a pair, (N,) each."""

    given: np.ndarray
    true: np.ndarray
    features: np.ndarray
    """(N, 6), see `_describe`."""
    other: np.ndarray
    """The likeliest label beside the given one."""
    of_others: np.ndarray
    """Its share of the probability of all others."""
    mended: np.ndarray
    """What the rule without pairs makes of the given label."""


def sample_pair(given: np.ndarray, true: np.ndarray, probabilities: np.ndarray, mended: np.ndarray) -> PairPixels:
    """Return a sample of a pair, without the pixels that either mask ignores; every n-th along all axes.

    Args:
        given, true, mended: labels uint8 (*S); 255 ignored.
        probabilities: float32 (K, *S), K ≥ 2.
    """
    step = max(1, round((given.size / _MOST_PIXELS) ** (1 / given.ndim)))
    grid = (slice(None, None, step),) * given.ndim
    counted = (given[grid] != IGNORE) & (true[grid] != IGNORE)
    features = _describe(given, probabilities)[grid][counted]
    others = _without(given, probabilities)[(slice(None), *grid)][:, counted]
    return PairPixels(given[grid][counted], true[grid][counted], features, most_probable(others), others.max(0), mended[grid][counted])


@dataclass(frozen=True, eq=False)
class Calibration:
    """A rule that was fitted to pairs."""

    weights: np.ndarray
    """(6,): a, b, c of background, and of foreground."""
    pairs: int
    """How many."""

    @classmethod
    def of(cls, pairs: Sequence[PairPixels], tilt: np.ndarray) -> "Calibration":
        """Fit it to pairs.

        Args:
            tilt: of every label, see `scores`; that of the foreground is the mean of its classes.
        """
        features = np.concatenate([pair.features for pair in pairs])
        right = np.concatenate([pair.given == pair.true for pair in pairs]).astype(float)
        each = np.concatenate([np.full(len(pair.given), 1 / max(((pair.given > 0) | (pair.true > 0)).sum(), 1)) for pair in pairs])
        prior = np.array([TILT * tilt[0], 1, 0, TILT * tilt[1:].mean(), 1, 0])
        weights = prior.copy()
        for _ in range(_STEPS):
            expected = _probability(features @ weights)
            slope = features.T @ (each * (right - expected)) - _PENALTY * (weights - prior)
            bend = (features * (each * expected * (1 - expected))[:, None]).T @ features + _PENALTY * np.eye(len(prior))
            step = np.linalg.solve(bend, slope)
            longest = np.abs(step).max()
            weights += step * min(1, _LONGEST_STEP / max(longest, _SMALL_STEP))
            if longest < _SMALL_STEP:
                break
        return cls(weights, len(pairs))

    def judge(self, given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities float32 (K, *S) of all labels, now that the given ones are known too.

        Args:
            given: labels uint8 (*S); 255 ignored, where the probabilities stay.
            probabilities: float32 (K, *S), K ≥ 2.
        """
        right = _probability(_describe(given, probabilities) @ self.weights)
        judged = _without(given, probabilities) * (1 - right)
        np.put_along_axis(judged, _known(given), right[None], 0)
        return np.where(given == IGNORE, probabilities, judged).astype(np.float32)

    def mend(self, pair: PairPixels, sure: float) -> np.ndarray:
        """Return what it makes of the given labels of a pair, (N,)."""
        wrong = 1 - _probability(pair.features @ self.weights)
        return np.where((wrong > 0.5) & (wrong * pair.of_others > sure), pair.other, pair.given)


@dataclass(frozen=True, eq=False)
class Taught:
    """What pairs have taught."""

    rule: Calibration | None
    """None where there are fewer than `FEWEST_PAIRS`, or it is not surely better than the rule without pairs."""
    dice: np.ndarray
    """(N, 2): of the given and of the mended mask of every pair with the true one. A rule has not seen the pair that it mends here."""


def calibrate(pairs: Sequence[PairPixels], groups: Sequence[str], tilt: np.ndarray, *, classes: int, sure: float) -> Taught:
    """Fit a rule to pairs, and measure what is done with them.

    Args:
        groups: of each pair; those of one group are never in two folds.
        sure: a label is mended to one that has more than this probability.
    """
    given, mended = (np.array([_dice(getattr(pair, name), pair.true, classes) for pair in pairs]) for name in ("given", "mended"))
    without = np.stack([given, mended], -1)
    if len(set(groups)) < FEWEST_PAIRS:
        return Taught(None, without)
    folds, by_others = assign_folds(groups, 0, _FOLDS), np.full(len(pairs), np.nan)
    for fold in range(_FOLDS):
        rule = Calibration.of([pair for pair, its in zip(pairs, folds, strict=True) if its != fold], tilt)
        for place in np.flatnonzero(folds == fold):
            pair = pairs[int(place)]
            by_others[place] = _dice(rule.mend(pair, sure), pair.true, classes)
    ahead = (by_others - mended)[~np.isnan(by_others - mended)]
    surely = len(ahead) > 1 and ahead.mean() > ahead.std(ddof=1) / np.sqrt(len(ahead))
    return Taught(Calibration.of(pairs, tilt), np.stack([given, by_others], -1)) if surely else Taught(None, without)


def _describe(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (*S, 6): 1, the log odds of the given label and the log distance where it is background, and the same where foreground."""
    own = np.take_along_axis(probabilities, _known(given), 0)[0]
    values = np.stack([np.ones(given.shape), log_odds(own), np.log(_distance(given) + _NEAR)], -1)
    foreground = (given > 0)[..., None]
    return np.concatenate([np.where(foreground, 0, values), np.where(foreground, values, 0)], -1)


def _distance(given: np.ndarray) -> np.ndarray:
    """Return the distance (*S) of every pixel to the nearest one with another label, in units of the root of the foreground's area."""
    found = np.full(given.shape, np.inf)
    for label in np.unique(given):
        here = given == label
        if not here.all():
            found[here] = distance_transform_edt(here)[here] - 0.5
    foreground = max(1, int(is_foreground(given).sum()))
    return np.minimum(found / foreground ** (1 / given.ndim), _FAR)


def _without(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities (K, *S) of the labels beside the given one, that sum to 1."""
    others = np.maximum(probabilities.astype(np.float64), 1e-6)
    np.put_along_axis(others, _known(given), 0, 0)
    return others / others.sum(0)


def _known(given: np.ndarray) -> np.ndarray:
    return np.where(given == IGNORE, 0, given)[None].astype(np.intp)


def _probability(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


def _dice(labels: np.ndarray, true: np.ndarray, classes: int) -> float:
    return mean_of_defined([dice(confusion(predicted=labels, truth=true, label=label)) for label in range(1, max(classes, 2))])
