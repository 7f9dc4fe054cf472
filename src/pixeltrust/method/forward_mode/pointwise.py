"""Elementwise functions, and others whose Jacobian is symmetric: their own backward is their forward mode."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_leaves

from pixeltrust.method.forward_mode.fallback import fallback_rule, hide_saved_tensors
from pixeltrust.method.forward_mode.rules import Dual, Rules, add_tangents, has_dual, is_dual, tangent_of, value_of
from pixeltrust.method.module_state import random_states, replay_random

RULES = Rules()


@RULES.for_(
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu", "silu", "mish"),
    *("hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "sigmoid", "sigmoid_", "logsigmoid", "tanh", "tanh_", "softplus"),
    *("softsign", "softmax", "threshold", "exp", "log", "log1p", "sqrt", "rsqrt", "square", "abs", "sin", "cos", "erf", "reciprocal"),
    *("pow", "__pow__", "__rdiv__", "clamp", "clamp_min", "dropout", "dropout1d", "dropout2d", "dropout3d"),
)
def _elementwise(function: Any, x: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    if not is_dual(x) or has_dual(args, kwargs) or x.value.is_complex():  # |z| is real, and its backward not its own transpose
        yield from fallback_rule(function, x, *args, **kwargs)
        return
    x = _broadcast(x, args, kwargs)
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        yield from _without_saved_tensors(function, x, *args, **kwargs)
        return
    before = get_gradient_edge(x.value)  # of x as it was, should the function write into it
    value = function(x.value, *args, **kwargs)
    yield value
    yield torch.autograd.grad(value, before, x.tangent.to(value.dtype), retain_graph=True)[0]


def _broadcast(x: Dual, args: Any, kwargs: Any) -> Dual:
    """Expand x to the shape of the result, which constants may make larger, as in x.clamp(min=y)."""
    shapes = [leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not shapes or (shape := torch.broadcast_shapes(x.value.shape, *shapes)) == x.value.shape:
        return x
    return Dual(x.value.expand(shape), x.tangent.expand(shape))


def _without_saved_tensors(function: Any, x: Dual, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Do the same by a second call of the function, which has its own graph.

    Under activation checkpointing the recorded graph is empty, and every look into it would compute all of the block again.
    """
    before, random = x.value.detach().clone(), random_states([x.value])
    value = function(x.value, *args, **kwargs)
    yield value
    with replay_random(random), hide_saved_tensors(), torch.enable_grad():
        again = function((leaf := before.requires_grad_()).clone(), *args, **kwargs)
        (tangent,) = torch.autograd.grad(again, leaf, x.tangent.to(value.dtype))
    yield tangent


@RULES.for_("prelu")
def _prelu(function: Any, input: Any, weight: Any) -> Iterator[Any]:
    x, dx, dw = value_of(input), tangent_of(input), tangent_of(weight)
    yield function(x, value_of(weight))
    along_channels = (-1,) + (1,) * (x.ndim - 2)
    slope = torch.where(x > 0, 1.0, value_of(weight).view(along_channels)).to(x.dtype)
    change = None if dw is None else x.clamp(max=0) * dw.view(along_channels)
    yield add_tangents(None if dx is None else slope * dx, change)
