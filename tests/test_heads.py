"""Training losses of one's own, networks with several heads, and whose backward it is."""

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy

from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch
from pixeltrust.method.heads import pool
from pixeltrust.method.losses import mean_over_counted, pixel_cross_entropy, weighted_dice_cross_entropy
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import pixel_gains, pixel_weights, reweighted_step
from reference import PlainUNet, assert_equal_to_rounding, batch, seeded

CLASSES = pytest.mark.parametrize("classes", [1, 2, 4])


def network(classes=1, norm="group"):
    return seeded(PlainUNet, 2, classes, norm=norm)


def noisy_and_clean(classes=1, seed=1):
    return batch(seed=seed, images=4, size=16, classes=classes), batch(seed=seed + 1, images=3, size=16, classes=classes)


def trust_step(model, noisy, **rest):
    return Trust().step(model, noisy=noisy, where=Where.of([str(image) for image in range(len(noisy.images))], (16, 16)), **rest)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_equal_to_rounding(actual[name], expected[name])


# --- weighted Dice and cross-entropy -----------------------------------------------------------------------------------


def usual(logits, masks):
    """MONAI's Dice of each image, and torch's cross-entropy."""
    dice = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)
    if logits.shape[1] == 1:
        return dice(logits.sigmoid(), masks[:, None]) + nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.double())
    truth = nn.functional.one_hot(masks, logits.shape[1]).movedim(-1, 1)
    return dice(logits.softmax(1)[:, 1:], truth[:, 1:]) + cross_entropy(logits, masks)


@CLASSES
@pytest.mark.parametrize("size", [(8, 9), (4, 5, 6)])
def test_with_equal_weights_it_is_the_usual_loss(classes, size):
    random = torch.manual_seed(0)
    logits = torch.randn(3, classes, *size, dtype=torch.float64, generator=random)
    masks = torch.randint(0, max(classes, 2), (3, *size), generator=random)
    for weight in (1.0, 1e-7, 1e6):
        weights = torch.full((3, *size), weight, dtype=torch.float64)
        assert weighted_dice_cross_entropy(logits, masks, weights).item() == pytest.approx(usual(logits, masks).item(), rel=1e-9)


@CLASSES
def test_whole_weights_are_repeated_pixels(classes):
    """A pixel of weight 3 counts as three pixels of weight 1."""
    random = torch.manual_seed(0)
    logits = torch.randn(1, classes, 6, 6, dtype=torch.float64, generator=random)
    masks, weights = torch.randint(0, max(classes, 2), (1, 6, 6), generator=random), torch.randint(0, 4, (1, 6, 6), generator=random)
    times = weights.flatten()
    repeated = logits.flatten(2).repeat_interleave(times, dim=2)
    expected = usual(repeated, masks.flatten(1).repeat_interleave(times, dim=1))
    assert weighted_dice_cross_entropy(logits, masks, weights.double()).item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_image_counts_by_its_share_of_the_weights():
    noisy, _ = noisy_and_clean()
    logits, masks = torch.randn(4, 1, 16, 16, dtype=torch.float64, generator=torch.manual_seed(0)), noisy.masks
    weights = torch.zeros(4, 16, 16, dtype=torch.float64)
    weights[1:3] = 0.3
    both = weighted_dice_cross_entropy(logits, masks, weights)
    assert both.item() == pytest.approx(weighted_dice_cross_entropy(logits[1:3], masks[1:3], weights[1:3]).item(), rel=1e-6)


def test_nothing_that_counts_is_0_with_a_gradient_of_0():
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    for masks, weights in ((torch.ones(2, 4, 4), torch.zeros(2, 4, 4)), (torch.full((2, 4, 4), 255), torch.ones(2, 4, 4))):
        loss = weighted_dice_cross_entropy(logits, masks, weights)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("take", [reweighted_step, trust_step])
@CLASSES
def test_a_step_takes_any_loss(classes, take):
    noisy, clean = noisy_and_clean(classes)
    model, twin = network(classes), network(classes)
    step = take(model, noisy=noisy, clean=clean, clean_weight=0.5, loss=weighted_dice_cross_entropy)
    counted = (clean.masks != 255).double()
    clean_loss = weighted_dice_cross_entropy(twin(clean.images), clean.masks, counted)
    loss = weighted_dice_cross_entropy(twin(noisy.images), noisy.masks, step.weights)
    (loss + 0.5 * clean_loss).backward()
    assert_same(gradients(model), gradients(twin))
    assert step.clean_loss.item() == pytest.approx(clean_loss.item())
    assert step.loss.item() == pytest.approx((loss + 0.5 * clean_loss).item())
    assert step.weights.sum().item() == pytest.approx(1)


def test_the_gains_are_of_the_pixel_loss_along_the_gradient_of_the_clean_loss():
    noisy, clean = noisy_and_clean()
    model = network()
    step = reweighted_step(model, noisy=noisy, clean=clean, loss=weighted_dice_cross_entropy)
    parameters = list(model.parameters())
    v = torch.autograd.grad(weighted_dice_cross_entropy(model(clean.images), clean.masks, (clean.masks != 255).double()), parameters)
    losses = pixel_cross_entropy(model(noisy.images), noisy.masks)
    for place in ((0, 3, 4), (2, 9, 1), (3, 15, 15)):
        own = torch.autograd.grad(losses[place], parameters, retain_graph=True)
        expected = sum((one * other).sum() for one, other in zip(own, v, strict=True)) if noisy.masks[place] != 255 else torch.tensor(0.0)
        assert step.gains[place].item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "words"),
    [(lambda logits, masks, weights: weights, r"not a tensor \(3, 16, 16\)"), (lambda logits, masks, weights: 1.0, "not a float")],
)
def test_a_loss_that_is_no_scalar_is_refused(loss, words):
    noisy, clean = noisy_and_clean()
    with pytest.raises(ValueError, match=f"must return a tensor without axes, {words}"):
        reweighted_step(network(), noisy=noisy, clean=clean, loss=loss)


# --- several heads -----------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """A network with deep supervision, as nnU-Net answers: a list, the finest first."""

    def __init__(self, form=list, classes=1):
        super().__init__()
        self.body, self.form = network(classes), form
        self.coarse, self.coarsest = nn.Conv2d(1, classes, 1).double(), nn.Conv2d(1, classes, 1).double()

    def forward(self, images):
        halved = avg_pool2d(images, 2)
        return self.form([self.body(images), self.coarse(halved), self.coarsest(avg_pool2d(halved, 2))])


def as_dict(heads):
    return {"out": heads[0], "aux": heads[1:]}


def deep(form=list):
    torch.manual_seed(3)
    return Deep(form)


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
@pytest.mark.parametrize("loss", [None, weighted_dice_cross_entropy])
@pytest.mark.parametrize(("form", "pick"), [(list, list), (tuple, list), (as_dict, lambda answer: [answer["out"], *answer["aux"]])])
def test_all_heads_learn_with_the_weights_of_the_finest(form, pick, loss, gains):
    noisy, clean = noisy_and_clean()
    model, twin = deep(form), deep()
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, loss=loss, logits=pick, gains=gains)
    own = loss or (lambda logits, masks, weights: (weights * pixel_cross_entropy(logits, masks)).sum())

    def total(data, weights):
        parts = []
        for logits in twin(data.images):
            masks, pooled = pool(data.masks, weights, logits.shape[2:])
            parts.append(own(logits, masks, pooled))
        return (4 * parts[0] + 2 * parts[1] + parts[2]) / 7

    counted = (clean.masks != 255).double()
    (total(noisy, step.weights) + total(clean, counted / counted.sum())).backward()
    assert_same(gradients(model), gradients(twin))


def test_gains_are_those_of_the_finest_head():
    noisy, clean = noisy_and_clean()
    model = deep()
    body = pixel_weights(model.body, noisy=noisy, clean=clean)
    step = reweighted_step(model, noisy=noisy, clean=clean, logits=list, head_weights=[1, 0, 0])
    assert_equal_to_rounding(step.weights, body)
    assert step.logits.shape == (4, 1, 16, 16)


def test_several_heads_are_tested_no_oftener_than_one(monkeypatch):
    from pixeltrust.method import tangents

    tested = []
    real = tangents.tangent_error
    monkeypatch.setattr(tangents, "tangent_error", lambda *given, **more: tested.append(1) or real(*given, **more))
    noisy, clean = noisy_and_clean()
    model = deep()
    for _ in range(7):
        reweighted_step(model, noisy=noisy, clean=clean, logits=lambda answer: list(answer))
    assert len(tested) == 3  # the 1st, 2nd and 4th


def test_a_network_that_has_one_head_now_is_taken_too():
    noisy, clean = noisy_and_clean()
    one, other = network(), network()
    reweighted_step(one, noisy=noisy, clean=clean, logits=list)
    reweighted_step(other, noisy=noisy, clean=clean)
    assert_same(gradients(one), gradients(other))


def test_as_many_head_weights_as_heads():
    noisy, clean = noisy_and_clean()
    with pytest.raises(ValueError, match="2 head_weights for a network with 3 heads"):
        reweighted_step(deep(), noisy=noisy, clean=clean, logits=list, head_weights=[1, 0.5])
    with pytest.raises(TypeError, match="logits=list"):
        reweighted_step(deep(), noisy=noisy, clean=clean)


def test_a_coarser_head_gets_the_sums_of_the_weights():
    masks, weights = torch.arange(16).view(1, 4, 4), torch.arange(16.0).view(1, 4, 4)
    labels, sums = pool(masks, weights, (2, 2))
    assert sums.tolist() == [[[10.0, 18.0], [42.0, 50.0]]]
    assert all(
        int(label) in block
        for label, block in zip(labels.flatten(), ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)), strict=True)
    )
    assert pool(masks, weights, (4, 4)) == (masks, weights)
    volume = torch.ones(2, 4, 4, 4)
    assert (pool(volume.long(), volume, (2, 4, 2))[1] == 4).all()


# --- whose backward it is ----------------------------------------------------------------------------------------------

ALL = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clean_weight": 0.5},
        {"clean_weight": 1.0, "loss": weighted_dice_cross_entropy},
        {"clean_weight": 1.0, "gains": "finite-difference"},
    ],
    ids=["plain", "clean weight", "loss", "finite difference"],
)


@ALL
@pytest.mark.parametrize("take", [reweighted_step, trust_step])
def test_the_total_has_the_gradient_and_the_value_of_the_step(take, settings):
    noisy, clean = noisy_and_clean()
    model, twin = network(), network()
    step = take(model, noisy=noisy, clean=clean, **settings)
    later = take(twin, noisy=noisy, clean=clean, backward=False, **settings)
    assert not gradients(twin)
    assert step.total is None
    assert later.total.item() == pytest.approx(step.loss.item())
    later.total.backward()
    assert_same(gradients(twin), gradients(model))


def test_four_steps_add_up_as_in_a_loop_of_ones_own():
    model, twin, other = network(), network(), network()
    for seed in range(4):
        noisy, clean = noisy_and_clean(seed=10 * seed)
        step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, backward=lambda loss: (loss / 4).backward())
        (reweighted_step(other, noisy=noisy, clean=clean, clean_weight=1.0, backward=False).total / 4).backward()
        loss = (step.weights * pixel_cross_entropy(twin(noisy.images), noisy.masks)).sum()
        loss = loss + mean_over_counted(pixel_cross_entropy(twin(clean.images), clean.masks), clean.masks)
        (loss / 4).backward()
    assert_same(gradients(model), gradients(twin))
    assert_same(gradients(other), gradients(twin))


@pytest.mark.parametrize("later", [False, True])
def test_a_scaler_of_half_precision_scales_all_of_it(later):
    """fp16 on the CPU: the optimiser's step of a scaled loss is that of float32, to the precision of fp16."""
    noisy, clean = (Batch(one.images.float(), one.masks) for one in noisy_and_clean())
    model, twin = network().float(), network().float()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**12), torch.optim.SGD(model.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.autocast("cpu", torch.float16):
        settings = {"noisy": noisy, "clean": clean, "clean_weight": 1.0}
        if later:
            total = reweighted_step(model, backward=False, **settings).total
        else:
            reweighted_step(model, backward=lambda loss: scaler.scale(loss).backward(), **settings)
    if later:
        scaler.scale(total).backward()
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) > 100  # scaled
    scaler.step(optimizer)
    scaler.update()
    reweighted_step(twin, **settings)
    moved = torch.cat([(old - new).flatten() for old, new in zip(before, model.parameters(), strict=True)])
    expected = torch.cat([parameter.grad.flatten() for parameter in twin.parameters()])
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_what_is_not_handed_over_is_noticed():
    noisy, clean = noisy_and_clean()
    model = network()
    for _ in range(2):
        reweighted_step(model, noisy=noisy, clean=clean, backward=False)
    with pytest.warns(UserWarning, match="hand step.total of a step with backward=False to its backward"):
        reweighted_step(model, noisy=noisy, clean=clean, backward=False)


def test_gains_take_the_finest_of_a_pick():
    noisy, clean = noisy_and_clean()
    model = deep()
    gains = pixel_gains(model, noisy=noisy, clean=clean, logits=lambda answer: answer[0])
    assert_equal_to_rounding(gains, pixel_gains(model.body, noisy=noisy, clean=clean))
