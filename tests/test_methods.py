"""What each compared method adds to .grad in one step, against the table of methods worked out by hand with torch's own losses."""

import math
from dataclasses import replace

import pytest
import torch

from pixeltrust import methods as methods_module
from pixeltrust import weights as weights_module
from pixeltrust.config import Config
from pixeltrust.feeds import Feed
from pixeltrust.methods import METHODS, build_method
from pixeltrust.weights import Batch, Step, pixel_weights
from reference import PlainUNet, assert_equal_to_rounding, batch, clamped, clean_mean, differentiated_gains, reference_gradients, seeded

CLASSES = pytest.mark.parametrize("classes", [1, 3])
NOISY, CLEAN, POOL = ({"seed": 1, "images": 4}, {"seed": 2, "images": 3}, {"seed": 3, "images": 5})


def network(classes=1, **settings):
    return seeded(PlainUNet, 2, classes, norm="group", **settings)


def fed(classes=1, only=("noisy", "clean", "pool")):
    """A feed, and the list of what was asked of it; what is not in `only` is an error."""
    asked = []

    def giving(name, settings):
        def give():
            assert name in only
            asked.append(name)
            return batch(**settings, classes=classes)

        return give

    return Feed(noisy=giving("noisy", NOISY), clean=giving("clean", CLEAN), pool=giving("pool", POOL)), asked


def stepped(method, classes=1, model=None, only=("noisy", "clean", "pool"), **settings):
    """The outcome, the gradients by name, and what was asked for."""
    model = model or network(classes)
    feed, asked = fed(classes, only)
    config = Config(method=method, **settings)
    outcome = build_method(model, config)(model, feed, config)
    return outcome, {name: p.grad for name, p in model.named_parameters()}, asked


def by_hand(classes, *shares):
    """Gradients of Σ share × mean loss of a batch, by ordinary backward of each alone."""
    total = {}
    for share, settings in shares:
        model = network(classes)
        data = batch(**settings, classes=classes)
        clean_mean(model(data.images), data.masks).backward()
        for name, parameter in model.named_parameters():
            total[name] = total.get(name, 0) + share * parameter.grad
    return total


def mean_loss(classes, settings):
    data = batch(**settings, classes=classes)
    return clean_mean(network(classes)(data.images), data.masks).item()


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_equal_to_rounding(actual[name], expected[name])


@CLASSES
def test_plain_follows_the_mean_loss_of_one_batch_of_the_pool(classes):
    outcome, gradients, asked = stepped("plain", classes, only=("pool",))
    assert asked == ["pool"]
    assert_same(gradients, by_hand(classes, (1.0, POOL)))
    assert outcome.loss == pytest.approx(mean_loss(classes, POOL), rel=1e-9)
    assert all(math.isnan(value) for value in (outcome.clean_loss, outcome.zero_share, outcome.effective_pixels))


@CLASSES
def test_clean_follows_the_mean_loss_of_one_clean_batch(classes):
    outcome, gradients, asked = stepped("clean", classes, only=("clean",))
    assert asked == ["clean"]
    assert_same(gradients, by_hand(classes, (1.0, CLEAN)))
    assert outcome.loss == outcome.clean_loss == pytest.approx(mean_loss(classes, CLEAN), rel=1e-9)


@CLASSES
def test_joint_follows_the_mean_of_a_noisy_and_a_clean_loss_however_many_images_each_has(classes):
    outcome, gradients, asked = stepped("joint", classes, only=("noisy", "clean"))
    assert sorted(asked) == ["clean", "noisy"]
    assert_same(gradients, by_hand(classes, (0.5, NOISY), (0.5, CLEAN)))
    assert outcome.loss == pytest.approx((mean_loss(classes, NOISY) + mean_loss(classes, CLEAN)) / 2, rel=1e-9)
    assert outcome.clean_loss == pytest.approx(mean_loss(classes, CLEAN), rel=1e-9)


@CLASSES
@pytest.mark.parametrize("clean_weight", [0.0, 0.7])
def test_pixel_follows_the_weighted_noisy_losses_and_the_share_of_the_clean_loss(classes, clean_weight):
    outcome, gradients, asked = stepped("pixel", classes, only=("noisy", "clean"), clean_weight=clean_weight)
    assert sorted(asked) == ["clean", "noisy"]
    noisy, clean = batch(**NOISY, classes=classes), batch(**CLEAN, classes=classes)
    weights = clamped(differentiated_gains(network(classes), noisy=noisy, clean=clean))
    expected = reference_gradients(network(classes), weights=weights, noisy=noisy, clean=clean, clean_weight=clean_weight)
    assert_same(gradients, expected)
    counted = noisy.masks != 255
    assert outcome.zero_share == pytest.approx(float((weights[counted] == 0).double().mean()))
    assert outcome.effective_pixels == pytest.approx(float(1 / weights.square().sum()), rel=1e-9)
    assert outcome.clean_loss == pytest.approx(mean_loss(classes, CLEAN), rel=1e-9)
    assert not outcome.all_zero


def test_a_share_of_the_clean_loss_is_added_to_loss_and_gradient():
    without, gradients, _ = stepped("pixel", clean_weight=0.0)
    added, more, _ = stepped("pixel", clean_weight=2.5)
    assert added.loss == pytest.approx(without.loss + 2.5 * without.clean_loss, rel=1e-9)
    clean = by_hand(1, (2.5, CLEAN))
    assert_same(more, {name: gradients[name] + clean[name] for name in gradients})


def test_without_that_share_only_the_direction_of_the_clean_gradient_counts(monkeypatch):
    """A clean loss of twice the size has the same weights, so the same update: it never enters the update itself."""
    real = weights_module.clean_gradient

    def doubled(*arguments, **options):
        loss, direction = real(*arguments, **options)
        return 2 * loss, {parameter: 2 * v for parameter, v in direction.items()}

    once, gradients, _ = stepped("pixel")
    monkeypatch.setattr(weights_module, "clean_gradient", doubled)
    twice, same, _ = stepped("pixel")
    assert twice.clean_loss == 2 * once.clean_loss
    assert twice.loss == pytest.approx(once.loss, rel=1e-9)
    assert_same(same, gradients)


def test_pixel_takes_its_gains_as_the_setting_says():
    exact, difference = (stepped("pixel", gains=gains)[0] for gains in ("exact", "finite-difference"))
    assert exact.effective_pixels != difference.effective_pixels
    assert exact.effective_pixels == pytest.approx(difference.effective_pixels, rel=0.01)


@CLASSES
@pytest.mark.parametrize("clean_weight", [0.0, 0.7])
def test_image_weighs_the_mean_loss_of_every_image(classes, clean_weight):
    """Against the weights of Ren et al. by the differentiated step: gains of the images' summed losses, over their counted pixels."""
    outcome, gradients, _ = stepped("image", classes, only=("noisy", "clean"), clean_weight=clean_weight)
    noisy, clean = batch(**NOISY, classes=classes), batch(**CLEAN, classes=classes)
    counted = (noisy.masks != 255).double()
    numbers = counted.sum((1, 2))
    weights = clamped(differentiated_gains(network(classes), noisy=noisy, clean=clean, per_image=True) / numbers)
    shared = (weights / numbers).view(-1, 1, 1) * counted
    assert_equal_to_rounding(outcome.weights, shared)
    assert_same(gradients, reference_gradients(network(classes), weights=shared, noisy=noisy, clean=clean, clean_weight=clean_weight))


@pytest.mark.parametrize(("share", "update", "stream"), [(0.5, 4, "pool"), (0.5, 5, "clean"), (0.0, 9, "pool"), (1.0, 0, "clean")])
def test_finetuned_is_plain_and_in_its_last_share_clean(share, update, stream):
    feed, asked = fed()
    model, config = network(), Config(finetune_share=share)
    METHODS["finetuned"](model, replace(feed, update=update, updates=10), config)
    assert asked == [stream]
    expected = by_hand(1, (1.0, POOL if stream == "pool" else CLEAN))
    assert_same({name: p.grad for name, p in model.named_parameters()}, expected)


def test_pixel_takes_its_gains_along_the_parts_that_the_setting_names():
    model = network()
    head = list(model.head.parameters())
    weights = pixel_weights(model, noisy=batch(**NOISY), clean=batch(**CLEAN), along=head)
    assert stepped("pixel", along="head")[0].effective_pixels == pytest.approx(float(1 / weights.square().sum()), rel=1e-9)


def test_a_step_in_which_no_noisy_pixel_helps_says_so_and_has_no_gradient():
    noisy = batch(**NOISY)
    noisy.masks.fill_(255)
    model = network()
    outcome = METHODS["pixel"](model, Feed(noisy=lambda: noisy, clean=lambda: batch(**CLEAN), pool=lambda: noisy), Config())
    assert outcome.all_zero
    assert outcome.effective_pixels == 0
    assert outcome.loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_adds_to_the_gradients_that_are_there(method):
    _, alone, _ = stepped(method)
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    _, added, _ = stepped(method, model=model)
    assert_same(added, {name: gradient + 1 for name, gradient in alone.items()})


def without_values():
    """A feed whose tensors have shapes and no values: whoever looks at one fails."""
    images = torch.empty(2, 1, 8, 8, dtype=torch.float64, device="meta")
    made = Batch(images, torch.empty(2, 8, 8, dtype=torch.uint8, device="meta"))
    return Feed(noisy=lambda: made, clean=lambda: made, pool=lambda: made)


@pytest.mark.parametrize("method", ["plain", "clean", "joint"])
def test_a_step_does_not_wait_for_its_numbers(method):
    outcome = METHODS[method](network().to("meta"), without_values(), Config())
    assert outcome.loss.shape == ()


def test_what_pixel_reports_does_not_wait_for_its_numbers(monkeypatch):
    values = torch.empty(2, 8, 8, device="meta")
    step = Step(values.sum(), values.sum(), values, values, values[:, None], values != 0)
    monkeypatch.setattr(methods_module, "reweighted_step", lambda *_, **__: step)
    outcome = METHODS["pixel"](network(), without_values(), Config())
    assert all(value.shape == () for value in outcome.numbers().values())


@pytest.mark.parametrize("noisy_masks", ["some ignored", "all ignored", "as they are"])
def test_pixel_reports_what_the_step_says_of_itself(monkeypatch, noisy_masks):
    noisy, steps = batch(**NOISY), []
    if noisy_masks != "as they are":
        noisy.masks[: 2 if noisy_masks == "some ignored" else None] = 255
    real = methods_module.reweighted_step
    monkeypatch.setattr(methods_module, "reweighted_step", lambda *a, **k: steps.append(real(*a, **k)) or steps[-1])
    outcome = METHODS["pixel"](network(), Feed(noisy=lambda: noisy, clean=lambda: batch(**CLEAN), pool=lambda: noisy), Config())
    assert outcome.loss == float(steps[0].loss)
    assert outcome.all_zero is steps[0].all_zero
    assert outcome.effective_pixels == steps[0].effective_pixels
    assert outcome.zero_share == pytest.approx(steps[0].zero_share, rel=1e-12, nan_ok=True)
