"""The numbers of a case and of its doubtful regions.

given, mended, seen   labels of the mask, of the proposed one, and of what the network alone sees, uint8 (*S); 255 ignored
confidence            the probability that each given label is right, uint8 (*S), 0 wrong … 255 right
*S                    (H, W), or (D, H, W) of a volume
"""

from collections.abc import Sequence

import numpy as np
from skimage.measure import label as connected_regions
from skimage.measure import regionprops_table

from pixeltrust.auditing.folder import DOUBTFUL_BELOW, KINDS
from pixeltrust.metrics import mean_of_defined
from pixeltrust.plumbing.labels import IGNORE, is_foreground, most_probable

_THRESHOLDS = np.arange(1, 10) / 10


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
    counted = given != IGNORE
    labels, seen, planes = given[counted], most_probable(probabilities)[counted], probabilities[:, counted]
    scores = [_class_agreement(labels == label, seen == label, planes[label]) for label in range(1, len(probabilities))]
    return 1.0 if np.isnan(scores).all() else mean_of_defined(scores)


def _class_agreement(given: np.ndarray, seen: np.ndarray, probability: np.ndarray) -> float:
    """Return the agreement of one class, from flat arrays; NaN where neither has it."""
    if not given.any() and not seen.any():
        return float("nan")
    steps = np.digitize(probability, _THRESHOLDS, right=True)  # how many thresholds the probability is above
    above, both = (np.bincount(values, minlength=len(_THRESHOLDS) + 1)[::-1].cumsum()[-2::-1] for values in (steps, steps[given]))
    favourable = 2 * both / np.maximum(above + given.sum(), 1)
    return float((2 * (given & seen).sum() / (given.sum() + seen.sum()) + favourable.max()) / 2)


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
    kinds = np.select([seen == given, given == 0, seen == 0], [4, 1, 2], 3) * doubtful
    axes = given.ndim
    regions = connected_regions(kinds, connectivity=axes)
    wanted = ("label", "area", "bbox", "centroid", "intensity_mean")
    table = regionprops_table(regions, intensity_image=1 - confidence / 255, properties=wanted)
    found = [dict(zip(table, row, strict=True)) for row in zip(*(column.tolist() for column in table.values()), strict=True)]
    large = sorted((row for row in found if row["area"] >= smallest), key=lambda row: (-row["intensity_mean"], -row["area"]))
    lesion = int(is_foreground(given).sum())
    rows = []
    for number, row in enumerate(large, start=1):
        first, last = ([int(row[f"bbox-{axis + side}"]) for axis in range(axes)] for side in (0, axes))
        box = tuple(map(slice, first, last))
        inside = regions[box] == row["label"]
        centre = [round(row[f"centroid-{axis}"], 1) for axis in range(axes)]
        rows.append({
            "region": number,
            "kind": KINDS[int(kinds[box][inside][0]) - 1],
            "area": int(row["area"]),
            "share": row["area"] / lesion if lesion else np.nan,
            "top": first[-2],
            "left": first[-1],
            "bottom": last[-2],
            "right": last[-1],
            "row": centre[-2],
            "column": centre[-1],
            "doubt": row["intensity_mean"],
            "mended": bool((given != mended)[box][inside].any()),
            **(_slices(inside, first[0], last[0], spacing) if spacing else {}),
        })  # fmt: skip
    return rows


def _slices(inside: np.ndarray, first: int, last: int, spacing: Sequence[float]) -> dict[str, object]:
    """Return the further numbers of a region of a volume, by where it is in its box (d, h, w)."""
    of_each = inside.sum(axis=(1, 2))
    return {"slice": first + int(of_each.argmax()), "first": first, "last": last, "mm3": round(float(inside.sum() * np.prod(spacing)), 3)}
