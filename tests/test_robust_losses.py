"""The rivals' losses against the papers' formulas written out, their known limits and invariances, and what is ignored."""

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch.autograd import gradcheck

import published
from pixeltrust.method.losses import mean_over_counted, pixel_cross_entropy, probabilities
from pixeltrust.training.robust_losses import (
    absolute_error,
    dice_cross_entropy,
    generalised_cross_entropy,
    noise_robust_dice,
    student_t,
    symmetric_cross_entropy,
)
from published import PUBLISHED

NU = torch.tensor(published.NU, dtype=torch.float64)
OF_PIXELS = {"gce": generalised_cross_entropy, "mae": absolute_error, "sce": symmetric_cross_entropy}
OF_BATCHES = {"dice-ce": dice_cross_entropy, "nr-dice": noise_robust_dice, "t-loss": lambda logits, masks: student_t(logits, masks, nu=NU)}
PIXELS, ALL = pytest.mark.parametrize("name", OF_PIXELS), pytest.mark.parametrize("name", PUBLISHED)
CLASSES = pytest.mark.parametrize("classes", [1, 2, 3, 5])
SHAPES = pytest.mark.parametrize("spatial", [(5, 7), (3, 5, 4)])
ROUNDING = {"rtol": 1e-9, "atol": 1e-12}  # float64: the order of operations differs; atol for what is next to 0


def scalar(name, logits, masks):
    """The loss of a batch, for all of them."""
    return mean_over_counted(OF_PIXELS[name](logits, masks), masks) if name in OF_PIXELS else OF_BATCHES[name](logits, masks)


def random_case(classes, spatial=(5, 7), ignored=0.2, images=2):
    random = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(images, classes, *spatial, generator=random, dtype=torch.float64)
    masks = torch.randint(0, max(classes, 2), (images, *spatial), generator=random)
    masks[torch.rand(masks.shape, generator=random) < ignored] = 255
    return logits.requires_grad_(), masks.to(torch.uint8)


def gradient(name, logits, masks):
    return torch.autograd.grad(scalar(name, logits, masks), logits)[0]


@SHAPES
@CLASSES
@ALL
def test_loss_and_gradient_equal_the_papers_formula(name, classes, spatial):
    logits, masks = random_case(classes, spatial)
    loss, expected = scalar(name, logits, masks), PUBLISHED[name](logits, masks)
    torch.testing.assert_close(loss, expected, **ROUNDING)
    torch.testing.assert_close(gradient(name, logits, masks), torch.autograd.grad(expected, logits)[0], **ROUNDING)


@SHAPES
@PIXELS
def test_losses_of_pixels_are_not_reduced(name, spatial):
    logits, masks = random_case(3, spatial)
    assert OF_PIXELS[name](logits, masks).shape == masks.shape


@pytest.mark.parametrize("classes", [1, 3])
@ALL
def test_gradients_are_those_of_finite_differences(name, classes):
    logits, masks = random_case(classes, (3, 2))
    assert gradcheck(lambda values: scalar(name, values, masks), logits)


@ALL
def test_one_logit_is_two_classes_of_which_background_scores_zero(name):
    logits, masks = random_case(1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(scalar(name, logits, masks), scalar(name, pair, masks), **ROUNDING)


# What is ignored


@CLASSES
@ALL
def test_ignored_pixels_have_no_effect_and_no_gradient(name, classes):
    logits, masks = random_case(classes)
    ignored = (masks == 255).unsqueeze(1)
    other = torch.where(ignored, 7.0 - 2 * logits, logits)
    assert torch.equal(scalar(name, logits, masks), scalar(name, other, masks))
    slope = gradient(name, logits, masks)
    assert (slope.movedim(1, -1)[masks == 255] == 0).all()
    assert (slope.movedim(1, -1)[masks != 255] != 0).all()


@pytest.mark.parametrize("classes", [1, 3])
@ALL
def test_images_with_ignored_rows_count_as_images_without_these_rows(name, classes):
    logits, masks = random_case(classes, ignored=0)
    masks[:, 3:] = 255
    torch.testing.assert_close(scalar(name, logits, masks), scalar(name, logits[:, :, :3], masks[:, :3]), **ROUNDING)


@pytest.mark.parametrize("classes", [1, 3])
@ALL
def test_a_batch_that_is_ignored_costs_nothing(name, classes):
    logits, masks = random_case(classes, ignored=1)
    torch.testing.assert_close(scalar(name, logits, masks).item(), 0.0, rtol=0, atol=1e-15)
    assert not gradient(name, logits, masks).any()


@PIXELS
def test_an_ignored_pixel_has_loss_zero(name):
    logits, masks = random_case(3)
    losses = OF_PIXELS[name](logits, masks)
    assert (losses[masks == 255] == 0).all()
    assert (losses[masks != 255] > 0).all()


# Extremes and precision


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("logit", [-100.0, 100.0])
@pytest.mark.parametrize("classes", [1, 2, 3])
@ALL
def test_values_and_gradients_stay_finite_at_extreme_logits(name, classes, logit, own):
    logits = torch.zeros(1, classes, 2, 2)
    logits[:, -1] = logit
    loss = scalar(name, logits.requires_grad_(), torch.full((1, 2, 2), own))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("logit", [20.0, 40.0, 80.0])
@PIXELS
def test_a_pixel_that_the_network_is_sure_of_keeps_its_slope(name, logit):
    """In float32 1 − σ(z) is exactly 0 from z = 17 on; the slopes are −σ(−z) times what the loss makes of it, which is not."""
    logits = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    OF_PIXELS[name](logits, torch.ones(1, 1, 1)).sum().backward()
    factor = {"gce": 1, "mae": 2, "sce": 0.1 + math.log(1e4)}[name]
    assert logits.grad.item() == pytest.approx(-factor * math.exp(-logit), rel=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
@ALL
def test_coarse_logits_give_float32_losses(name, classes):
    logits, masks = random_case(classes)
    coarse = logits.detach().bfloat16()
    nu = torch.tensor(2.0)
    losses = OF_PIXELS | OF_BATCHES | {"t-loss": lambda logits, masks: student_t(logits, masks, nu=nu)}
    assert losses[name](coarse, masks).dtype == torch.float32
    assert torch.equal(losses[name](coarse, masks), losses[name](coarse.float(), masks))


# Known limits


@pytest.mark.parametrize("classes", [1, 3])
def test_generalised_cross_entropy_lies_between_cross_entropy_and_absolute_error(classes):
    logits, masks = random_case(classes)
    near_zero = generalised_cross_entropy(logits, masks, exponent=1e-6)
    torch.testing.assert_close(near_zero, pixel_cross_entropy(logits, masks), rtol=1e-5, atol=1e-9)  # (1 − e^(−qℓ)) / q = ℓ − qℓ²/2 …
    torch.testing.assert_close(2 * generalised_cross_entropy(logits, masks, exponent=1), absolute_error(logits, masks), **ROUNDING)


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_absolute_errors_of_all_labels_sum_to_a_constant(classes):
    """What makes it robust against labels that are wrong evenly: Ghosh et al., theorem 1."""
    logits, _ = random_case(classes)
    labels = range(max(classes, 2))
    total = sum(absolute_error(logits, torch.full((2, 5, 7), label)) for label in labels)
    torch.testing.assert_close(total, torch.full_like(total, 2 * (len(labels) - 1)), **ROUNDING)


@pytest.mark.parametrize(("name", "bound"), [("gce", 1 / 0.7), ("mae", 2.0)])
def test_a_pixel_that_is_all_wrong_costs_no_more_than_a_bound(name, bound):
    assert OF_PIXELS[name](torch.full((1, 1, 1, 1), -500.0), torch.ones(1, 1, 1)).item() == pytest.approx(bound)


@pytest.mark.parametrize("classes", [1, 3])
def test_without_ignored_pixels_dice_ce_is_monais(classes):
    logits, masks = random_case(classes, ignored=0)
    settings = {"sigmoid": True} if classes == 1 else {"softmax": True, "to_onehot_y": True, "include_background": False}
    expected = DiceCELoss(**settings)(logits, masks.unsqueeze(1).double())
    torch.testing.assert_close(dice_cross_entropy(logits, masks), expected, **ROUNDING)


@pytest.mark.parametrize("classes", [1, 3])
def test_noise_robust_dice_with_squares_is_the_dice_loss_with_squares(classes):
    logits, masks = random_case(classes, ignored=0)
    _, truth, _ = published.spread(logits, masks)  # MONAI's own one-hot is in float32
    settings = {"sigmoid": True} if classes == 1 else {"softmax": True, "include_background": False}
    expected = DiceLoss(squared_pred=True, batch=True, **settings)(logits, truth[:, -classes:])
    torch.testing.assert_close(noise_robust_dice(logits, masks, exponent=2), expected, **ROUNDING)


def test_losses_worked_by_hand():
    logits = torch.tensor([[[[math.log(3), -math.log(3)]]]], dtype=torch.float64)  # p = 3/4, 1/4
    masks = torch.tensor([[[1, 1]]])
    assert generalised_cross_entropy(logits, masks)[0, 0, 1].item() == pytest.approx((1 - 0.25**0.7) / 0.7)
    assert absolute_error(logits, masks)[0, 0].tolist() == pytest.approx([0.5, 1.5])
    assert symmetric_cross_entropy(logits, masks)[0, 0, 1].item() == pytest.approx(0.1 * math.log(4) + 0.75 * math.log(1e4))
    assert noise_robust_dice(logits, masks).item() == pytest.approx((0.25**1.5 + 0.75**1.5) / (0.625 + 2), rel=1e-5)
    assert dice_cross_entropy(logits, masks).item() == pytest.approx(1 - 2 / 3 + (math.log(4 / 3) + math.log(4)) / 2, rel=1e-5)


# The T-Loss


@pytest.mark.parametrize("nu", [0.5, math.e, 40.0])
@pytest.mark.parametrize("spatial", [(4, 4), (6, 9)])
@CLASSES
def test_the_t_loss_is_a_student_t_density_for_images_of_any_size(classes, spatial, nu):
    logits, masks = random_case(classes, spatial, ignored=0)
    loss = student_t(logits, masks, nu=torch.tensor(nu, dtype=torch.float64))
    assert loss.item() == pytest.approx(published.t_density(logits.detach(), masks, nu), rel=1e-9)


def test_the_t_loss_has_no_special_class():
    logits, masks = random_case(3)
    turned = torch.where(masks == 255, masks, (masks + 1) % 3)
    torch.testing.assert_close(student_t(logits.roll(1, 1), turned, nu=NU), student_t(logits, masks, nu=NU), **ROUNDING)


def test_an_image_that_is_ignored_changes_nothing_in_the_t_loss():
    logits, masks = random_case(3, images=3)
    masks[2] = 255
    torch.testing.assert_close(student_t(logits, masks, nu=NU), student_t(logits[:2], masks[:2], nu=NU), **ROUNDING)


def test_nu_has_the_gradient_of_the_papers_formula():
    logits, masks = random_case(3)
    nu = NU.clone().requires_grad_()
    (slope,) = torch.autograd.grad(student_t(logits, masks, nu=nu), nu)
    (expected,) = torch.autograd.grad(published.t_loss(logits, masks, nu), nu)
    torch.testing.assert_close(slope, expected, **ROUNDING)
    assert gradcheck(lambda value: student_t(logits.detach(), masks, nu=value), nu)


@pytest.mark.parametrize("nu", [0.05, math.e, 50.0])
def test_nu_keeps_its_gradient_in_float32_on_large_images(nu):
    logits, masks = random_case(1, (256, 256))
    slopes = []
    for dtype in (torch.float32, torch.float64):
        value = torch.tensor(nu, dtype=dtype, requires_grad=True)
        slopes += torch.autograd.grad(student_t(logits.to(dtype), masks, nu=value), value)
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-4, atol=0)  # a few roundings of 6e-8 on terms ten times the sum


def test_an_image_counts_the_less_the_more_of_it_is_wrong():
    """The slope at one pixel falls with the errors elsewhere in its image: outliers are whole masks, not pixels."""
    slopes = []
    for wrong in (0, 20):
        logits = torch.full((1, 1, 10, 10), 3.0, dtype=torch.float64)
        masks = torch.ones(1, 10, 10)
        masks.view(-1)[: wrong + 1] = 0
        slopes.append(gradient("t-loss", logits.requires_grad_(), masks)[0, 0, 0, 0].item())
    assert 0 < slopes[1] < slopes[0] / 2


def test_probabilities_are_sigmoid_or_softmax():
    logits, _ = random_case(3)
    torch.testing.assert_close(probabilities(logits).sum(1), torch.ones(2, 5, 7, dtype=torch.float64))
    assert torch.equal(probabilities(logits[:, :1]), logits[:, :1].sigmoid())
