"""How well a predicted mask agrees with the true one: first count, then divide.

    labels      whole numbers (*S): 0 background, 1 … K−1 classes, 255 ignored (in the truth only)
    *S          the spatial extent, (H, W) or any other; distances need a single case
    spacing     distance between pixel centres along each axis of *S, in mm (or None: distances in pixels)

`confusion` and `boundary_distances` look at the pixels of one class; everything else is a ratio or a mean of what they
return. What is not defined is NaN, never a made-up number:

- No foreground in either mask: Dice, Jaccard, sensitivity, distances and surface Dice are NaN. Calling it 1 would let a set with many
  empty cases look good; the caller leaves such cases out of a mean and says how many there were.
- Foreground in one mask only: Dice, Jaccard and surface Dice are 0, distances are NaN. Infinity would make every mean infinite, and
  the image's diagonal would measure the photographer's framing. So a mean distance flatters a model that misses
  objects; its Dice and the number of undefined distances beside it do not.
- Ignored pixels count nowhere. For distances both masks are background there: a boundary that runs anywhere within an
  ignored band costs nothing. (Where the band cuts both masks alike, their common edge counts with distance 0.)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np

from pixeltrust.plumbing.labels import IGNORE

if TYPE_CHECKING:  # counting does not need torch, and SciPy is loaded where it measures
    from torch import Tensor

_ROUNDED = 1e-6  # a share by which a distance may exceed a tolerance: headers keep spacings in single precision
_BOOTSTRAP_CELLS = 10_000_000  # resampled values held at once: 80 MB

Labels: TypeAlias = Union[np.ndarray, "Tensor"]


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


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """The surfaces of both masks together, in mm² (outlines of pictures: mm, or pixels)."""

    area: float
    far: float
    """Of the area, what is not within the tolerance of the other mask's surface."""


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

    Source: the boundaries and nearest distances on which MONAI's `compute_hausdorff_distance` is built.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    _check_shapes(predicted, truth)
    if spacing is not None and (len(spacing) != truth.ndim or not all(0 < step < np.inf for step in spacing)):
        raise ValueError(f"spacing {spacing} needs one number above 0 for each of the {truth.ndim} axes")
    real, found = _numpy(truth) == label, (_numpy(predicted) == label) & (_numpy(truth) != IGNORE)
    if not (real.any() and found.any()):
        return BoundaryDistances(to_truth=np.empty(0), to_predicted=np.empty(0))
    box = _bounding_box(real | found)
    found_edge, real_edge = (mask & ~binary_erosion(mask) for mask in (found[box], real[box]))
    return BoundaryDistances(
        to_truth=distance_transform_edt(~real_edge, sampling=spacing)[found_edge],
        to_predicted=distance_transform_edt(~found_edge, sampling=spacing)[real_edge],
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
    return float(np.concatenate([distances.to_truth, distances.to_predicted]).mean())


def surfaces(
    *, predicted: Labels, truth: Labels, label: int = 1, spacing: tuple[float, ...] | None = None, tolerance: float = 1.0
) -> Surfaces:
    """Measure the surfaces of both masks (outlines in a picture), and how much of them is within the tolerance of the other.

    A surface runs between pixel centres, as marching cubes draws it: between every 2x2 or 2x2x2 of them there is a piece of it, or none.
    Two pieces are as far apart as the places that they are between.

    Args:
        predicted, truth, label, spacing: as for `boundary_distances`; of two or three axes.
        tolerance: mm, or pixels where `spacing` is None.

    Source: S. Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy,
        arXiv 1809.04430; the pieces of the authors' package surface-distance, and of MONAI's `compute_surface_dice` with `use_subvoxels`.
    """
    from scipy.ndimage import distance_transform_edt

    _check_shapes(predicted, truth)
    real, found = _numpy(truth) == label, (_numpy(predicted) == label) & (_numpy(truth) != IGNORE)
    if not (real.any() or found.any()):
        return Surfaces(area=0.0, far=0.0)
    box = _bounding_box(real | found)
    pieces = _pieces(spacing or (1.0,) * real.ndim)
    areas = [pieces[_corner_codes(mask[box])] for mask in (found, real)]
    whole = far = float(sum(area.sum() for area in areas))
    if found.any() and real.any():
        ways = [(area[area > 0], distance_transform_edt(other == 0, sampling=spacing)[area > 0]) for area, other in (areas, areas[::-1])]
        far = float(sum(area[distance > tolerance * (1 + _ROUNDED)].sum() for area, distance in ways))
    return Surfaces(area=whole, far=far)


def surface_dice(measured: Surfaces) -> float:
    """Return the normalised surface Dice: the share of both surfaces within the tolerance of the other, 0 to 1; NaN without a surface."""
    return 1 - measured.far / measured.area if measured.area else float("nan")


def _corner_codes(mask: np.ndarray) -> np.ndarray:
    """Return which corners of every cube (square) of 2 pixel centres a side are in the mask, as bits, the last corner the lowest."""
    padded = np.pad(mask, 1)
    codes = np.zeros([extent + 1 for extent in mask.shape], np.uint8)
    for corner in np.ndindex((2,) * mask.ndim):
        codes = codes << 1 | padded[tuple(slice(start, start + extent + 1) for start, extent in zip(corner, mask.shape, strict=True))]
    return codes


@lru_cache
def _pieces(spacing: tuple[float, ...]) -> np.ndarray:
    """Return the area (length) of the surface in a cube (square) by the code of its corners."""
    from skimage import measure

    corners = 2 ** len(spacing)
    areas = np.zeros(2**corners)
    for code in range(1, len(areas) - 1):
        fewer = code if code.bit_count() <= corners // 2 else len(areas) - 1 - code  # the piece is the same from either side
        cube = np.array([fewer >> bit & 1 for bit in reversed(range(corners))], float).reshape((2,) * len(spacing))
        if cube.ndim == 3:
            areas[code] = measure.mesh_surface_area(*measure.marching_cubes(cube, 0.5, spacing=spacing, method="lorensen")[:2])
        else:
            lines = [line * spacing for line in measure.find_contours(cube, 0.5)]
            areas[code] = sum(float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum()) for line in lines)
    return areas


def case_metrics(
    *, predicted: Labels, truth: Labels, classes: int = 1, spacing: tuple[float, ...] | None = None, tolerance: float = 1.0
) -> dict[str, float]:
    """Measure all of METRICS for one case; with three classes or more also by class, as `dice_1`, `dice_2` …

    With three classes or more each number is the mean over the classes 1 … K−1 for which it is defined (a class in
    neither mask has no Dice, one in a single mask has Dice 0 and no distance). Accuracy is not per class: it is the
    share of counted pixels that have their right class.

    Args:
        predicted: labels (*S) of one case.
        truth: labels (*S), 255 where ignored.
        classes: 1 (binary, labels 0 and 1) or K ≥ 2 with the background.
        spacing: mm per pixel along each axis of *S; None measures in pixels.
        tolerance: of the surface Dice, in mm or pixels.
    """
    labels = range(1, max(classes, 2))
    counts = [confusion(predicted=predicted, truth=truth, label=label) for label in labels]
    distances = [boundary_distances(predicted=predicted, truth=truth, label=label, spacing=spacing) for label in labels]
    counted = truth != IGNORE
    right, pixels = int(((predicted == truth) & counted).sum()), int(counted.sum())
    overall = Confusion(true_positives=right, false_positives=pixels - right, false_negatives=0, true_negatives=0)
    pairs = [surfaces(predicted=predicted, truth=truth, label=label, spacing=spacing, tolerance=tolerance) for label in labels]
    per_class: dict[str, list[Any]] = {"share": counts, "distance": distances, "surface": pairs}
    measured = {
        name: [metric.measure(values) for values in (per_class[metric.unit] if metric.per_class else [overall])]
        for name, metric in METRICS.items()
    }
    by_class = {f"{name}_{label}": value for name, values in measured.items() for label, value in enumerate(values, 1) if len(values) > 1}
    return {name: mean_of_defined(values) for name, values in measured.items()} | by_class


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number for a case, computed from its counts of pixels or from its distances between boundaries."""

    title: str
    measure: Callable[[Any], float]
    """Takes a `Confusion` where the unit is a share, `BoundaryDistances` where it is a distance, else `Surfaces`."""
    unit: Literal["share", "distance", "surface"] = "share"
    """A share, of pixels or of a surface, is 0 … 1; a distance is in mm or pixels."""
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
    "surface_dice": Metric(title="surface Dice", measure=surface_dice, unit="surface"),
}
"""The metrics of a case by their names in tables. A new one is a function and an entry here."""


def metric_of(column: str) -> Metric:
    """Return the metric of a column: `dice`, or `dice_2` of the class 2."""
    return METRICS[column if column in METRICS else column.rpartition("_")[0]]


def mean_of_defined(values: list[float] | np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN where there are none."""
    defined = _defined(values)
    return float(defined.mean()) if len(defined) else float("nan")


def standard_error(values: np.ndarray, groups: Sequence[str] | None = None) -> tuple[float, int]:
    """Return the standard error of the mean of the defined values, and the number of independent draws; infinite for a single one.

    Args:
        values: (N,), NaN where not defined.
        groups: the group of each, which count as one draw; all are their own where not given.
    """
    import pandas as pd

    defined = ~np.isnan(values)
    off = values[defined] - values[defined].mean()
    sums = off if groups is None else pd.Series(off).groupby(np.asarray(groups)[defined]).sum().to_numpy()
    draws = len(sums)
    return (math.sqrt(float((sums**2).sum()) * draws / (draws - 1)) / len(off) if draws > 1 else math.inf), draws


def student_factor(draws: int, confidence: float = 0.95) -> float:
    """Return how many standard errors an interval reaches to either side of a mean of so many draws, by Student's t."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, max(draws - 1, 1)))


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
    from scipy import stats

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
    return labels if isinstance(labels, np.ndarray) else labels.cpu().numpy()


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(span[0], span[-1] + 1) for span in spans)
