"""The numbers of a case and of its doubtful regions.

given, mended, seen   labels of the mask, of the proposed one, and of what the network alone sees, uint8 (*S); 255 ignored
confidence            the probability that each given label is right, uint8 (*S), 0 wrong … 255 right
*S                    (H, W), or (D, H, W) of a volume
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pixeltrust.auditing.folder import DOUBTFUL_BELOW, KINDS
from pixeltrust.metrics import mean_of_defined
from pixeltrust.plumbing.labels import IGNORE, is_foreground, most_probable

_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def measure_case(given: np.ndarray, mended: np.ndarray, seen: np.ndarray, confidence: np.ndarray) -> dict[str, object]:
    """Return the numbers of a row of cases.csv, without the agreement."""
    counted = given != IGNORE
    doubtful, lesion = (confidence < DOUBTFUL_BELOW) & counted, counted & (given > 0)
    pixels = int((counted & ((given > 0) | (seen > 0) | doubtful)).sum())
    changed = given != mended
    return {
        "doubtful_pixels": int(doubtful.sum()),
        "doubtful_share": doubtful.sum() / pixels if pixels else 0.0,
        "changed_pixels": int(changed.sum()),
        "added_pixels": int((changed & ~lesion).sum()),
        "removed_pixels": int((changed & (mended == 0)).sum()),
        **({"depth": given.shape[0]} if given.ndim == 3 else {}),
        "height": given.shape[-2],
        "width": given.shape[-1],
    }


def measure_agreement(given: np.ndarray, probabilities: np.ndarray) -> float:
    """Return how well given labels (*S) agree with probabilities (K, *S), 0 … 1; 1 where neither has any foreground.

    It is the mean over the classes that either has. For each class it is the mean of two Dice scores: with what the network sees, and
    with its most favourable reading, the best Dice of all thresholds .1 … .9 on the probability. So the mask has the benefit of the doubt
    where the network is unsure how far a lesion reaches.
    """
    seen = most_probable(probabilities)
    counted = (given > 0) | (seen > 0)
    for plane in probabilities[1:]:
        counted |= plane > _THRESHOLDS[0]  # no score depends on the pixels that are left
    counted &= given != IGNORE
    labels, seen = given[counted], seen[counted]
    scores = [_class_agreement(labels == label, seen == label, probabilities[label][counted]) for label in range(1, len(probabilities))]
    return 1.0 if np.isnan(scores).all() else mean_of_defined(scores)


def _class_agreement(given: np.ndarray, seen: np.ndarray, probability: np.ndarray) -> float:
    """Return the agreement of one class, from flat arrays; NaN where neither has it."""
    if not given.any() and not seen.any():
        return float("nan")
    above = (probability > threshold for threshold in _THRESHOLDS)
    favourable = [_shared(given, mask) for mask in above]
    return (_shared(given, seen) + max(favourable)) / 2


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice of two masks, bool of one shape; 0 where both are empty."""
    both = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / max(both, 1)


def list_regions(
    given: np.ndarray, mended: np.ndarray, seen: np.ndarray, confidence: np.ndarray, smallest: int, spacing: Sequence[float] | None = None
) -> list[dict[str, object]]:
    """Return a row for every connected doubtful region of at least `smallest` pixels, the most doubtful first.

    Pixels are connected to their 8 neighbours, voxels to their 26. The doubt is the mean probability that the labels are wrong; the kind
    says what the network sees there instead. Of a volume a row also has `OF_VOLUMES`.

    Args:
        spacing: of a volume, in mm along (D, H, W).
    """
    doubtful = (confidence < DOUBTFUL_BELOW) & (given != IGNORE)
    if not doubtful.any():
        return []
    kinds = np.select([seen == given, given == 0, seen == 0], np.array([4, 1, 2], np.uint8), np.uint8(3)) * doubtful
    changed, lesion, touching, rows = given != mended, int(is_foreground(given).sum()), np.ones((3,) * given.ndim), []
    for kind, name in enumerate(KINDS, start=1):
        regions, _ = ndimage.label(kinds == kind, touching)
        for number, box in enumerate(ndimage.find_objects(regions), start=1):
            inside = regions[box] == number
            if (area := int(np.count_nonzero(inside))) < smallest:
                continue
            centre = [round(part.start + place, 1) for part, place in zip(box, _centre(inside, area), strict=True)]
            rows.append({
                "kind": name,
                "area": area,
                "share": area / lesion if lesion else np.nan,
                "top": box[-2].start,
                "left": box[-1].start,
                "bottom": box[-2].stop,
                "right": box[-1].stop,
                "row": centre[-2],
                "column": centre[-1],
                "doubt": 1 - float(confidence[box][inside].mean()) / 255,
                "mended": bool(changed[box][inside].any()),
                **(_slices(inside, box[0].start, box[0].stop, spacing) if spacing else {}),
            })  # fmt: skip
    rows.sort(key=lambda row: (-row["doubt"], -row["area"]))
    return [{"region": number, **row} for number, row in enumerate(rows, start=1)]


def _centre(inside: np.ndarray, area: int) -> list[float]:
    """Return the mean place of a region's pixels along each axis of its box, bool (*S)."""
    axes = set(range(inside.ndim))
    counts = (inside.sum(axis=tuple(axes - {axis})) for axis in sorted(axes))
    return [float(of_each @ np.arange(len(of_each))) / area for of_each in counts]


def _slices(inside: np.ndarray, first: int, last: int, spacing: Sequence[float]) -> dict[str, object]:
    """Return the further numbers of a region of a volume, by where it is in its box (d, h, w)."""
    of_each = inside.sum(axis=(1, 2))
    return {"slice": first + int(of_each.argmax()), "first": first, "last": last, "mm3": round(float(inside.sum() * np.prod(spacing)), 3)}
