"""Directional derivatives on functions worked by hand, and that the module is itself again afterwards."""

import copy

import pytest
import torch
from torch import nn

from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.tangents import exact_tangent, finite_difference_tangent
from pixeltrust.method.weights import pixel_gains, reweighted_step
from pixeltrust.plumbing.errors import GainsWarning
from reference import PlainUNet, assert_equal_to_rounding, batch, differentiated_gains, network, seeded

RULES = [exact_tangent, finite_difference_tangent]
IMAGES = torch.arange(1.0, 9.0, dtype=torch.float64).reshape(2, 1, 2, 2)


class Square(nn.Module):
    """logits = a² · images + b; a is known by two names, b moves nothing else."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (3.0, 1.0))
        self.also_a = self.a

    def forward(self, images):
        return self.a * self.also_a * images + self.b


class Twice(nn.Module):
    """One module registered under two names, as MONAI's DynUNet does it."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, images):
        return self.second(self.first(images).relu())


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return 2 * values

    @staticmethod
    def backward(context, gradient):
        return 2 * gradient


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return NoForwardMode.apply(self.conv(images))


class Replacing(nn.Module):
    """Keeps a running mean by putting a new tensor in the buffer's place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        logits = self.conv(images)
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean()
        return logits - self.mean


@pytest.mark.parametrize("rule", RULES)
def test_a_tangent_worked_by_hand(rule):
    model = Square()
    direction = {model.a: torch.tensor(0.5, dtype=torch.float64), model.b: torch.tensor(2.0, dtype=torch.float64)}
    logits, tangent = rule(model, IMAGES, direction)
    assert torch.equal(logits.detach(), 9 * IMAGES + 1)
    torch.testing.assert_close(tangent, 2 * 3 * 0.5 * IMAGES + 2, rtol=1e-6, atol=0)  # the finite difference's own error


@pytest.mark.parametrize("rule", RULES)
def test_a_parameter_without_an_entry_does_not_move(rule):
    model = Square()
    _, tangent = rule(model, IMAGES, {model.b: torch.tensor(2.0, dtype=torch.float64)})
    torch.testing.assert_close(tangent, torch.full_like(IMAGES, 2.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_no_direction_or_one_of_zeros_gives_a_tangent_of_zeros(rule):
    model = Square()
    for direction in ({}, {model.a: torch.zeros((), dtype=torch.float64)}):
        logits, tangent = rule(model, IMAGES, direction)
        assert torch.equal(tangent, torch.zeros_like(IMAGES))
        assert logits.requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_logits_carry_their_graph_and_the_tangent_none(rule):
    model = Square()
    direction = {model.a: torch.tensor(0.5, dtype=torch.float64)}
    logits, tangent = rule(model, IMAGES, direction)
    assert not tangent.requires_grad
    logits.sum().backward()
    assert_equal_to_rounding(model.a.grad, 6 * IMAGES.sum())
    with torch.no_grad():
        assert not rule(model, IMAGES, direction)[0].requires_grad


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_shared_modules_stay_trainable_and_their_gains_are_right(gains):
    model, noisy, clean = seeded(Twice), batch(1), batch(2)
    names = list(dict(model.named_parameters(remove_duplicate=False)))
    assert len(names) == 4
    gain = pixel_gains(model, noisy=noisy, clean=clean, gains=gains)
    expected = differentiated_gains(model, noisy=noisy, clean=clean)
    torch.testing.assert_close(gain, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    before = model.first.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    reweighted_step(model, noisy=noisy, clean=clean, gains=gains)
    optimizer.step()
    assert model.first.weight is model.second.weight
    assert not torch.equal(model.first.weight, before)


@pytest.mark.parametrize("rule", RULES)
def test_parameters_are_the_same_to_the_bit(rule):
    """θ + h v − h v is not θ: a difference must work on other tensors."""
    model = network("monai-unet-instance", dtype=torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    versions = [p._version for p in model.parameters()]
    rule(model, batch(1, dtype=torch.float32).images, {p: torch.full_like(p, 0.3) for p in model.parameters()})
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))
    assert [p._version for p in model.parameters()] == versions


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_a_buffer_that_the_network_replaces_is_kept_too(gains):
    model, plain, noisy, clean = seeded(Replacing), seeded(Replacing), batch(1), batch(2)
    buffer = model.mean
    pixel_gains(model, noisy=noisy, clean=clean, gains=gains)
    assert model.mean is buffer
    assert model.mean == 0
    reweighted_step(model, noisy=noisy, clean=clean, gains=gains)
    plain(noisy.images)
    assert_equal_to_rounding(model.mean, plain.mean)


def test_buffers_are_kept_without_writing_to_them():
    """Reverse mode remembers a buffer's version: a write between a pass and its backward makes that an error."""
    model = nn.BatchNorm2d(1)
    buffer, version, twin = model.running_mean, model.running_mean._version, copy.deepcopy(model)
    with keep_buffers(model):
        model(torch.rand(2, 1, 4, 4))
        assert model.running_mean is not buffer
        assert not torch.equal(model.running_mean, twin.running_mean)
    assert model.running_mean is buffer
    assert buffer._version == version
    assert torch.equal(buffer, twin.running_mean)
    assert model.num_batches_tracked == 0


def test_buffers_are_back_after_an_exception():
    model = nn.BatchNorm2d(1)
    buffer = model.running_mean
    with pytest.raises(ValueError, match="expected 4D input"), keep_buffers(model):
        model(torch.rand(2, 1, 4, 4)) + model(torch.rand(2))
    assert model.running_mean is buffer
    assert buffer == 0


@pytest.mark.parametrize("function", [pixel_gains, reweighted_step])
def test_an_operation_without_forward_mode_is_said_and_differentiated_twice(function):
    model, batches = Doubling().double(), {"noisy": batch(1), "clean": batch(2)}
    before = dict(model.named_parameters())
    with pytest.warns(GainsWarning, match="Doubling: exact gains by two reverse passes.*not by forward mode: You must implement the jvp"):
        function(model, **batches)
    assert all(p is before[name] for name, p in model.named_parameters())
    assert_equal_to_rounding(pixel_gains(model, **batches), differentiated_gains(model, **batches))
    difference = pixel_gains(model, gains="finite-difference", **batches)
    expected = differentiated_gains(model, **batches)
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_other_faults_of_the_network_are_not_dressed_up():
    class Faulty(PlainUNet):
        def forward(self, images):
            return super().forward(images) @ torch.zeros(3, 5, dtype=images.dtype)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        exact_tangent(seeded(Faulty), batch(1).images, {})


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_attention_falls_back_to_its_formula_for_the_pass_alone(training, fast, monkeypatch):
    """torch's fused attention, and the fast path of its encoder layer in eval mode, have no forward mode."""
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", fast)
    before = (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled())
    model, noisy, clean = network("patches").train(training), batch(1), batch(2)
    assert_equal_to_rounding(pixel_gains(model, noisy=noisy, clean=clean), differentiated_gains(model, noisy=noisy, clean=clean))
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before
    assert before[0] is fast
