"""The optimisers are torch's, by their settings, in one fused kernel where there is one."""

import pytest
import torch

from pixeltrust.config import Config
from pixeltrust.training.optimizers import build_optimizer

PLAIN = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3)).double()


def stepped(model, optimizer, steps=5):
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 9, 9, generator=draws, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("name", PLAIN)
def test_a_fused_optimiser_steps_as_the_plain_one(name):
    config = Config(optimizer=name, learning_rate=0.02, weight_decay=0.1)
    model, other = network(), network()
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, PLAIN[name])
    assert optimizer.defaults["fused"]
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    plain = PLAIN[name](other.parameters(), lr=0.02, weight_decay=0.1, fused=False, foreach=False, **momentum)
    for value, expected in zip(stepped(model, optimizer), stepped(other, plain), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)  # float64; the order of operations differs


@pytest.mark.parametrize("name", PLAIN)
def test_complex_parameters_which_no_fused_kernel_takes_are_trained_too(name):
    model = torch.nn.Linear(2, 2, dtype=torch.complex64)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(model, Config(optimizer=name))
    model(torch.ones(1, 2, dtype=torch.complex64)).abs().sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_parameters_that_require_no_gradient_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in build_optimizer(model, Config()).param_groups) == 2
