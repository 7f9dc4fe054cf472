"""The pixel loss against torch's own, its precision where the network is sure, and what is ignored."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pixeltrust.method.losses import cross_entropy_of_labels, mean_over_counted, pixel_cross_entropy

SHAPES = [(5, 7), (3, 5, 4)]


def random_case(classes, spatial, ignored=0.2):
    random = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(2, classes, *spatial, generator=random, dtype=torch.float64)
    masks = torch.randint(0, max(classes, 2), (2, *spatial), generator=random)
    masks[torch.rand(masks.shape, generator=random) < ignored] = 255
    return logits.requires_grad_(), masks


def one_pixel(*scores, dtype=torch.float32):
    return torch.tensor(scores, dtype=dtype).reshape(1, -1, 1, 1).requires_grad_()


def label(value):
    return torch.tensor([[[value]]])


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_loss_and_gradient_of_classes_equal_torchs_cross_entropy(classes, spatial):
    logits, masks = random_case(classes, spatial)
    expected = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    losses = pixel_cross_entropy(logits, masks)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)  # the order of sums differs; atol for losses next to 0
    (slope,), (expected_slope,) = torch.autograd.grad(losses.sum(), logits), torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spatial", SHAPES)
def test_loss_and_gradient_of_one_logit_equal_torchs_binary_cross_entropy(spatial):
    logits, masks = random_case(1, spatial)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], (masks == 1).double(), reduction="none") * (masks != 255)
    losses = pixel_cross_entropy(logits, masks)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)  # as above
    (slope,), (expected_slope,) = torch.autograd.grad(losses.sum(), logits), torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-9, atol=1e-12)


def test_one_logit_is_two_classes_of_which_background_scores_zero():
    logits, masks = random_case(1, (5, 7))
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(pixel_cross_entropy(logits, masks), pixel_cross_entropy(pair, masks), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("classes", [1, 3])
def test_masks_that_are_known_to_be_right_have_the_same_losses(classes):
    logits, masks = random_case(classes, (5, 7))
    assert torch.equal(cross_entropy_of_labels(logits, masks.to(torch.uint8)), pixel_cross_entropy(logits, masks))


def test_losses_worked_by_hand():
    assert pixel_cross_entropy(one_pixel(0.0), label(1)).item() == pytest.approx(math.log(2))
    assert pixel_cross_entropy(one_pixel(math.log(3)), label(1)).item() == pytest.approx(math.log(4 / 3))
    assert pixel_cross_entropy(one_pixel(math.log(3)), label(0)).item() == pytest.approx(math.log(4))
    assert pixel_cross_entropy(one_pixel(0.0, 0.0, 0.0), label(2)).item() == pytest.approx(math.log(3))


@settings(deadline=None)
@given(scores=st.lists(st.floats(-50, 50), min_size=2, max_size=5), shift=st.floats(-20, 20), data=st.data())
def test_a_shift_of_all_scores_changes_nothing(scores, shift, data):
    own = label(data.draw(st.integers(0, len(scores) - 1)))
    plain = pixel_cross_entropy(one_pixel(*scores, dtype=torch.float64), own)
    moved = pixel_cross_entropy(one_pixel(*(score + shift for score in scores), dtype=torch.float64), own)
    torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-12)  # the sums score + shift are rounded
    assert plain >= 0


@pytest.mark.parametrize("logit", [17.0, 20.0, 40.0, 80.0])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_derivative_keeps_its_precision_where_the_network_is_sure(classes, logit):
    """In float32 σ(z) − 1 is exactly 0 from z = 16.6 on; the derivative is −σ(−z), which is not."""
    rest = classes - 1
    logits = one_pixel(logit) if classes == 1 else one_pixel(*[0.0] * rest, logit)
    loss = pixel_cross_entropy(logits, label(1 if classes == 1 else rest))
    loss.backward()
    expected = max(rest, 1) * math.exp(-logit)  # σ(−z) = e^−z, but for e^−2z
    assert logits.grad[0, -1].item() == pytest.approx(-expected, rel=1e-5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_that_is_surely_wrong_costs_its_margin():
    logits = one_pixel(-1000.0)
    pixel_cross_entropy(logits, label(1)).backward()
    assert logits.grad.item() == -1
    assert pixel_cross_entropy(logits, label(1)).item() == 1000


@pytest.mark.parametrize("classes", [1, 3])
def test_ignored_pixels_cost_nothing_and_have_no_gradient(classes):
    logits, masks = random_case(classes, (5, 7))
    losses = pixel_cross_entropy(logits, masks)
    ignored = masks == 255
    assert (losses[ignored] == 0).all()
    assert (losses[~ignored] > 0).all()
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert (slope.movedim(1, -1)[ignored] == 0).all()
    assert (slope.movedim(1, -1)[~ignored] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [1, 3])
def test_coarse_logits_give_float32_losses(dtype, classes):
    logits, masks = random_case(classes, (5, 7))
    coarse = logits.detach().to(dtype)
    losses = pixel_cross_entropy(coarse, masks)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, pixel_cross_entropy(coarse.float(), masks))


@pytest.mark.parametrize(
    ("classes", "dtype", "value", "named"),
    [
        (1, torch.uint8, 2, "[2]"),
        (1, torch.uint8, 254, "[254]"),
        (1, torch.int8, -1, "[-1]"),  # as bits of 8, the same as 255
        (1, torch.uint16, 300, "[300]"),
        (1, torch.float32, 0.5, "[0.5]"),
        (1, torch.float32, math.nan, "[nan]"),
        (1, torch.float32, math.inf, "[inf]"),
        (2, torch.int64, 2, "[2]"),
        (3, torch.int64, 3, "[3]"),
        (3, torch.float64, 1.5, "[1.5]"),
    ],
)
def test_a_label_that_no_class_has_is_named(classes, dtype, value, named):
    masks = torch.zeros(1, 2, 2).to(dtype)
    masks[0, 0, 0] = value
    with pytest.raises(ValueError, match="values that no class has") as error:
        pixel_cross_entropy(torch.zeros(1, classes, 2, 2), masks)
    assert named in str(error.value)
    assert f"labels are 0 … {max(classes, 2) - 1}, 255 is ignored" in str(error.value)


@pytest.mark.parametrize(
    ("logits", "masks"), [((2, 1, 4, 4), (2, 4, 5)), ((2, 1, 4, 4), (2, 1, 4, 4)), ((2, 4), (2,)), ((1, 1, 4, 4), (2, 4, 4))]
)
def test_shapes_that_do_not_agree_are_named(logits, masks):
    with pytest.raises(ValueError, match="do not agree") as error:
        pixel_cross_entropy(torch.zeros(logits), torch.zeros(masks))
    assert str(logits) in str(error.value)
    assert str(masks) in str(error.value)


def test_the_mean_is_over_counted_pixels_only():
    losses = torch.tensor([[[1.0, 2.0], [60.0, 6.0]]], requires_grad=True)
    masks = torch.tensor([[[0, 1], [255, 1]]])
    mean = mean_over_counted(losses, masks)
    assert mean.item() == 3
    (slope,) = torch.autograd.grad(mean, losses)
    torch.testing.assert_close(slope, torch.tensor([[[1, 1], [0, 1]]]) / 3)


def test_an_ignored_pixel_of_infinite_loss_does_not_spoil_the_mean():
    losses = torch.tensor([[math.inf, math.nan, 4.0]], requires_grad=True)
    mean = mean_over_counted(losses, torch.tensor([[255, 255, 0]]))
    assert mean.item() == 4
    assert torch.autograd.grad(mean, losses)[0].tolist() == [[0, 0, 1]]


def test_the_mean_over_nothing_is_zero():
    assert mean_over_counted(torch.ones(1, 2, 2), torch.full((1, 2, 2), 255)) == 0
