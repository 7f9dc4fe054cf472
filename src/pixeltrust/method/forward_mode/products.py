"""Functions of several factors, linear in each: a term for every factor that has a tangent."""

from collections.abc import Iterator
from typing import Any

import torch

from pixeltrust.method.forward_mode.fallback import fallback_rule
from pixeltrust.method.forward_mode.rules import CannotTrace, Rules, add_tangents, is_dual, tangent_of, value_of, values_of

RULES = Rules()


@RULES.for_("div", "div_", "true_divide", "divide")
def _div(function: Any, x: Any, y: Any) -> Iterator[Any]:
    value = function(value_of(x), value_of(y))
    yield value
    change = None if tangent_of(y) is None else -value * tangent_of(y) / y.value
    yield add_tangents(None if tangent_of(x) is None else tangent_of(x) / value_of(y), change)


@RULES.for_("mul", "multiply", "matmul", "mm", "bmm", "__matmul__")
def _product(function: Any, x: Any, y: Any) -> Iterator[Any]:
    yield function(value_of(x), value_of(y))
    terms = [] if tangent_of(x) is None else [function(x.tangent, value_of(y))]
    yield add_tangents(*terms, None if tangent_of(y) is None else function(value_of(x), y.tangent))


@RULES.for_("mul_")
def _mul_in_place(function: Any, x: Any, y: Any) -> Iterator[Any]:
    if is_dual(y):
        raise CannotTrace("a product in place")
    yield function(x.value, y)
    yield x.tangent * y


@RULES.for_("einsum")
def _einsum(function: Any, equation: str, *operands: Any) -> Iterator[Any]:
    factors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    values = values_of(factors)
    yield function(equation, *values)
    replaced = ([*values[:i], factor.tangent, *values[i + 1 :]] for i, factor in enumerate(factors) if is_dual(factor))
    yield add_tangents(*(function(equation, *operands) for operands in replaced))


@RULES.for_(*("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"))
def _layer(function: Any, input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Iterator[Any]:
    x, w, dx, dw = value_of(input), value_of(weight), tangent_of(input), tangent_of(weight)
    yield function(x, w, value_of(bias), *args, **kwargs)
    factors = [pair for pair in ((x, dw), (dx, w)) if pair[0] is not None and pair[1] is not None]
    first, *rest = factors or [(torch.zeros_like(x), w)]
    tangent = function(*first, tangent_of(bias), *args, **kwargs)
    for pair in rest:
        tangent += function(*pair, None, *args, **kwargs)
    yield tangent


@RULES.for_("scaled_dot_product_attention")
def _attention(
    function: Any, query: Any, key: Any, value: Any, attn_mask: Any = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
) -> Iterator[Any]:  # fmt: skip
    """Compute the value by torch's fused kernel, and the tangent by the formula softmax(q kᵀ · scale + mask) v."""
    if dropout_p > 0:
        yield from fallback_rule(function, query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
        return
    q, k, v, mask = map(value_of, (query, key, value, attn_mask))
    yield function(q, k, v, mask, 0.0, is_causal, scale=scale)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if is_causal:
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    shares = torch.ops.aten._safe_softmax(scores, -1)  # 0, as the kernels have it, where all of a row is masked
    change = add_tangents(
        None if tangent_of(query) is None else query.tangent @ k.mT * scale,
        None if tangent_of(key) is None else q @ key.tangent.mT * scale,
        tangent_of(attn_mask),
    )
    moved = None if change is None else torch._softmax_backward_data(change, shares, -1, shares.dtype) @ v
    yield add_tangents(moved, None if tangent_of(value) is None else shares @ value.tangent)
