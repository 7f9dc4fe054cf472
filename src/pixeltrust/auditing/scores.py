"""Confidence: the probability that each given label is right, by the network, by the kind of label and by what training remembers.

    L   labels given, uint8 (H, W); 255 ignored      P   probabilities float32 (K, H, W), K ≥ 2, that sum to 1
    S   shares of visits in which a pixel helped, float32 (H, W), from the run's helped map of this mask; or else shares of clean batches
        for which it helps now (see `evidence`); where neither is known the term is left out

The log odds that a label is right are a sum of three terms:

    log P[L] / (1 − P[L])  +  ½ tilt[L]  +  SHARE log S / (1 − S)

The network's probability is averaged over flips and turns. The tilt favours kinds of labels that are seldom wrong: where annotators leave
much out but put nothing wrong in, a pixel called lesion is more likely right than one called skin. By Bayes' rule it is
log A[l, l] / A[y, l] for the likeliest other y, where A[y, l] = P(l | y) is the confusion that the network finds between true labels y and
given ones over all cases. It counts half, as this network errs too, and only as far as the cases err to the same side (1 where all do, 0
where as much is wrong one way as the other). It is shifted so that the least reliable kind has 0.
"""

from collections.abc import Sequence

import numpy as np

from pixeltrust.plumbing.labels import IGNORE, probability_of

SHARE = 0.2
TILT = 0.5
_LEAST = 1e-3  # probabilities and shares are kept this far from 0 and 1


def count_confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return Σ P[y] over the pixels labelled l, (K true, K given), without ignored ones."""
    counted = labels != IGNORE
    classes = len(probabilities)
    flat, given = probabilities[:, counted].astype(np.float64), labels[counted]
    return np.stack([np.bincount(given, weights=plane, minlength=classes) for plane in flat])


def estimate_tilt(confusions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the tilt of every given label (K,), ≥ 0, from the confusion (K true, K given) of each case; 0 for labels that no mask has."""
    confusion = np.sum(confusions, 0)
    rates = (confusion / confusion.sum(1, keepdims=True).clip(1e-30)).clip(_LEAST, 1 - _LEAST)
    right = np.diag(rates)
    wrong = np.where(np.eye(len(rates), dtype=bool), -np.inf, confusion)
    confused = wrong.argmax(0), np.arange(len(rates))  # each given label with the other true one that it most often hides
    tilt = _one_sidedness(confusions)[confused] * np.log(right / rates[confused])
    given = confusion.sum(0) > 0
    return np.where(given, tilt - tilt[given].min(initial=np.inf), 0)


def _one_sidedness(confusions: Sequence[np.ndarray]) -> np.ndarray:
    """Return how far the cases err to the same side, 0 … 1, (K, K): |Σ (C − Cᵀ)| / Σ |C − Cᵀ| over the confusions C of the cases."""
    sides = [confusion - confusion.T for confusion in confusions]
    return np.abs(np.sum(sides, 0)) / np.sum(np.abs(sides), 0).clip(1e-30)


def compute_confidence(labels: np.ndarray, probabilities: np.ndarray, tilt: np.ndarray, shares: np.ndarray | None) -> np.ndarray:
    """Return the probability that each given label is right, float32 (H, W); 1 for ignored pixels."""
    counted = labels != IGNORE
    tilted = (TILT * tilt).astype(np.float32)[np.where(counted, labels, 0)]
    odds: np.ndarray = log_odds(probability_of(labels, probabilities)) + tilted
    if shares is not None:
        odds = odds + SHARE * log_odds(shares)
    return np.where(counted, 1 / (1 + np.exp(-odds)), 1).astype(np.float32)


def log_odds(values: np.ndarray) -> np.ndarray:
    """Return the log odds of probabilities or shares, which are kept away from 0 and 1."""
    inside = values.clip(_LEAST, 1 - _LEAST)
    return np.log(inside / (1 - inside))
