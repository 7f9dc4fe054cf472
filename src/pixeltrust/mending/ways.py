"""The ways to treat a noisy mask, and how good each is on the pairs.

    given     leave it as it is                      network   take what the network sees in the image alone
    audit     change what the network contradicts    mender    take what the network sees in the image and the given mask

given labels uint8 (*S); 255 ignored   probabilities float32 (K, *S), K ≥ 2, that sum to 1   *S is (H, W) or (D, H, W)
"""

from typing import Literal, get_args

import numpy as np

from pixeltrust.auditing.scores import compute_confidence
from pixeltrust.metrics import confusion, dice, mean_of_defined
from pixeltrust.plumbing.labels import IGNORE, is_foreground, most_probable

Way = Literal["given", "network", "audit", "mender"]
WAYS: tuple[Way, ...] = get_args(Way)
ALONE: tuple[Way, ...] = ("network", "audit")
"""The ways that need the network's view of the image alone."""
_PARTS_FROM = (0.5, 0.1)  # the probability of foreground that pixels of a part have, one after the other


def in_two(planes: np.ndarray) -> np.ndarray:
    """Return probabilities float32 (K, …), K ≥ 2: a single plane is that of the foreground."""
    planes = planes.astype(np.float32)
    return np.concatenate([1 - planes, planes]) if len(planes) == 1 else planes


def drop_parts_apart(probabilities: np.ndarray, given: np.ndarray) -> None:
    """Turn the parts of the foreground that do not touch the given mask's into background, in place.

    With few pairs a mender takes ink, stickers and shadows that no pair has for foreground. Then what is left around such parts, and what
    is hardly foreground anywhere else, goes as well. Nothing changes where the given mask is empty.

    Args:
        probabilities: float32 (K, *S), K ≥ 2; background afterwards is 1 there.
        given: labels uint8 (*S); pixels that touch at a corner are of one part.
    """
    from scipy import ndimage  # imported here: a review needs none of it

    marked = is_foreground(given)
    if not marked.any():
        return
    for least in _PARTS_FROM:
        parts, number = ndimage.label(probabilities[0] < 1 - least, np.ones((3,) * given.ndim))
        apart = np.ones(number + 1, bool)
        apart[parts[marked]] = apart[0] = False
        where = apart[parts]
        np.copyto(probabilities, 0, where=where)
        np.copyto(probabilities[0], 1, where=where)


def propose(way: Way, given: np.ndarray, probabilities: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Return the labels that a way gives.

    Ignored pixels stay, and a mask is never emptied: people have to judge a lesion that the network does not see at all.

    Args:
        probabilities: of the network, which sees the given mask too for `mender`.
        tilt: see `auditing.scores`; for `audit`.
    """
    seen = most_probable(probabilities)
    if way == "given":
        return given
    if way == "audit":
        contradicted = (compute_confidence(given, probabilities, tilt, None) < 0.5) & (probabilities.max(0) > 0.5)
        seen = np.where(contradicted, seen, given)
    labels = np.where(given == IGNORE, given, seen)
    return labels if is_foreground(labels).any() else given


def dice_between(predicted: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Return the mean Dice of the foreground classes that either has; NaN where there are none."""
    counts = (confusion(predicted=predicted, truth=truth, label=label) for label in range(1, max(classes, 2)))
    return mean_of_defined([dice(values) for values in counts])


def soft_dice(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the Dice of labels with probabilities, 2 Σ P[labels] / (Σ labels + Σ P), in the mean over the foreground classes.

    It is 1 where there is no foreground; else about what the Dice with the truth would be, if the probabilities were right and the pixels
    independent.
    """
    counted = labels != IGNORE
    scores = []
    for label in range(1, len(probabilities)):
        mask, plane = (labels == label)[counted], probabilities[label][counted]
        total = float(mask.sum() + plane.sum())
        if mask.any() or plane.max(initial=0) > 0.5:
            scores.append(2 * float(plane[mask].sum()) / total)
    return mean_of_defined(scores) if scores else 1.0
