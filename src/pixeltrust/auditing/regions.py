"""The numbers of a case and of its doubtful regions.

given, mended, seen   labels of the mask, of the proposed one, and of what the network alone sees, uint8 (H, W); 255 ignored
confidence            the probability that each given label is right, uint8 (H, W), 0 wrong … 255 right
"""

import numpy as np
import pandas as pd
from skimage.measure import label as connected_regions
from skimage.measure import regionprops_table

from pixeltrust.auditing.folder import DOUBTFUL_BELOW, KINDS
from pixeltrust.metrics import mean_of_defined
from pixeltrust.plumbing.labels import IGNORE

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
        "height": given.shape[0],
        "width": given.shape[1],
    }


def measure_agreement(given: np.ndarray, probabilities: np.ndarray) -> float:
    """Return how well given labels (H, W) agree with probabilities (K, H, W), 0 … 1; 1 where neither has any foreground.

    It is the mean over the classes that either has. For each class it is the mean of two Dice scores: with what the network sees, and
    with its most favourable reading, the best Dice of all thresholds .1 … .9 on the probability. So the mask has the benefit of the doubt
    where the network is unsure how far a lesion reaches.
    """
    counted = given != IGNORE
    labels, seen, planes = given[counted], probabilities.argmax(0)[counted], probabilities[:, counted]
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


def list_regions(given: np.ndarray, mended: np.ndarray, seen: np.ndarray, confidence: np.ndarray, smallest: int) -> list[dict[str, object]]:
    """Return a row for every connected doubtful region (8 neighbours) of at least `smallest` pixels, the most doubtful first.

    Its doubt is the mean probability that its labels are wrong; the kind says what the network sees there instead.
    """
    doubtful = (confidence < DOUBTFUL_BELOW) & (given != IGNORE)
    if not doubtful.any():
        return []
    kinds = np.select([seen == given, given == 0, seen == 0], [4, 1, 2], 3) * doubtful
    regions = connected_regions(kinds, connectivity=2)
    wanted = ("label", "area", "bbox", "centroid", "intensity_mean")
    table = pd.DataFrame(regionprops_table(regions, intensity_image=1 - confidence / 255, properties=wanted))
    table = table[table["area"] >= smallest].sort_values(["intensity_mean", "area"], ascending=False, kind="stable")
    lesion = int(((given > 0) & (given != IGNORE)).sum())
    rows = []
    for number, row in enumerate(table.to_dict("records"), start=1):
        box = tuple(slice(int(row[f"bbox-{low}"]), int(row[f"bbox-{high}"])) for low, high in ((0, 2), (1, 3)))
        inside = regions[box] == row["label"]
        rows.append({
            "region": number,
            "kind": KINDS[int(kinds[box][inside][0]) - 1],
            "area": int(row["area"]),
            "share": row["area"] / lesion if lesion else np.nan,
            "top": int(row["bbox-0"]),
            "left": int(row["bbox-1"]),
            "bottom": int(row["bbox-2"]),
            "right": int(row["bbox-3"]),
            "row": round(row["centroid-0"], 1),
            "column": round(row["centroid-1"], 1),
            "doubt": row["intensity_mean"],
            "mended": bool((given != mended)[box][inside].any()),
        })  # fmt: skip
    return rows
