"""What each compared method adds to .grad in one step, against the table of methods worked out by hand with torch's own losses."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from pixeltrust.config import Config
from pixeltrust.data.prefetch import Feed
from pixeltrust.method import weights as weights_module
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import weighted_dice_cross_entropy
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import Step, pixel_weights, reweighted_step
from pixeltrust.method_table import METHODS, Method, describe, family_of
from pixeltrust.plumbing.seeds import generator
from pixeltrust.training import methods as methods_module
from pixeltrust.training.methods import build_step, consistency_weight, step_of
from pixeltrust.training.optimizers import build_optimizer
from published import PUBLISHED
from reference import (
    PLACES,
    STREAMS,
    PlainUNet,
    assert_equal_to_rounding,
    batch,
    clamped,
    clean_mean,
    differentiated_gains,
    reference_gradients,
    seeded,
)

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

    return Feed(noisy=giving("noisy", NOISY), clean=giving("clean", CLEAN), pool=giving("pool", POOL), where=lambda: PLACES), asked


def stepped(method, classes=1, model=None, only=("noisy", "clean", "pool"), **settings):
    """The outcome, the gradients by name, and what was asked for."""
    model = model or network(classes)
    feed, asked = fed(classes, only)
    config = Config(method=method, image_size=16, **settings)
    outcome = built(model, config)(model, feed, config)
    return outcome, {name: p.grad for name, p in model.named_parameters()}, asked


def built(model, config):
    """The method; what it trains itself is in float64, as the networks here are."""
    method = build_step(model, config, STREAMS)
    return method.double() if isinstance(method, torch.nn.Module) else method


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
@pytest.mark.parametrize("method", PUBLISHED)
def test_a_rivals_loss_takes_the_place_of_plains(method, classes):
    outcome, gradients, asked = stepped(method, classes, only=("pool",))
    assert asked == ["pool"]
    model, data = network(classes), batch(**POOL, classes=classes)
    loss = PUBLISHED[method](model(data.images), data.masks)
    loss.backward()
    assert_same(gradients, {name: p.grad for name, p in model.named_parameters()})
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-9)
    assert math.isnan(outcome.clean_loss)


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
    real = weights_module._clean_gradient

    def doubled(*arguments, **options):
        loss, direction = real(*arguments, **options)
        return 2 * loss, {parameter: 2 * v for parameter, v in direction.items()}

    once, gradients, _ = stepped("pixel")
    monkeypatch.setattr(weights_module, "_clean_gradient", doubled)
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
    step_of("finetuned")(model, replace(feed, update=update, updates=10), config)
    assert asked == [stream]
    expected = by_hand(1, (1.0, POOL if stream == "pool" else CLEAN))
    assert_same({name: p.grad for name, p in model.named_parameters()}, expected)


STREAMS_OF = {"plain": (POOL,), "clean": (CLEAN,), "joint": (NOISY, CLEAN)}


@CLASSES
@pytest.mark.parametrize("method", STREAMS_OF)
def test_the_loss_of_the_settings_takes_the_place_of_cross_entropy(method, classes):
    outcome, gradients, _ = stepped(method, classes, loss="dice-ce")
    model, batches = network(classes), [batch(**settings, classes=classes) for settings in STREAMS_OF[method]]
    loss = sum(PUBLISHED["dice-ce"](model(data.images), data.masks) for data in batches) / len(batches)
    loss.backward()
    assert_same(gradients, {name: p.grad for name, p in model.named_parameters()})
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.parametrize("method", ["trust", "pixel", "image"])
def test_weighted_steps_take_the_loss_of_the_settings_for_update_and_direction(method):
    outcome, gradients, _ = stepped(method, loss="dice-ce", clean_weight=1.0)
    model, noisy, clean = network(), batch(**NOISY), batch(**CLEAN)
    if method == "trust":
        expected = Trust().step(model, noisy=noisy, clean=clean, where=PLACES, loss=weighted_dice_cross_entropy)
    else:
        expected = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, per=method, loss=weighted_dice_cross_entropy)
    assert_same(gradients, {name: p.grad for name, p in model.named_parameters()})
    assert outcome.clean_loss == pytest.approx(PUBLISHED["dice-ce"](network()(clean.images), clean.masks).item(), rel=1e-4)
    assert outcome.loss == pytest.approx(expected.loss.item(), rel=1e-9)


@pytest.mark.parametrize("method", ["gce", "mae", "sce", "nr-dice", "t-loss", "dice-ce"])
def test_methods_of_a_loss_of_their_own_keep_it(method):
    assert_same(stepped(method, loss="cross-entropy")[1], stepped(method, loss="dice-ce")[1])


def test_volumes_have_defaults_of_their_own():
    volumes = {"image_size": (16, 16, 16)}
    assert (Config().training_loss, Config().flips, Config().jittered) == ("cross-entropy", True, "clean")
    unset = Config(**volumes)
    assert (unset.training_loss, unset.flips, unset.jittered) == ("dice-ce", False, "all")
    assert not Config(method="mender", **volumes).flips
    told = Config(**volumes, loss="cross-entropy", augment="flips-and-turns", jitter="none")
    assert (told.training_loss, told.flips, told.jittered) == ("cross-entropy", True, "none")


# What remembers


def test_nu_of_the_t_loss_is_trained_along_and_stays_above_zero():
    model, config, (feed, _) = network(), Config(method="t-loss", learning_rate=0.5), fed()
    method = built(model, config)
    optimizer = build_optimizer(torch.nn.ModuleList([model, method]), config)
    reported = []
    for _ in range(12):
        optimizer.zero_grad()
        reported.append(method(model, feed, config).more["nu"])
        optimizer.step()
    assert reported[0] == pytest.approx(math.e)
    assert all(nu > 0 for nu in reported)
    assert len(set(reported)) == 12
    data = batch(**POOL)
    nu = torch.tensor(math.e + 1e-8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(PUBLISHED["t-loss"](network()(data.images).detach(), data.masks, nu), nu)
    first = built(network(), config)
    first(network(), feed, config)
    assert first.log_nu.grad.item() == pytest.approx(math.e * slope.item(), rel=1e-9)


def noise_of(update, shape, seed=0):
    return 0.025 * torch.from_numpy(generator(seed, "teacher noise", update).standard_normal((2, *shape), "float32")).double()


@CLASSES
def test_a_mean_teacher_is_the_average_of_its_student_and_teaches_it_probabilities(classes):
    """Against a student that is moved by hand: the average, the noise, the ramp and the gradient of every step."""
    config, (feed, asked) = Config(method="mean-teacher", seed=5), fed(classes, only=("noisy", "clean"))
    student, average = network(classes), network(classes)
    method = built(student, config)
    noisy, clean = batch(**NOISY, classes=classes), batch(**CLEAN, classes=classes)
    for update in range(4):
        with torch.no_grad():
            for own, value in zip(average.parameters(), student.parameters(), strict=True):
                own.copy_(0.99 * own + 0.01 * value)
        reference = deepcopy(student)
        probabilities = torch.sigmoid if classes == 1 else (lambda logits: torch.softmax(logits, 1))
        taught, learned = noise_of(update, noisy.images.shape, seed=5)
        aim = probabilities(average(noisy.images + taught)).detach()
        consistency = F.mse_loss(probabilities(reference(noisy.images + learned)), aim)
        weight = math.exp(-5 * (1 - min(1, update / (0.4 * 5))) ** 2)
        clean_loss = clean_mean(reference(clean.images), clean.masks)
        (clean_loss + weight * consistency).backward()
        outcome = method(student, replace(feed, update=update, updates=5), config)
        assert_same({n: p.grad for n, p in student.named_parameters()}, {n: p.grad for n, p in reference.named_parameters()})
        assert outcome.loss == pytest.approx((clean_loss + weight * consistency).item(), rel=1e-9)
        assert outcome.clean_loss == pytest.approx(clean_loss.item(), rel=1e-9)
        assert outcome.more["consistency"] == pytest.approx(consistency.item(), rel=1e-9)
        assert outcome.more["consistency"] > 0  # in the first step too: the two see other noise
        with torch.no_grad():
            for value in student.parameters():
                value -= 0.5 * value.grad
                value.grad = None
    assert asked == ["clean", "noisy"] * 4


def test_a_mean_teacher_does_not_look_at_the_noisy_masks():
    noisy, clean = batch(**NOISY), batch(**CLEAN)
    blind = Feed(noisy=lambda: SimpleNamespace(images=noisy.images), clean=lambda: clean, pool=None)
    model, config = network(), Config(method="mean-teacher")
    outcome = built(model, config)(model, blind, config)
    expected, gradients, _ = stepped("mean-teacher")
    assert outcome.numbers() == pytest.approx(expected.numbers(), rel=1e-12, nan_ok=True)
    assert_same({name: p.grad for name, p in model.named_parameters()}, gradients)


def test_a_mean_teacher_has_no_gradient_and_is_not_trained():
    model, config, (feed, _) = network(), Config(method="mean-teacher"), fed()
    method = built(model, config)
    method(model, feed, config)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.parameters())
    (group,) = build_optimizer(torch.nn.ModuleList([model, method]), config).param_groups
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in model.parameters()}


def test_a_mean_teacher_sees_noise_that_seed_and_update_decide():
    consistency = {}
    for name, (seed, update) in {"one": (0, 3), "again": (0, 3), "later": (0, 4), "other": (1, 3)}.items():
        model, config, (feed, _) = network(), Config(method="mean-teacher", seed=seed), fed()
        consistency[name] = built(model, config)(model, replace(feed, update=update, updates=10), config).more["consistency"]
    assert consistency["one"] == consistency["again"]
    assert len(set(consistency.values())) == 3


@pytest.mark.parametrize("training", [True, False])
def test_a_mean_teacher_has_the_buffers_and_the_mode_of_its_student(training):
    """With running statistics far from the initial ones, that shows where they are used: in eval mode."""
    model = seeded(PlainUNet, 2, 1, norm="batch")
    config, (feed, _) = Config(method="mean-teacher"), fed()
    method = built(model, config)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(9.0)
    model.train(training)
    expected = deepcopy(model)
    outcome = method(model, feed, config)
    images = batch(**NOISY).images
    taught, learned = noise_of(0, images.shape)
    difference = expected(images + taught).sigmoid() - expected(images + learned).sigmoid()
    assert outcome.more["consistency"] == pytest.approx(difference.square().mean().item(), rel=1e-9)


def test_the_page_of_the_commands_has_the_table_of_the_methods():
    rows = "".join(f"| `{method.name}` | {method.help} |\n" for method in METHODS.values())
    assert rows in (Path(__file__).parents[1] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_step_and_its_help(name):
    method = METHODS[name]
    assert (method.name, family_of(name)) == (name, method.family)
    assert callable(step_of(name))
    assert method.help
    assert method.takes_gains >= method.weighs_pixels


def test_a_name_that_is_not_in_the_table_is_somebodys_own():
    assert family_of("mine") == "own"


def test_a_step_of_ones_own_is_described_by_its_attributes():
    def step(model, feed, config): ...

    assert describe(step) == Method()
    step.takes_gains = True
    step.streams = ("noisy", "clean")
    assert describe(step) == Method(streams=("noisy", "clean"), takes_gains=True)


@pytest.mark.parametrize(("update", "share"), [(0, math.exp(-5)), (200, math.exp(-1.25)), (400, 1), (401, 1), (1000, 1)])
def test_consistency_counts_more_and_more_in_the_first_two_fifths_of_training(update, share):
    assert consistency_weight(update, 1000) == pytest.approx(share)


def test_pixel_takes_its_gains_along_the_parts_that_the_setting_names():
    model = network()
    head = list(model.head.parameters())
    weights = pixel_weights(model, noisy=batch(**NOISY), clean=batch(**CLEAN), along=head)
    assert stepped("pixel", along="head")[0].effective_pixels == pytest.approx(float(1 / weights.square().sum()), rel=1e-9)


def test_a_step_in_which_no_noisy_pixel_helps_says_so_and_has_no_gradient():
    noisy = batch(**NOISY)
    noisy.masks.fill_(255)
    model = network()
    outcome = step_of("pixel")(model, Feed(noisy=lambda: noisy, clean=lambda: batch(**CLEAN), pool=lambda: noisy), Config())
    assert outcome.all_zero
    assert outcome.effective_pixels == 0
    assert outcome.loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].sees_given])
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


@pytest.mark.parametrize("method", ["plain", "clean", "joint", "mean-teacher", *PUBLISHED])
def test_a_step_does_not_wait_for_its_numbers(method):
    model, config = network().to("meta"), Config(method=method)
    method = built(model, config)
    method = method.to("meta") if isinstance(method, torch.nn.Module) else method
    outcome = method(model, without_values(), config)
    assert outcome.loss.shape == ()
    assert all(value.shape == () for value in outcome.more.values())


def test_what_pixel_reports_does_not_wait_for_its_numbers(monkeypatch):
    values = torch.empty(2, 8, 8, device="meta")
    step = Step(values.sum(), values.sum(), values, values, values[:, None], values != 0)
    monkeypatch.setattr(methods_module, "reweighted_step", lambda *_, **__: step)
    outcome = step_of("pixel")(network(), without_values(), Config())
    assert all(value.shape == () for value in outcome.numbers().values())


@pytest.mark.parametrize("noisy_masks", ["some ignored", "all ignored", "as they are"])
def test_pixel_reports_what_the_step_says_of_itself(monkeypatch, noisy_masks):
    noisy, steps = batch(**NOISY), []
    if noisy_masks != "as they are":
        noisy.masks[: 2 if noisy_masks == "some ignored" else None] = 255
    real = methods_module.reweighted_step
    monkeypatch.setattr(methods_module, "reweighted_step", lambda *a, **k: steps.append(real(*a, **k)) or steps[-1])
    outcome = step_of("pixel")(network(), Feed(noisy=lambda: noisy, clean=lambda: batch(**CLEAN), pool=lambda: noisy), Config())
    assert outcome.loss == float(steps[0].loss)
    assert outcome.all_zero is steps[0].all_zero
    assert outcome.effective_pixels == steps[0].effective_pixels
    assert outcome.zero_share == pytest.approx(steps[0].zero_share, rel=1e-12, nan_ok=True)
