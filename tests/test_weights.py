"""The weights and the step: against the differentiated step, the special cases of the method, and what must stay untouched."""

import copy
import math
from itertools import cycle, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import pixel_cross_entropy
from pixeltrust.method.weights import Step, normalise_gains, pixel_gains, pixel_weights, reweighted_step
from reference import (
    DEEP,
    NETWORKS,
    WITH_BATCH_NORM,
    PlainUNet,
    assert_equal_to_rounding,
    batch,
    clamped,
    clean_mean,
    differentiated_gains,
    network,
    reference_gradients,
    seeded,
)

MODES = [(1, True), (3, False)]  # classes, training
LARGE = ("basic-unet", "unetr")  # in 3-D they take most of the time of all
CASES = [
    pytest.param(
        name,
        dims,
        classes,
        training,
        id=f"{name}-{dims}d-{classes}-{'train' if training else 'eval'}",
        marks=pytest.mark.slow if (dims == 3 and name in LARGE) or (classes, training) != MODES[dims == 2] else (),
    )
    for name in NETWORKS
    for dims in (2, 3)
    for classes, training in ([*MODES, (1, False), (3, True)] if name in WITH_BATCH_NORM else MODES)
]
SOME_NETWORKS = [
    pytest.param(name, marks=() if name in ("plain-batch-norm", "patches", "seg-res-net") else pytest.mark.slow) for name in NETWORKS
]
FUNCTIONS = (pixel_gains, pixel_weights, reweighted_step)
BOTH_GAINS = ("exact", "finite-difference")


class Table(nn.Module):
    """The logits are the parameter: every pixel is its own model."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits + 0 * images.sum()


class Slope(nn.Module):
    """logits = a · images, with one number a."""

    def __init__(self, a=0.5):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, images):
        return self.a * images


class Fails(nn.Module):
    """Raises from its n-th call on."""

    def __init__(self, model, at):
        super().__init__()
        self.model, self.left = model, at

    def forward(self, images):
        logits = self.model(images)
        self.left -= 1
        if self.left <= 0:
            raise ArithmeticError("a fault of the network's own")
        return logits


def batches_for(name, dims, classes):
    size = 16 if dims == 2 or name in DEEP else 8
    return (batch(seed, dims=dims, classes=classes, size=size) for seed in (1, 2))


def uniform(label, value=1.0, images=1, size=2):
    """Every pixel the same: what happens can be worked by hand."""
    return Batch(torch.full((images, 1, size, size), value, dtype=torch.float64), torch.full((images, size, size), label))


def places(model):
    """Each parameter under every name it has, and what hangs on it."""
    return {
        name: (id(p), p.requires_grad, p.grad if p.grad is None else p.grad.clone(), p.detach().clone())
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def buffers(model):
    return {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}


def same(before, after):
    def entry_same(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b

    return before.keys() == after.keys() and all(
        all(entry_same(a, b) for a, b in zip(before[name], after[name], strict=True)) for name in before
    )


# --- the method -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dims", "classes", "training"), CASES)
def test_weights_equal_the_differentiated_step_and_the_step_adds_the_gradient_of_the_weighted_loss(name, dims, classes, training):
    model = network(name, dims, classes).train(training)
    noisy, clean = batches_for(name, dims, classes)
    gains = differentiated_gains(model, noisy=noisy, clean=clean)
    weights = clamped(gains)
    assert 0 < (gains > 0).double().mean() < 1  # else the clamp is not tried
    assert_equal_to_rounding(pixel_gains(model, noisy=noisy, clean=clean), gains)
    assert_equal_to_rounding(pixel_weights(model, noisy=noisy, clean=clean), weights)
    expected = reference_gradients(model, weights=weights, noisy=noisy, clean=clean, clean_weight=0.7)
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=0.7)
    assert_equal_to_rounding(step.weights, weights)
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for parameter_name, parameter in model.named_parameters():
        # A bias before a norm has a gradient that is 0 but for rounding: hence the absolute part.
        torch.testing.assert_close(parameter.grad, expected[parameter_name], rtol=1e-9, atol=1e-12 * float(largest))


def test_the_weights_are_constants_of_the_backward():
    """With λ = 0 and the paper's update, no gradient flows through the weights: the reference treats them as numbers."""
    model, noisy, clean = network("plain"), batch(1), batch(2)
    step = reweighted_step(model, noisy=noisy, clean=clean)
    expected = reference_gradients(model, weights=step.weights, noisy=noisy, clean=clean, clean_weight=0.0)
    for name, parameter in model.named_parameters():
        assert_equal_to_rounding(parameter.grad, expected[name])
    for field in (step.loss, step.clean_loss, step.weights, step.gains, step.logits):
        assert not field.requires_grad


def test_a_step_reports_what_it_saw():
    model, noisy, clean = network("plain"), batch(1), batch(2)
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=0.7)
    assert_equal_to_rounding(step.gains, pixel_gains(model, noisy=noisy, clean=clean))
    assert_equal_to_rounding(step.weights, pixel_weights(model, noisy=noisy, clean=clean))
    assert_equal_to_rounding(step.logits, model(noisy.images).detach())
    assert_equal_to_rounding(step.clean_loss, clean_mean(model(clean.images), clean.masks).detach())
    weighted = (step.weights * pixel_cross_entropy(step.logits, noisy.masks)).sum()
    assert_equal_to_rounding(step.loss, weighted + 0.7 * step.clean_loss)
    assert torch.equal(step.counted, noisy.masks != 255)


@pytest.mark.parametrize("gains", BOTH_GAINS)
def test_a_gain_worked_by_hand(gains):
    """logits = a x; noisy x = 2 on foreground, clean x = 1 on foreground: gain = 2 (σ(2a) − 1) · (σ(a) − 1)."""
    sigma = torch.sigmoid(torch.tensor([0.5, 1.0], dtype=torch.float64))
    gain = pixel_gains(Slope(0.5), noisy=uniform(1, value=2.0), clean=uniform(1), gains=gains)
    # 1e-6: a one-sided difference in float64 with h = 3e-8 is that exact.
    torch.testing.assert_close(gain, (2 * (sigma[1] - 1) * (sigma[0] - 1)).expand(1, 2, 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gains", BOTH_GAINS)
def test_a_step_repeats_to_the_bit(gains):
    results = []
    for _ in range(2):
        model = network("monai-unet-batch", dtype=torch.float32).train()
        noisy, clean = batch(1, dtype=torch.float32), batch(2, dtype=torch.float32)
        step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, gains=gains)
        results.append([step.loss, step.weights, step.gains, step.logits, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_float32_agrees_with_float64():
    exact = pixel_weights(network("plain"), noisy=batch(1), clean=batch(2))
    single = pixel_weights(network("plain", dtype=torch.float32), noisy=batch(1, dtype=torch.float32), clean=batch(2, dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.max()))  # 24-bit sums over 500 pixels


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_callers_grad_mode_does_not_matter(function):
    def weights(model):
        found = function(model, noisy=batch(1), clean=batch(2))
        return found.weights if isinstance(found, Step) else found

    with torch.no_grad():
        without = weights(network("plain"))
    assert torch.equal(without, weights(network("plain")))
    assert not without.requires_grad


# --- special cases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
def test_where_no_pixel_helps_the_noisy_part_does_nothing(clean_weight):
    """Clean says foreground, noisy says background, everywhere alike: every gain is negative."""
    model = Slope()
    step = reweighted_step(model, noisy=uniform(0), clean=uniform(1), clean_weight=clean_weight)
    assert (step.gains < 0).all()
    assert (step.weights == 0).all()
    assert step.all_zero
    assert step.zero_share == 1
    assert step.effective_pixels == 0
    assert_equal_to_rounding(model.a.grad, clean_weight * (torch.sigmoid(model.a.detach()) - 1))
    assert_equal_to_rounding(step.loss, clean_weight * step.clean_loss)


@pytest.mark.parametrize("classes", [1, 3])
def test_on_the_clean_batch_itself_the_total_gain_is_the_squared_gradient_per_counted_pixel(classes):
    model, clean = network("plain", classes=classes), batch(2, classes=classes)
    gradient = torch.autograd.grad(clean_mean(model(clean.images), clean.masks), list(model.parameters()))
    squared = sum((g**2).sum() for g in gradient)
    total = pixel_gains(model, noisy=clean, clean=clean).sum()
    assert_equal_to_rounding(total, squared * (clean.masks != 255).sum())


def test_scaling_the_clean_loss_scales_the_gains_and_leaves_the_weights():
    model, noisy, clean = network("plain"), batch(1, images=2), batch(2, images=3)

    def times_five_on_clean(logits, masks):
        return pixel_cross_entropy(logits, masks) * (5 if len(masks) == 3 else 1)

    scaled = {"noisy": noisy, "clean": clean, "pixel_loss": times_five_on_clean}
    assert_equal_to_rounding(pixel_gains(model, **scaled), 5 * pixel_gains(model, noisy=noisy, clean=clean))
    assert_equal_to_rounding(pixel_weights(model, **scaled), pixel_weights(model, noisy=noisy, clean=clean))


def test_a_clean_batch_given_twice_over_changes_no_gain():
    model, noisy, clean = network("plain"), batch(1), batch(2)
    twice = Batch(clean.images.repeat(2, 1, 1, 1), clean.masks.repeat(2, 1, 1))
    assert_equal_to_rounding(pixel_gains(model, noisy=noisy, clean=twice), pixel_gains(model, noisy=noisy, clean=clean))


@pytest.mark.parametrize("classes", [1, 3])
def test_gains_summed_per_image_are_the_image_weights_of_ren_et_al(classes):
    model, clean = network("plain", classes=classes), batch(2, classes=classes)
    noisy = batch(1, classes=classes, images=4)
    noisy.masks[:2] = torch.where(noisy.masks[:2] == 255, 255, max(classes, 2) - 1 - noisy.masks[:2])  # two images hurt
    images = differentiated_gains(model, noisy=noisy, clean=clean, per_image=True)
    assert (images > 0).any()
    assert (images < 0).any()
    summed = pixel_gains(model, noisy=noisy, clean=clean).flatten(1).sum(1)
    assert_equal_to_rounding(normalise_gains(summed), clamped(images))


@pytest.mark.parametrize("classes", [1, 3])
def test_ignored_pixels_have_no_weight_no_gradient_and_no_say(classes):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, classes, 4, 4, generator=random, dtype=torch.float64)
    masks = torch.randint(0, max(classes, 2), (1, 4, 4), generator=random)
    masks[0, :2] = 255
    images = torch.zeros(1, 1, 4, 4, dtype=torch.float64)

    def step(logits):
        model = Table(logits.clone())
        found = reweighted_step(model, noisy=Batch(images, masks), clean=Batch(images, masks), clean_weight=1.0)
        return found, model.logits.grad

    (found, gradient), other = step(logits), logits.clone()
    other[:, :, :2] = torch.tensor([1e3, -1e3, 0.0, 7.0])
    changed, changed_gradient = step(other)
    for outcome, slope in ((found, gradient), (changed, changed_gradient)):
        assert (outcome.weights[0, :2] == 0).all()
        assert (outcome.gains[0, :2] == 0).all()
        assert (slope[:, :, :2] == 0).all()
        assert (outcome.weights[0, 2:] > 0).all()
    assert torch.equal(found.loss, changed.loss)
    assert torch.equal(found.weights, changed.weights)
    assert torch.equal(gradient, changed_gradient)


def test_a_loss_of_the_users_that_forgets_to_ignore_is_not_fooled():
    def forgetful(logits, masks):
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.to(logits.dtype), reduction="none")

    model, noisy, clean = network("plain"), batch(1), batch(2)
    arguments = {"noisy": noisy, "clean": clean}
    assert_equal_to_rounding(pixel_weights(model, pixel_loss=forgetful, **arguments), pixel_weights(model, **arguments))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_clean_batch_of_ignored_pixels_says_nothing(function):
    found = function(Slope(), noisy=uniform(1), clean=uniform(255))
    for values in (found,) if isinstance(found, torch.Tensor) else (found.gains, found.weights, found.loss, found.clean_loss):
        assert (values == 0).all()


def test_a_noisy_batch_of_ignored_pixels_does_nothing():
    model = Slope()
    step = reweighted_step(model, noisy=uniform(255), clean=uniform(1))
    assert step.all_zero
    assert (step.gains == 0).all()
    assert math.isnan(step.zero_share)
    assert step.loss == 0
    assert model.a.grad == 0


@pytest.mark.parametrize("gains", BOTH_GAINS)
def test_a_clean_gradient_of_zero_gives_no_weights(gains):
    """Images of zeros: nothing that the network can learn from them."""
    model = Slope()
    step = reweighted_step(model, noisy=uniform(1), clean=uniform(1, value=0.0), gains=gains)
    assert step.all_zero
    assert model.a.grad == 0


# --- what stays as it was ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "gains"), [(name, *how) for name, how in zip(NETWORKS, cycle(product(FUNCTIONS, BOTH_GAINS)))]
)
def test_every_parameter_is_the_same_object_under_every_name(name, function, gains):
    model = network(name, classes=3).train()
    next(model.parameters()).requires_grad_(False)
    before = {key: value[:2] for key, value in places(model).items()}
    function(model, noisy=batch(1, classes=3), clean=batch(2, classes=3), gains=gains)
    assert {key: value[:2] for key, value in places(model).items()} == before
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


@pytest.mark.parametrize("gains", BOTH_GAINS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [pixel_gains, pixel_weights])
def test_gains_and_weights_leave_the_model_untouched(function, training, gains):
    model = network("monai-unet-batch").train(training)
    for seed, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, seed) if seed % 2 else None
    parameters_before, buffers_before = places(model), buffers(model)
    function(model, noisy=batch(1), clean=batch(2), gains=gains)
    assert same(places(model), parameters_before)
    assert same(buffers(model), buffers_before)
    assert model.training is training


@pytest.mark.parametrize("gains", BOTH_GAINS)
@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
def test_running_statistics_see_the_noisy_batch_once_and_the_clean_one_if_it_trains(clean_weight, gains):
    model, noisy, clean = network("monai-unet-batch").train(), batch(1), batch(2)
    plain = copy.deepcopy(model)
    if clean_weight > 0:
        plain(clean.images)
    plain(noisy.images)
    reweighted_step(model, noisy=noisy, clean=clean, clean_weight=clean_weight, gains=gains)
    for (name, actual), expected in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14, msg=name)  # the order of sums in a mean


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
def test_a_step_accumulates_as_backward_does(clean_weight):
    fresh, model = network("plain"), network("plain")
    arguments = {"noisy": batch(1), "clean": batch(2), "clean_weight": clean_weight}
    reweighted_step(fresh, **arguments)
    held = {p: torch.full_like(p, 0.25) for p in model.parameters()}
    for parameter, gradient in held.items():
        parameter.grad = gradient
    reweighted_step(model, **arguments)
    for (parameter, gradient), expected in zip(held.items(), fresh.parameters(), strict=True):
        assert parameter.grad is gradient
        assert_equal_to_rounding(gradient, 0.25 + expected.grad)


@pytest.mark.parametrize("gains", BOTH_GAINS)
def test_frozen_parameters_have_no_tangent_and_get_no_gradient(gains):
    model, noisy, clean = network("plain"), batch(1), batch(2)
    everything = pixel_gains(model, noisy=noisy, clean=clean)
    model.down.requires_grad_(False)
    expected = differentiated_gains(model, noisy=noisy, clean=clean)
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, gains=gains)
    torch.testing.assert_close(step.gains, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))  # the finite difference's own error
    assert not torch.allclose(step.gains, everything, rtol=1e-2)
    assert all(p.grad is None for p in model.down.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize("gains", BOTH_GAINS)
def test_a_parameter_that_no_loss_reaches_stays_without_gradient(gains):
    model = network("plain")
    model.spare = nn.Linear(2, 2)
    reweighted_step(model, noisy=batch(1), clean=batch(2), clean_weight=1.0, gains=gains)
    assert model.spare.weight.grad is None


@pytest.mark.parametrize(
    ("gains", "at"), [("exact", 1), ("exact", 2), ("finite-difference", 1), ("finite-difference", 2), ("finite-difference", 3)]
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_after_an_exception_in_the_network_the_parameters_are_as_before(function, gains, at):
    model = Fails(network("monai-unet-batch").train(), at)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    parameters_before, buffers_before = places(model), buffers(model)
    with pytest.raises(ArithmeticError, match="a fault of the network's own"):
        function(model, noisy=batch(1), clean=batch(2), gains=gains)
    assert same(places(model), parameters_before)
    if function is not reweighted_step:
        assert same(buffers(model), buffers_before)
    model.left = 100
    function(model, noisy=batch(1), clean=batch(2), gains=gains)  # and it can go on


# --- batches ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ((2, 3, 8, 8), (3, 8, 8)),
        ((2, 3, 8, 8), (2, 8, 9)),
        ((2, 3, 8, 8), (2, 3, 8, 8)),
        ((2, 3, 8, 8), (8, 8)),
        ((2, 3, 4, 8, 8), (2, 8, 8)),
        ((2, 8, 8), (2, 3, 8, 8)),  # swapped
        ((2, 1, 8, 8), (2, 3, 8, 8)),  # swapped
        ((2, 8), (2,)),
    ],
)
def test_images_and_masks_that_do_not_agree_are_named_with_both_shapes(images, masks):
    with pytest.raises(ValueError, match=r"do not agree \(swapped\?\)") as error:
        Batch(torch.zeros(images), torch.zeros(masks))
    assert str(images) in str(error.value)
    assert str(masks) in str(error.value)


def test_a_swapped_pair_of_one_channel_is_told_by_its_dtype_and_names_both_shapes():
    with pytest.raises(ValueError, match=r"images must be floats.*\(2, 1, 8, 8\).*\(2, 1, 8, 8\)"):
        Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.rand(2, 1, 8, 8))


def test_a_swapped_pair_of_floats_is_told_by_its_labels():
    swapped = Batch(torch.ones(2, 1, 8, 8), torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="values that no class has"):
        pixel_weights(network("plain", dtype=torch.float32), noisy=swapped, clean=swapped)


def test_masks_with_an_axis_of_one_are_the_same_masks():
    plain = batch(1)
    assert torch.equal(Batch(plain.images, plain.masks.unsqueeze(1)).masks, plain.masks)
    volume = batch(1, dims=3, size=4)
    assert torch.equal(Batch(masks=volume.masks.unsqueeze(1), images=volume.images).masks, volume.masks)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.float16, torch.bfloat16, torch.float32]
)
def test_masks_of_any_dtype_give_the_same_weights(dtype):
    model, noisy, clean = network("plain"), batch(1, ignored=0), batch(2, ignored=0)
    expected = pixel_weights(model, noisy=noisy, clean=clean)
    actual = pixel_weights(model, noisy=Batch(noisy.images, noisy.masks.to(dtype)), clean=Batch(clean.images, clean.masks.to(dtype)))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.float16, torch.bfloat16, torch.float32])
def test_255_is_ignored_in_every_dtype_that_holds_it(dtype):
    model, noisy, clean = network("plain"), batch(1), batch(2)
    expected = pixel_weights(model, noisy=noisy, clean=clean)
    actual = pixel_weights(model, noisy=Batch(noisy.images, noisy.masks.to(dtype)), clean=Batch(clean.images, clean.masks.to(dtype)))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_with_their_channels_last_work_with_group_norm(channels):
    """As read from disk and permuted; with one channel such strides count as contiguous, which `contiguous()` leaves."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 8, 8, channels, generator=random, dtype=torch.float64).permute(0, 3, 1, 2)
    masks = torch.randint(0, 2, (2, 8, 8), generator=random)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1)))
    usual = Batch(images.clone(memory_format=torch.contiguous_format).reshape(-1).view(images.shape), masks)
    last = Batch(images, masks)
    assert torch.equal(
        reweighted_step(model, noisy=last, clean=last).weights,
        reweighted_step(model, noisy=usual, clean=usual).weights,
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [2, -1, 254, 0.5, math.nan])
@pytest.mark.parametrize("place", ["noisy", "clean"])
def test_a_label_that_no_class_has_is_an_error(function, value, place):
    batches = {"noisy": batch(1), "clean": batch(2)}
    masks = batches[place].masks.double()
    masks[0, 3, 3] = value
    batches[place] = Batch(batches[place].images, masks)
    with pytest.raises(ValueError, match="values that no class has"):
        function(network("plain"), **batches)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_logits_of_another_size_than_the_masks_are_an_error(function):
    model = seeded(lambda: nn.Conv2d(1, 1, 2, stride=2))
    with pytest.raises(ValueError, match=r"logits \(2, 1, 8, 8\), masks \(2, 16, 16\)"):
        function(model, noisy=batch(1), clean=batch(2))


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_gains_along_some_parameters_and_along_the_others_add_up(gains):
    """Each is an inner product over its own parameters."""
    model, batches = network("basic-unet"), {"noisy": batch(1), "clean": batch(2), "gains": gains}
    parameters = list(model.parameters())
    parts = [pixel_gains(model, along=iter(some), **batches) for some in (parameters[:5], parameters[5:])]
    whole = pixel_gains(model, **batches)
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=(1e-12 if gains == "exact" else 1e-6) * float(whole.abs().max()))
    assert all(float((part - whole).abs().max()) > 0.01 * float(whole.abs().max()) for part in parts)


@pytest.mark.parametrize("clean_weight", [0, 0.7])
def test_a_step_along_some_parameters_updates_all(clean_weight):
    model, noisy, clean = network("basic-unet"), batch(1), batch(2)
    some = list(model.parameters())[-4:]
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=clean_weight, along=some)
    assert_equal_to_rounding(step.weights, pixel_weights(model, noisy=noisy, clean=clean, along=some))
    expected = reference_gradients(model, weights=step.weights, noisy=noisy, clean=clean, clean_weight=clean_weight)
    for name, parameter in model.named_parameters():
        assert_equal_to_rounding(parameter.grad, expected[name])


def test_gains_along_nothing_are_an_error():
    model = network("plain").requires_grad_(False)
    with pytest.raises(ValueError, match="along has no parameter that requires a gradient; leave it out"):
        pixel_gains(model, noisy=batch(1), clean=batch(2), along=model.parameters())


def test_unknown_gains_and_a_negative_clean_weight_are_errors():
    batches = {"noisy": batch(1), "clean": batch(2)}
    with pytest.raises(ValueError, match="per must be 'pixel' or 'image', not 'case'"):
        reweighted_step(network("plain"), **batches, per="case")
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match="gains must be one of 'exact', 'finite-difference', not 'double'"):
            function(network("plain"), gains="double", **batches)
    with pytest.raises(ValueError, match="clean_weight must be 0 or more, not -1"):
        reweighted_step(network("plain"), clean_weight=-1, **batches)


# --- precision --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME_NETWORKS)
def test_a_finite_difference_agrees_with_the_exact_gains_in_float64(name):
    """h = 2 √ε / ‖v‖ = 3e-8 / ‖v‖, and the error is of that order against the largest gain."""
    model, batches = network(name), {"noisy": batch(1), "clean": batch(2)}
    exact = pixel_gains(model, **batches)
    difference = pixel_gains(model, gains="finite-difference", **batches)
    largest = float(exact.abs().max())
    torch.testing.assert_close(difference, exact, rtol=0, atol=1e-6 * largest)
    clear = exact.abs() > 1e-6 * largest
    assert torch.equal(difference.sign()[clear], exact.sign()[clear])


@pytest.mark.parametrize("name", SOME_NETWORKS)
def test_a_finite_difference_agrees_with_the_exact_gains_in_float32(name):
    """h = 7e-4 / ‖v‖. Half of all pixels are within .1 % of the largest gain; the few whose activations pass a kink within h are not."""
    model, batches = network(name, dtype=torch.float32), {"noisy": batch(1, dtype=torch.float32), "clean": batch(2, dtype=torch.float32)}
    exact = pixel_gains(model, **batches)
    difference = pixel_gains(model, gains="finite-difference", **batches)
    largest = float(exact.abs().max())
    assert (difference - exact).abs().median() < 1e-3 * largest
    assert nn.functional.cosine_similarity(difference.flatten(), exact.flatten(), dim=0) > 0.99
    clear = exact.abs() > 0.05 * largest
    assert (difference.sign() == exact.sign())[clear].double().mean() > 0.98


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("outgoing", [None, torch.float32], ids=["bf16 logits", "logits handed out as float32"])
def test_a_finite_difference_in_bf16_is_refused_in_words(function, outgoing):
    class HandsOut(PlainUNet):
        def forward(self, images):
            return super().forward(images).to(outgoing)

    model = seeded(HandsOut, dtype=torch.float32)
    batches = {"noisy": batch(1, dtype=torch.float32), "clean": batch(2, dtype=torch.float32)}
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"noise in torch.bfloat16; use gains=\"exact\""),
    ):
        function(model, gains="finite-difference", **batches)


def test_finite_differences_are_refused_where_a_network_casts_inside_itself():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network("plain", dtype=torch.float32)

        def forward(self, images):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.network(images).float()

    batches = {"noisy": batch(1, dtype=torch.float32), "clean": batch(2, dtype=torch.float32)}
    with pytest.raises(ValueError, match=r"noise in torch\.bfloat16"):
        reweighted_step(Casting(), gains="finite-difference", **batches)


def test_a_finite_difference_with_bf16_parameters_is_refused():
    batches = {"noisy": batch(1, dtype=torch.bfloat16), "clean": batch(2, dtype=torch.bfloat16)}
    with pytest.raises(ValueError, match=r"noise in torch\.bfloat16"):
        pixel_gains(network("plain", dtype=torch.bfloat16), gains="finite-difference", **batches)


@pytest.mark.parametrize(("name", "agreement"), [("plain", 0.999), ("plain-batch-norm", 0.999), ("patches", 0.999), ("basic-unet", 0.99)])
def test_exact_weights_under_bf16_autocast_agree_with_float32(name, agreement):
    model = network(name, dtype=torch.float32)
    batches = {"noisy": batch(1, dtype=torch.float32), "clean": batch(2, dtype=torch.float32)}
    single = pixel_weights(model, **batches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = reweighted_step(model, **batches)
    assert step.logits.dtype == torch.bfloat16
    assert step.weights.dtype == step.gains.dtype == step.loss.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    cosine = nn.functional.cosine_similarity(step.weights.flatten(), single.flatten(), dim=0)
    assert cosine > agreement  # measured: .99998, .9998, .9999 and .9975


def test_a_loss_of_the_users_gets_float32_logits_under_bf16_autocast():
    seen = set()

    def noting(logits, masks):
        seen.add(logits.dtype)
        return pixel_cross_entropy(logits, masks)

    model, batches = network("plain", dtype=torch.float32), {"noisy": batch(1, dtype=torch.float32), "clean": batch(2, dtype=torch.float32)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reweighted_step(model, pixel_loss=noting, **batches)
    assert seen == {torch.float32}


@pytest.mark.parametrize("logit", [20.0, 40.0])
@pytest.mark.parametrize("label", [0, 1])
def test_pixels_that_the_network_is_sure_of_keep_a_gain(logit, label):
    """Right and sure: σ(z) − y rounds to 0 in float32, σ(−z) does not."""
    logits = torch.full((1, 1, 2, 2), logit if label else -logit)
    pixels = Batch(torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), label))
    gains = pixel_gains(Table(logits), noisy=pixels, clean=pixels)
    slope = math.exp(-logit)  # σ(−z), but for 2e-9 of it
    torch.testing.assert_close(gains, torch.full((1, 2, 2), slope**2 / 4), rtol=1e-5, atol=0)  # float32; v is a mean of 4
    assert_equal_to_rounding(normalise_gains(gains), torch.full((1, 2, 2), 0.25))


# --- dropout ----------------------------------------------------------------------------------------------------------------


def test_dropout_draws_one_mask_for_the_tangent_and_for_training():
    model, noisy, clean = seeded(PlainUNet, dropout=0.5).train(), batch(1), batch(2)
    expected = differentiated_gains(model, noisy=noisy, clean=clean, seed=7)
    other = differentiated_gains(model, noisy=noisy, clean=clean, seed=8)
    torch.manual_seed(7)
    step = reweighted_step(model, noisy=noisy, clean=clean)
    assert_equal_to_rounding(step.gains, expected)
    assert not torch.allclose(expected, other, rtol=0.1)  # the seed matters
    torch.manual_seed(7)
    twin = copy.deepcopy(model)
    twin(clean.images)
    assert_equal_to_rounding(step.logits, twin(noisy.images).detach())


def test_a_finite_difference_draws_the_same_dropout_as_the_exact_pass_and_as_much():
    model, batches, ends = seeded(PlainUNet, dropout=0.5).train(), {"noisy": batch(1), "clean": batch(2)}, []
    steps = []
    for gains in BOTH_GAINS:
        torch.manual_seed(7)
        steps.append(reweighted_step(model, gains=gains, **batches))
        ends.append(torch.rand(4))
    exact, difference = steps
    assert_equal_to_rounding(difference.logits, exact.logits)
    torch.testing.assert_close(difference.gains, exact.gains, rtol=0, atol=1e-6 * float(exact.gains.abs().max()))
    assert torch.equal(*ends)


# --- normalised, and the diagnostics ----------------------------------------------------------------------------------------

some_gains = npst.arrays("float64", st.integers(1, 40), elements=st.floats(-1e6, 1e6, allow_subnormal=False)).map(torch.from_numpy)
unhurried = settings(deadline=None)  # the machine may be busy


@unhurried
@given(gains=some_gains)
def test_weights_sum_to_one_or_are_all_zero(gains):
    weights = normalise_gains(gains)
    assert (weights >= 0).all()
    assert (weights[gains <= 0] == 0).all()
    if (gains > 0).any():
        assert float(weights.sum()) == pytest.approx(1, rel=1e-12)
    else:
        assert not weights.any()


@unhurried
@given(gains=some_gains, power=st.integers(-80, 80))
def test_weights_do_not_change_with_the_scale_of_the_gains(gains, power):
    torch.testing.assert_close(normalise_gains(gains * 2.0**power), normalise_gains(gains), rtol=1e-12, atol=1e-300)


@unhurried
@given(gains=some_gains)
def test_weights_keep_the_order_of_the_gains(gains):
    ordered = normalise_gains(gains.sort().values)
    assert (ordered.diff() >= 0).all()


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1.0, 1e37])
def test_tiny_and_huge_gains_keep_their_proportions_in_float32(scale):
    weights = normalise_gains(torch.tensor([1.0, -2.0, 3.0]) * scale)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.0, 0.75]), rtol=1e-6, atol=0)


def test_gains_so_small_that_their_sum_would_vanish_still_sum_to_one():
    assert float(normalise_gains(torch.full((3,), 1e-44)).sum()) == pytest.approx(1, rel=1e-6)


def test_diagnostics_of_a_step_worked_by_hand():
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 2, 2)
    counted = torch.tensor([[True, True, True, True], [True, False, False, False]]).reshape(2, 2, 2)
    zero = torch.zeros(())
    step = Step(loss=zero, clean_loss=zero, weights=weights, gains=weights, logits=zero, counted=counted)
    assert step.zero_share == 2 / 5
    assert step.effective_pixels == 1 / (0.25 + 0.0625 + 0.0625)
    assert not step.all_zero


class _OnCopies(nn.Module):
    """Its pass uses tensors that are not its parameters, as where FSDP has sharded them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)
        self.copies = [nn.Conv2d(3, 1, 1)]

    def forward(self, images):
        return self.copies[0](images)


def test_a_clean_loss_that_reaches_no_trained_parameter_is_refused():
    same = Batch(torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match="reaches none of the parameters of _OnCopies"):
        pixel_gains(_OnCopies(), noisy=same, clean=same)


def test_a_step_is_told_in_a_line():
    weights = torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])
    step = Step(torch.tensor(0.75), torch.tensor(0.5), weights, weights, torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    assert repr(step) == "Step(loss=0.75, clean_loss=0.5, 1x2x2 weights, 50% of them 0)"
