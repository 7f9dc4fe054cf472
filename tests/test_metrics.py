"""Counts, ratios, distances and intervals, against cases worked by hand and independent definitions."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import distance_transform_edt

from examples import examples
from pixeltrust import metrics

RATIOS = (metrics.dice, metrics.jaccard, metrics.sensitivity, metrics.specificity, metrics.accuracy)
OVERLAPS = ("dice", "jaccard")
DISTANCES = ("hausdorff95", "surface_distance")

masks = npst.arrays(np.uint8, (5, 6), elements=st.integers(0, 1))
ignoring_masks = npst.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 255]))
three_classes = npst.arrays(np.uint8, (5, 6), elements=st.integers(0, 2))
unhurried = settings(deadline=None)  # the machine may be busy


def counts(predicted, truth, label=1):
    return metrics.confusion(predicted=np.array(predicted), truth=np.array(truth), label=label)


def distances(predicted, truth, spacing=None):
    found = metrics.boundary_distances(predicted=np.array(predicted), truth=np.array(truth), spacing=spacing)
    return metrics.hausdorff95(found), metrics.surface_distance(found)


def pixels(*places, shape=(8, 12)):
    mask = np.zeros(shape, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def disk(row, column, radius, size=48):
    rows, columns = np.ogrid[:size, :size]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.uint8)


def test_a_case_worked_by_hand_has_its_five_ratios():
    found = counts(predicted=[[1, 1, 1, 0, 0]], truth=[[1, 1, 0, 1, 0]])
    assert found == metrics.Confusion(true_positives=2, false_positives=1, false_negatives=1, true_negatives=1)
    assert [ratio(found) for ratio in RATIOS] == [4 / 6, 2 / 4, 2 / 3, 1 / 2, 3 / 5]


def test_sensitivity_and_specificity_tell_prediction_from_truth():
    over, under = counts([[1, 1, 1, 0]], [[1, 0, 0, 0]]), counts([[1, 0, 0, 0]], [[1, 1, 1, 0]])
    assert (metrics.sensitivity(over), metrics.specificity(over)) == (1, 1 / 3)
    assert (metrics.sensitivity(under), metrics.specificity(under)) == (1 / 3, 1)


@unhurried
@given(masks, ignoring_masks)
def test_counts_equal_a_loop_over_the_pixels(predicted, truth):
    seen = [(int(p), int(t)) for p, t in zip(predicted.flat, truth.flat, strict=True) if t != 255]
    expected = [seen.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert list(vars(counts(predicted, truth)).values()) == expected


@unhurried
@given(masks, ignoring_masks)
def test_ratios_lie_between_0_and_1_and_dice_follows_from_jaccard(predicted, truth):
    found = counts(predicted, truth)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in (ratio(found) for ratio in RATIOS))
    d, j = metrics.dice(found), metrics.jaccard(found)
    # two quotients of small integers: equal but for the rounding of three operations
    assert math.isnan(d) == math.isnan(j)
    assert math.isnan(d) or d == pytest.approx(2 * j / (1 + j), rel=1e-15)


@unhurried
@given(masks, masks)
def test_overlaps_and_distances_do_not_change_when_the_masks_are_swapped(predicted, truth):
    one, other = (metrics.case_metrics(predicted=a, truth=b) for a, b in ((predicted, truth), (truth, predicted)))
    # the mean of distances adds them in another order
    assert [one[n] for n in (*OVERLAPS, *DISTANCES)] == pytest.approx([other[n] for n in (*OVERLAPS, *DISTANCES)], rel=1e-12, nan_ok=True)


@unhurried
@given(ignoring_masks, masks, ignoring_masks)
def test_what_is_predicted_at_ignored_pixels_changes_nothing(truth, predicted, elsewhere):
    changed = np.where(truth == 255, elsewhere, predicted)
    one, other = (metrics.case_metrics(predicted=p, truth=truth) for p in (predicted, changed))
    assert one == pytest.approx(other, rel=0, abs=0, nan_ok=True)


def test_two_empty_masks_have_no_overlap_and_no_distance():
    numbers = metrics.case_metrics(predicted=pixels(), truth=pixels())
    undefined = {name for name, value in numbers.items() if math.isnan(value)}
    assert undefined == {"dice", "jaccard", "sensitivity", "hausdorff95", "surface_distance", "surface_dice"}
    assert numbers["specificity"] == numbers["accuracy"] == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_one_empty_mask_has_dice_0_and_no_distance(swapped):
    pair = [pixels((2, 2)), pixels()]
    predicted, truth = reversed(pair) if swapped else pair
    numbers = metrics.case_metrics(predicted=predicted, truth=truth)
    assert numbers["dice"] == numbers["jaccard"] == numbers["surface_dice"] == 0
    assert math.isnan(numbers["hausdorff95"])
    assert math.isnan(numbers["surface_distance"])
    assert math.isnan(numbers["sensitivity"]) != swapped  # 0 where the truth has pixels, undefined where it has none


def test_a_truth_that_is_ignored_everywhere_defines_nothing():
    numbers = metrics.case_metrics(predicted=pixels((2, 2)), truth=np.full((8, 12), 255, np.uint8))
    assert all(math.isnan(value) for value in numbers.values())
    assert list(numbers) == list(metrics.METRICS)


def test_distances_between_two_single_pixels_are_measured_in_the_given_spacing():
    predicted, truth = pixels((1, 1)), pixels((4, 5))
    assert distances(predicted, truth) == (5, 5)
    assert distances(predicted, truth, spacing=(1.0, 0.5)) == pytest.approx((math.sqrt(13),) * 2, rel=1e-6)  # float32
    assert distances(predicted, truth, spacing=(0.5, 1.0)) == pytest.approx((math.sqrt(18.25),) * 2, rel=1e-6)


def test_the_surface_distance_averages_over_both_boundaries():
    # from the one predicted pixel 0; from the true ones 0, 1, 2, 3
    predicted, truth = pixels((3, 3)), pixels((3, slice(3, 7)))
    hausdorff, surface = distances(predicted, truth)
    assert surface == (0 + 0 + 1 + 2 + 3) / 5
    assert hausdorff == pytest.approx(2.85, rel=1e-6)  # 95 % of the way along 0, 1, 2, 3; distances are float32


def test_the_95th_percentile_forgives_a_stray_pixel_among_many():
    truth = disk(24, 24, 14)
    stray = truth.copy()
    stray[0, 47] = 1
    hausdorff, surface = distances(stray, truth)
    assert hausdorff == 0
    assert surface > 0


def test_a_mask_at_the_images_border_has_its_boundary_there():
    whole, inner = np.ones((6, 6), np.uint8), pixels(np.s_[2:4, 2:4], shape=(6, 6))
    # from the 20 pixels of the rim: 4 corners √8, 8 beside them √5, 8 in the middle 2; from the 4 inner ones 2
    assert distances(whole, inner)[1] == pytest.approx((4 * math.sqrt(8) + 8 * math.sqrt(5) + 8 * 2 + 4 * 2) / 24, rel=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 2.0)])
def test_distances_equal_those_read_off_a_distance_transform(spacing):
    predicted, truth = disk(20, 22, 11), disk(26, 25, 13)

    def rim(mask):
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (-1, 1)]
        return (mask == 1) & (np.min(neighbours, axis=0) == 0)

    ways = [distance_transform_edt(~rim(b), sampling=spacing)[rim(a)] for a, b in ((predicted, truth), (truth, predicted))]
    expected = max(np.percentile(way, 95) for way in ways), np.concatenate(ways).mean()
    assert distances(predicted, truth, spacing) == pytest.approx(expected, rel=1e-6)  # distances are float32


@examples(25)
@given(masks.filter(np.any), masks.filter(np.any))
def test_distances_equal_monais_own_functions(predicted, truth):
    pair = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes itself (its issue 9059)
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hausdorff = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=[2.0, 0.5])
        surface = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=[2.0, 0.5])
    # MONAI interpolates percentiles in float32, which cancels near 0
    assert distances(predicted, truth, (2.0, 0.5)) == pytest.approx((hausdorff.item(), surface.item()), rel=1e-4)


volumes = npst.arrays(np.uint8, (3, 5, 6), elements=st.integers(0, 1)).filter(np.any)


@examples(25)
@given(volumes, volumes, st.sampled_from([0.5, 1.0, 2.2, 5.0]))
def test_numbers_of_volumes_equal_monais_in_mm(predicted, truth, tolerance):
    spacing = (5.0, 0.5, 1.0)  # ten to one
    pair = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hausdorff = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
        surface = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=list(spacing))
        share = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=spacing, use_subvoxels=True)
    numbers = metrics.case_metrics(predicted=predicted, truth=truth, spacing=spacing, tolerance=tolerance)
    expected = [hausdorff.item(), surface.item(), share.item()]
    assert [numbers[name] for name in (*DISTANCES, "surface_dice")] == pytest.approx(expected, rel=1e-4)


@examples(25)
@given(masks.filter(np.any), masks.filter(np.any), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_the_surface_dice_of_pictures_equals_monais(predicted, truth, tolerance):
    pair = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        share = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=(2.0, 0.5), use_subvoxels=True)
    numbers = metrics.case_metrics(predicted=predicted, truth=truth, spacing=(2.0, 0.5), tolerance=tolerance)
    assert numbers["surface_dice"] == pytest.approx(share.item(), rel=1e-5)


def test_the_surface_dice_counts_what_is_within_the_tolerance():
    predicted, truth = (np.zeros((4, 12, 12), np.uint8) for _ in range(2))
    truth[:, 2:8, 2:8] = 1
    predicted[:, 2:8, 3:9] = 1
    shares = [
        metrics.case_metrics(predicted=predicted, truth=truth, spacing=(5.0, 1.0, np.float32(0.1).item()), tolerance=mm)["surface_dice"]
        for mm in (0, 0.1)
    ]
    assert 0 < shares[0] < 1
    assert shares[1] == 1  # though single precision makes .1 a little more


def test_several_classes_are_measured_one_by_one_too():
    truth = np.repeat(np.array([0, 1, 2, 2], np.uint8), 8).reshape(4, 8)
    predicted = truth.copy()
    predicted[2] = 1
    numbers = metrics.case_metrics(predicted=predicted, truth=truth, classes=3)
    assert (numbers["dice_1"], numbers["dice_2"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert numbers["hausdorff95"] == pytest.approx((numbers["hausdorff95_1"] + numbers["hausdorff95_2"]) / 2)
    assert "accuracy_1" not in numbers
    assert metrics.metric_of("surface_dice_2") is metrics.METRICS["surface_dice"]


def test_a_boundary_anywhere_within_an_ignored_band_costs_nothing():
    truth, predicted = disk(24, 24, 10), disk(24, 24, 12)
    assert distances(predicted, truth)[1] > 1
    band = np.where((disk(24, 24, 13) == 1) & (disk(24, 24, 9) == 0), 255, truth)
    assert distances(predicted, band) == (0, 0)


def test_distances_do_not_depend_on_where_in_the_image_the_masks_lie():
    predicted, truth = disk(14, 15, 6), disk(15, 17, 7)
    moved = [np.roll(mask, (11, 9), (0, 1)) for mask in (predicted, truth)]
    assert distances(*moved) == distances(predicted, truth)


def test_tensors_give_the_same_numbers_as_arrays():
    predicted, truth = disk(20, 22, 11), np.where(disk(4, 4, 5) == 1, 255, disk(26, 25, 13)).astype(np.uint8)
    assert metrics.case_metrics(predicted=torch.from_numpy(predicted), truth=torch.from_numpy(truth)) == metrics.case_metrics(
        predicted=predicted, truth=truth
    )


def test_with_more_classes_each_number_is_the_mean_over_those_that_define_it():
    predicted, truth = np.array([[1, 1, 2, 0, 0, 0]]), np.array([[1, 1, 0, 0, 0, 0]])
    numbers = metrics.case_metrics(predicted=predicted, truth=truth, classes=4)  # class 3 is nowhere
    assert numbers["dice"] == (1 + 0) / 2
    assert numbers["sensitivity"] == 1
    assert numbers["specificity"] == (1 + 5 / 6 + 1) / 3
    assert numbers["accuracy"] == 5 / 6
    assert numbers["hausdorff95"] == 0


@unhurried
@given(masks, ignoring_masks)
def test_two_classes_are_measured_as_one_and_its_background(predicted, truth):
    one, two = (metrics.case_metrics(predicted=predicted, truth=truth, classes=k) for k in (1, 2))
    assert one == pytest.approx(two, rel=0, abs=0, nan_ok=True)


@unhurried
@given(three_classes)
def test_a_perfect_prediction_is_perfect_in_every_class(truth):
    numbers = metrics.case_metrics(predicted=truth, truth=truth, classes=3)
    assert all(
        math.isnan(value) or value == (0 if name.removesuffix("_1").removesuffix("_2") in DISTANCES else 1)
        for name, value in numbers.items()
    )
    assert math.isnan(numbers["dice"]) == (not truth.any())


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"predicted \(8, 12\) and truth \(12, 8\)"):
        metrics.case_metrics(predicted=pixels(), truth=pixels(shape=(12, 8)))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, math.nan)])
def test_an_impossible_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        distances(pixels((1, 1)), pixels((1, 2)), spacing)


def test_an_interval_is_repeated_by_its_seed_and_by_no_other():
    values = np.random.default_rng(3).beta(6, 1, 40)
    assert metrics.bootstrap_interval(values, seed=1) == metrics.bootstrap_interval(values, seed=1)
    assert metrics.bootstrap_interval(values, seed=1) != metrics.bootstrap_interval(values, seed=2)


def test_an_interval_leaves_out_what_is_not_defined():
    values = np.random.default_rng(3).beta(6, 1, 40)
    with_gaps = np.insert(values, [0, 7, 7, 40], np.nan)
    assert metrics.bootstrap_interval(with_gaps) == metrics.bootstrap_interval(values)


@pytest.mark.parametrize("values", [[], [0.7], [0.7, math.nan]])
def test_fewer_than_two_values_have_no_interval(values):
    assert all(math.isnan(bound) for bound in metrics.bootstrap_interval(values))


def test_the_interval_of_equal_values_is_that_value():
    assert metrics.bootstrap_interval([0.75] * 5) == (0.75, 0.75)


def test_an_interval_agrees_with_the_normal_approximation_for_many_cases():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    half = 1.96 * values.std() / math.sqrt(400)
    low, high = metrics.bootstrap_interval(values)
    # the bounds of 2,000 resamples waver by about 4 % of the half-width
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_a_higher_confidence_and_fewer_cases_give_wider_intervals():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)

    def width(chosen, **options):
        low, high = metrics.bootstrap_interval(chosen, **options)
        return high - low

    assert width(values, confidence=0.99) > 1.2 * width(values) > 1.2 * width(values, confidence=0.8)
    assert width(values[:25]) > 2 * width(values)


def test_nearly_95_of_100_intervals_hold_the_true_mean():
    generator = np.random.default_rng(0)
    samples = generator.beta(6, 2, (200, 50))
    intervals = [metrics.bootstrap_interval(sample, resamples=500) for sample in samples]
    held = sum(low <= 0.75 <= high for low, high in intervals)
    assert 0.88 <= held / 200 <= 0.99  # nominally .95, with a standard error of .015, and a little short of it


def test_the_number_of_resamples_held_at_once_changes_no_interval(monkeypatch):
    values = np.random.default_rng(0).random(30)
    expected = metrics.bootstrap_interval(values)
    monkeypatch.setattr(metrics, "_BOOTSTRAP_CELLS", 100)
    assert metrics.bootstrap_interval(values) == expected
