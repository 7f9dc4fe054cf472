"""The cost of a step stays what it is, counted in operations; how long they take is measured in benchmarks.

F is a forward pass of one batch, a backward 2F. Ordinary training on a noisy and a clean batch of one size: 6F. Exact: 8F (a
tangent is at most 2F: the images have none). Finite difference: 7F.
"""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from pixeltrust.method.losses import mean_over_counted, pixel_cross_entropy
from pixeltrust.method.weights import reweighted_step
from reference import NETWORKS, batch, network

LARGE = ("basic-unet", "attention-unet", "dyn-unet", "unetr")  # they take most of the time of all
FEW = ("plain-batch-norm", "patches")  # a finite difference is a pass more, whatever the network


def ordinary(model, noisy, clean):
    """Two passes forward and backward, one after the other, gradients added."""
    for part in (noisy, clean):
        mean_over_counted(pixel_cross_entropy(model(part.images), part.masks), part.masks).backward()


def operations(function, *args, **kwargs):
    with FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    return counter.get_total_flops()


def untested(model, noisy, clean, gains="exact", steps=2):
    """Take the steps that test the gains as well: the first, the second, the fourth, the eighth …"""
    for _ in range(steps):
        reweighted_step(model, noisy=noisy, clean=clean, gains=gains)


@pytest.mark.parametrize(
    ("gains", "name"),
    [
        pytest.param(gains, name, marks=pytest.mark.slow if name in LARGE or (gains != "exact" and name not in FEW) else ())
        for gains in ("exact", "finite-difference")
        for name in NETWORKS
    ],
)
def test_a_step_makes_no_more_operations_than_its_floor(name, gains):
    model, noisy, clean = network(name), batch(1), batch(2)
    untested(model, noisy, clean, gains)
    forward = operations(model, noisy.images)
    more = operations(reweighted_step, model, noisy=noisy, clean=clean, gains=gains) - operations(ordinary, model, noisy, clean)
    if gains == "finite-difference":
        assert more == forward
    elif name == "patches":  # torch's multi-head attention has no rule: its values are computed twice
        assert 2 * forward < more < 4 * forward
    else:
        assert forward < more <= 2 * forward


@pytest.mark.parametrize(("gains", "passes"), [("exact", 2), ("finite-difference", 3)])
def test_a_step_is_two_forward_and_two_backward_passes(gains, passes):
    """A finite difference takes one more forward, never recorded."""
    model, noisy, clean = network("basic-unet"), batch(1), batch(2)
    untested(model, noisy, clean, gains)
    forward, backward = [], []
    model.final_conv.register_forward_hook(lambda *_: forward.append(1))
    model.conv_0.conv_0.conv.weight.register_hook(lambda _: backward.append(1))
    reweighted_step(model, noisy=noisy, clean=clean, gains=gains)
    assert (len(forward), len(backward)) == (passes, 2)
