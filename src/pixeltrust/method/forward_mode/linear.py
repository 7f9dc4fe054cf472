"""Functions that are linear in their arguments with a tangent, up to a constant."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeltrust.method.forward_mode.fallback import fallback_rule
from pixeltrust.method.forward_mode.rules import Rules, add_tangents, has_dual, is_dual, scale_tangent, tangent_of, value_of, values_of

RULES = Rules()
_POOLED_AXES = {F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3}  # torch's own, unlike these, cannot give the indices


@RULES.for_(
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "grid_sample", "affine_grid"),
    *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "contiguous", "clone", "to", "float", "double"),
    *("half", "bfloat16", "type", "cpu", "cuda", "as_tensor"),
    *("repeat", "tile", "__getitem__", "narrow", "select", "chunk", "split", "tensor_split", "unbind", "roll"),
    *("flip", "rot90", "diagonal", "index_select", "gather", "take_along_dim", "tril", "triu", "sum", "mean", "neg", "cumsum"),
    *("interpolate", "upsample", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("adaptive_avg_pool3d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "fold", "repeat_interleave"),
)
def _linear(function: Any, x: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    if not is_dual(x) or has_dual(args, kwargs):
        yield from fallback_rule(function, x, *args, **kwargs)
        return
    yield function(x.value, *args, **kwargs)
    yield function(x.tangent, *args, **kwargs)


@RULES.for_("view_as", "reshape_as", "expand_as", "type_as")
def _linear_as(function: Any, x: Any, other: Any) -> Iterator[Any]:
    """Handle functions of which the second argument gives only the shape or the dtype, whether it has a tangent or not."""
    yield from _linear(function, x, value_of(other))


RULES.update(dict.fromkeys([getattr(Tensor, name).__get__ for name in ("T", "mT")], _linear))


@RULES.for_("cat", "concat", "concatenate", "stack", "hstack", "vstack")
def _joined(function: Any, tensors: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    yield function(values_of(tensors), *args, **kwargs)
    yield function([x.tangent if is_dual(x) else torch.zeros_like(x) for x in tensors], *args, **kwargs)


@RULES.for_("where")
def _where(function: Any, condition: Any, input: Any, other: Any) -> Iterator[Any]:
    yield function(condition, value_of(input), value_of(other))
    yield torch.where(condition, *(0.0 if tangent_of(x) is None else tangent_of(x) for x in (input, other)))


def _tensor_where(function: Any, input: Any, condition: Any, other: Any) -> Iterator[Any]:
    """Handle x.where(condition, y), which has its arguments in another order."""
    yield from _where(lambda condition, x, y: function(x, condition, y), condition, input, other)


RULES[Tensor.where] = _tensor_where


@RULES.for_("masked_fill")
def _masked_fill(function: Any, x: Any, mask: Any, filling: Any) -> Iterator[Any]:
    if is_dual(filling):
        yield from fallback_rule(function, x, mask, filling)
        return
    yield function(x.value, mask, filling)
    yield x.tangent.masked_fill(mask, 0.0)


@RULES.for_("pad")
def _pad(function: Any, x: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Iterator[Any]:
    yield function(x.value, pad, mode, value)
    yield function(x.tangent, pad, mode)


@RULES.for_("add", "add_")
def _add(function: Any, x: Any, y: Any, *, alpha: Any = 1) -> Iterator[Any]:
    yield function(value_of(x), value_of(y), alpha=alpha) if alpha != 1 else function(value_of(x), value_of(y))
    yield add_tangents(tangent_of(x), scale_tangent(tangent_of(y), alpha))


@RULES.for_("sub", "sub_", "subtract")
def _sub(function: Any, x: Any, y: Any, *, alpha: Any = 1) -> Iterator[Any]:
    yield function(value_of(x), value_of(y), alpha=alpha) if alpha != 1 else function(value_of(x), value_of(y))
    yield add_tangents(tangent_of(x), scale_tangent(tangent_of(y), -alpha))


@RULES.for_("rsub", "__rsub__")
def _rsub(function: Any, x: Any, y: Any) -> Iterator[Any]:
    yield function(value_of(x), value_of(y))
    yield add_tangents(scale_tangent(tangent_of(x), -1), tangent_of(y))


def _max_pool(function: Any, x: Any, *args: Any, return_indices: bool = False, **kwargs: Any) -> Iterator[Any]:
    value, indices = function(x.value, *args, return_indices=True, **kwargs)
    yield (value, indices) if return_indices else value
    axes = _POOLED_AXES[function]
    tangent = x.tangent.flatten(-axes).gather(-1, indices.flatten(-axes)).view(value.shape)
    yield (tangent, None) if return_indices else tangent


RULES.update(dict.fromkeys(_POOLED_AXES, _max_pool))
