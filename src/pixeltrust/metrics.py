"""How well a predicted mask agrees with the true one: first count, then divide.

    labels      whole numbers (*S): 0 background, 1 … K−1 classes, 255 ignored (in the truth only)
    *S          the spatial extent, (H, W) or any other; distances need a single case
    spacing     distance between pixel centres along each axis of *S, in mm (or None: distances in pixels)

`confusion` and `boundary_distances` look at the pixels of one class; everything else is a ratio or a mean of what they
return. What is not defined is NaN, never a made-up number:

- No foreground in either mask: Dice, Jaccard, sensitivity and distances are NaN. Calling it 1 would let a set with many
  empty cases look good; the caller leaves such cases out of a mean and says how many there were.
- Foreground in one mask only: Dice and Jaccard are 0, distances are NaN. Infinity would make every mean infinite, and
  the image's diagonal would measure the photographer's framing. So a mean distance flatters a model that misses
  objects; its Dice and the number of undefined distances beside it do not.
- Ignored pixels count nowhere. For distances both masks are background there: a boundary that runs anywhere within an
  ignored band costs nothing. (Where the band cuts both masks alike, their common edge counts with distance 0.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from monai.metrics import get_mask_edges, get_surface_distance
from scipy import stats

from pixeltrust.plumbing.labels import IGNORE

_BOOTSTRAP_CELLS = 10_000_000  # resampled values held at once: 80 MB

Labels: TypeAlias = np.ndarray | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Numbers of counted pixels; positive ones have the class in question."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


@dataclass(frozen=True, kw_only=True)
class BoundaryDistances:
    """Distances from every boundary pixel of one mask to the nearest one of the other; both are empty where one mask is."""

    to_truth: np.ndarray
    to_predicted: np.ndarray


def confusion(*, predicted: Labels, truth: Labels, label: int = 1) -> Confusion:
    """Count true and false positives and negatives of one class over all pixels that are not ignored.

    Args:
        predicted: labels (*S).
        truth: labels (*S), 255 where ignored.
        label: the class that is positive.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(predicted, truth)
    counted = truth != IGNORE
    found, real = (predicted == label) & counted, truth == label
    true_positives, positives, trues = int((found & real).sum()), int(found.sum()), int(real.sum())
    return Confusion(
        true_positives=true_positives,
        false_positives=positives - true_positives,
        false_negatives=trues - true_positives,
        true_negatives=int(counted.sum()) - positives - trues + true_positives,
    )


def dice(counts: Confusion) -> float:
    """Return 2 TP / (2 TP + FP + FN), 0 to 1; NaN where neither mask has the class.

    Source: L. R. Dice, Measures of the amount of ecologic association between species, Ecology 26 (1945).
    """
    overlap = 2 * counts.true_positives
    return _ratio(overlap, overlap + counts.false_positives + counts.false_negatives)


def jaccard(counts: Confusion) -> float:
    """Return TP / (TP + FP + FN), the intersection over the union, 0 to 1; NaN where neither mask has the class."""
    overlap = counts.true_positives
    return _ratio(overlap, overlap + counts.false_positives + counts.false_negatives)


def sensitivity(counts: Confusion) -> float:
    """Return TP / (TP + FN), the share of the true pixels that were found, 0 to 1; NaN where the truth has none."""
    return _ratio(counts.true_positives, counts.true_positives + counts.false_negatives)


def specificity(counts: Confusion) -> float:
    """Return TN / (TN + FP), the share of the other pixels that were left alone, 0 to 1; NaN where there are none."""
    return _ratio(counts.true_negatives, counts.true_negatives + counts.false_positives)


def accuracy(counts: Confusion) -> float:
    """Return (TP + TN) / all, the share of counted pixels that are right, 0 to 1; NaN where all are ignored."""
    right = counts.true_positives + counts.true_negatives
    return _ratio(right, right + counts.false_positives + counts.false_negatives)


def boundary_distances(*, predicted: Labels, truth: Labels, label: int = 1, spacing: tuple[float, ...] | None = None) -> BoundaryDistances:
    """Measure the distances from boundary to boundary, in both directions.

    A boundary pixel is one of the class with a neighbour (sharing a side) that is not, or at the image's border.

    Args:
        predicted: labels (*S) of one case.
        truth: labels (*S), 255 where ignored.
        label: the class whose boundaries are meant.
        spacing: mm per pixel along each axis of *S; None measures in pixels.

    Raises:
        ValueError: the shapes differ, or `spacing` does not have one number above 0 for each axis.

    Source: boundaries and nearest distances are MONAI's, whose `compute_hausdorff_distance` is built on the same two.
    """
    _check_shapes(predicted, truth)
    if spacing is not None and (len(spacing) != truth.ndim or not all(0 < step < np.inf for step in spacing)):
        raise ValueError(f"spacing {spacing} needs one number above 0 for each of the {truth.ndim} axes")
    real, found = _numpy(truth) == label, (_numpy(predicted) == label) & (_numpy(truth) != IGNORE)
    if not (real.any() and found.any()):
        return BoundaryDistances(to_truth=np.empty(0), to_predicted=np.empty(0))
    box = _bounding_box(real | found)
    found_edge, real_edge = get_mask_edges(found[box], real[box], crop=False)
    return BoundaryDistances(
        to_truth=np.asarray(get_surface_distance(found_edge, real_edge, spacing=spacing)),
        to_predicted=np.asarray(get_surface_distance(real_edge, found_edge, spacing=spacing)),
    )


def hausdorff95(distances: BoundaryDistances) -> float:
    """Return the distance within which 95 % of either boundary are from the other, in the distances' unit; NaN if undefined.

    It is the larger of the two directions' 95th percentiles, not the percentile of both together.
    """
    if not len(distances.to_truth):
        return float("nan")
    return float(max(np.percentile(way, 95) for way in (distances.to_truth, distances.to_predicted)))


def surface_distance(distances: BoundaryDistances) -> float:
    """Return the average symmetric surface distance: the mean over both boundaries' pixels; NaN if undefined."""
    if not len(distances.to_truth):
        return float("nan")
    return float(np.concatenate([distances.to_truth, distances.to_predicted]).mean(dtype=np.float64))


def case_metrics(*, predicted: Labels, truth: Labels, classes: int = 1, spacing: tuple[float, ...] | None = None) -> dict[str, float]:
    """Measure all of METRICS for one case.

    With three classes or more each number is the mean over the classes 1 … K−1 for which it is defined (a class in
    neither mask has no Dice, one in a single mask has Dice 0 and no distance). Accuracy is not per class: it is the
    share of counted pixels that have their right class.

    Args:
        predicted: labels (*S) of one case.
        truth: labels (*S), 255 where ignored.
        classes: 1 (binary, labels 0 and 1) or K ≥ 2 with the background.
        spacing: mm per pixel along each axis of *S; None measures in pixels.
    """
    labels = range(1, max(classes, 2))
    counts = [confusion(predicted=predicted, truth=truth, label=label) for label in labels]
    distances = [boundary_distances(predicted=predicted, truth=truth, label=label, spacing=spacing) for label in labels]
    counted = truth != IGNORE
    right, pixels = int(((predicted == truth) & counted).sum()), int(counted.sum())
    overall = Confusion(true_positives=right, false_positives=pixels - right, false_negatives=0, true_negatives=0)
    per_class: dict[str, list[Any]] = {"share": counts, "distance": distances}
    return {
        name: mean_of_defined([metric.measure(values) for values in (per_class[metric.unit] if metric.per_class else [overall])])
        for name, metric in METRICS.items()
    }


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number for a case, computed from its counts of pixels or from its distances between boundaries."""

    title: str
    measure: Callable[[Any], float]
    """Takes a `Confusion` where the unit is a share, else `BoundaryDistances`."""
    unit: Literal["share", "distance"] = "share"
    """A share is 0 … 1; a distance is in mm or pixels."""
    digits: int = 4
    per_class: bool = True
    """Whether it is the mean over the classes; otherwise it takes the counts of right (positive) and wrong pixels of all classes."""


METRICS = {
    "dice": Metric(title="Dice", measure=dice),
    "jaccard": Metric(title="Jaccard", measure=jaccard),
    "sensitivity": Metric(title="sensitivity", measure=sensitivity),
    "specificity": Metric(title="specificity", measure=specificity),
    "accuracy": Metric(title="accuracy", measure=accuracy, per_class=False),
    "hausdorff95": Metric(title="outline distance, 95 %", measure=hausdorff95, unit="distance", digits=2),
    "surface_distance": Metric(title="outline distance", measure=surface_distance, unit="distance", digits=2),
}
"""The metrics of a case by their names in tables. A new one is a function and an entry here."""


def mean_of_defined(values: list[float] | np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN where there are none."""
    defined = _defined(values)
    return float(defined.mean()) if len(defined) else float("nan")


def bootstrap_interval(
    values: list[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return (low, high) between which the mean would lie if other cases of the same kind had been drawn.

    The percentile bootstrap over cases. (BCa covered no better in simulations of skewed Dice values, and it can be
    undefined.) With few cases every bootstrap interval is too narrow: of nominally 95 %, about 85 % at 20 cases.

    Args:
        values: one number per case; NaN is left out.
        confidence: between 0 and 1.
        resamples: number of means drawn.
        seed: the same seed gives the same interval.

    Returns:
        (low, high); both NaN for fewer than two defined values.

    Source: B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    defined = _defined(values)
    if len(defined) < 2:
        return float("nan"), float("nan")
    interval = stats.bootstrap(
        (defined,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BOOTSTRAP_CELLS // len(defined)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _check_shapes(predicted: Labels, truth: Labels) -> None:
    if tuple(predicted.shape) != tuple(truth.shape):
        raise ValueError(f"predicted {tuple(predicted.shape)} and truth {tuple(truth.shape)} differ in shape")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _defined(values: list[float] | np.ndarray) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    return numbers[~np.isnan(numbers)]


def _numpy(labels: Labels) -> np.ndarray:
    return labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(span[0], span[-1] + 1) for span in spans)
