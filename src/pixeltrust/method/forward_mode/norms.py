"""Norms, by the same formula: γ J ẋ + (γ̇ x̂ + β̇)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeltrust.method.forward_mode.rules import Rules, tangent_of, value_of

RULES = Rules()


@RULES.for_("group_norm")
def _group_norm(function: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Iterator[Any]:
    yield function(value_of(input), num_groups, value_of(weight), value_of(bias), eps)
    yield _grouped_tangent(input, num_groups, weight, bias, eps)


@RULES.for_("instance_norm")
def _instance_norm(
    function: Any, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Iterator[Any]:  # fmt: skip
    """Compute it as a group norm with as many groups as channels; unlike torch's instance norm, its result is not a view."""
    if use_input_stats and running_mean is None:
        yield F.group_norm(value_of(input), value_of(input).shape[1], value_of(weight), value_of(bias), eps)
    else:
        yield function(value_of(input), running_mean, running_var, value_of(weight), value_of(bias), use_input_stats, momentum, eps)
    if use_input_stats:
        yield _grouped_tangent(input, value_of(input).shape[1], weight, bias, eps)
    else:
        yield _fixed_tangent(input, running_mean, running_var, weight, bias, eps)


@RULES.for_("batch_norm")
def _batch_norm(
    function: Any, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Iterator[Any]:  # fmt: skip
    yield function(value_of(input), running_mean, running_var, value_of(weight), value_of(bias), training, momentum, eps)
    if not training:
        yield _fixed_tangent(input, running_mean, running_var, weight, bias, eps)
        return
    x, dx, w, dw, db = _norm_parts(input, weight, bias)
    shift, mean, rstd = torch.native_batch_norm(x, dw, db, None, None, True, 0.0, eps)
    if dx is None:
        yield shift
        return
    backward = torch.ops.aten.native_batch_norm_backward
    yield shift.addcmul_(backward(dx, x, None, None, None, mean, rstd, True, eps, [True, False, False])[0], _over_channels(w, x))


@RULES.for_("layer_norm")
def _layer_norm(function: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Iterator[Any]:
    yield function(value_of(input), normalized_shape, value_of(weight), value_of(bias), eps)
    x, dx, w, dw, db = _norm_parts(input, weight, bias, normalized_shape)
    shift, mean, rstd = torch.native_layer_norm(x, normalized_shape, dw, db, eps)
    if dx is None:
        yield shift
        return
    backward = torch.ops.aten.native_layer_norm_backward
    yield shift.addcmul_(backward(dx, x, normalized_shape, mean, rstd, None, None, [True, False, False])[0], w)


def _grouped_tangent(input: Any, groups: int, weight: Any, bias: Any, eps: float) -> Tensor:
    x, dx, w, dw, db = _norm_parts(input, weight, bias)
    sizes = (x.shape[0], x.shape[1], x.shape[2:].numel(), groups)
    shift, mean, rstd = torch.native_group_norm(x, dw, db, *sizes, eps)
    if dx is None:
        return shift
    backward = torch.ops.aten.native_group_norm_backward
    return shift.addcmul_(backward(dx, x, mean, rstd, None, *sizes, [True, False, False])[0], _over_channels(w, x))


def _fixed_tangent(input: Any, mean: Tensor, variance: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
    """Return the tangent of a norm by running statistics, which is linear in x."""
    x, dx, w, dw, db = _norm_parts(input, weight, bias)
    shift = F.batch_norm(x, mean, variance, dw, db, False, 0.0, eps)
    return shift if dx is None else shift.addcmul_(dx, _over_channels(w * (variance + eps).rsqrt(), x))


def _norm_parts(input: Any, weight: Any, bias: Any, shape: Any = None) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Return x, ẋ, γ, γ̇, β̇ in float32 or better, with 1 for an absent scale and 0 for an absent tangent.

    x and ẋ have one memory format: the backward kernels read both in the format of x, without a check.
    """
    x, dx = value_of(input), tangent_of(input)
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    kept = x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=channels_last)
    memory_format = channels_last if kept else torch.contiguous_format
    dtype = torch.promote_types(x.dtype, torch.float32)
    size = x.shape[1:2] if shape is None else shape
    ones, zeros = torch.ones(size, dtype=dtype, device=x.device), torch.zeros(size, dtype=dtype, device=x.device)
    scale, d_scale, d_shift = value_of(weight), tangent_of(weight), tangent_of(bias)
    return (
        x.to(dtype).contiguous(memory_format=memory_format),
        None if dx is None else dx.to(dtype).contiguous(memory_format=memory_format),
        ones if scale is None else scale.to(dtype),
        zeros if d_scale is None else d_scale.to(dtype),
        zeros if d_shift is None else d_shift.to(dtype),
    )


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.ndim - 2))
