"""Functions of every entry by itself, and others whose Jacobian is symmetric: forward mode is what their own backward does."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from pixeltrust.duals.other import any_other
from pixeltrust.duals.rules import Rules, has_dual, is_dual, tangent_of, total, value_of

RULES = Rules()


@RULES.for_(
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu", "silu", "mish"),
    *("hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "sigmoid", "sigmoid_", "logsigmoid", "tanh", "tanh_", "softplus"),
    *("softsign", "softmax", "threshold", "exp", "log", "log1p", "sqrt", "rsqrt", "square", "abs", "sin", "cos", "erf", "reciprocal"),
    *("pow", "__pow__", "__rdiv__", "clamp", "clamp_min", "dropout", "dropout1d", "dropout2d", "dropout3d"),
)
def _elementwise(function: Any, x: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    if not is_dual(x) or has_dual(args, kwargs):
        yield from any_other(function, x, *args, **kwargs)
        return
    before = get_gradient_edge(x.value)  # of x as it was, should the function write into it
    value = function(x.value, *args, **kwargs)
    yield value
    yield torch.autograd.grad(value, before, x.tangent.to(value.dtype), retain_graph=True)[0]


@RULES.for_("prelu")
def _prelu(function: Any, input: Any, weight: Any) -> Iterator[Any]:
    x, dx, dw = value_of(input), tangent_of(input), tangent_of(weight)
    yield function(x, value_of(weight))
    along_channels = (-1,) + (1,) * (x.ndim - 2)
    slope = torch.where(x > 0, 1.0, value_of(weight).view(along_channels)).to(x.dtype)
    change = None if dw is None else x.clamp(max=0) * dw.view(along_channels)
    yield total(None if dx is None else slope * dx, change)
