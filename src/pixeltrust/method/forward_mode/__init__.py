"""Forward-mode rules for the layers of networks: values are computed and recorded as ever, tangents beside them, never recorded.

torch's own forward mode, in a pass that is recorded for a backward, records the tangents' operations too: time and memory for a second
derivative that nobody takes. Here every operation that meets a tangent has a rule:

    linear.py      f(ẋ)
    products.py    B(ẋ, w) + B(x, ẇ): convolutions, linear layers, matrix products; attention
    pointwise.py   f′(x) ẋ is what the recorded backward of f makes of ẋ, for a diagonal Jacobian is its own transpose
                   (softmax and dropout as well)
    norms.py       γ J ẋ + (γ̇ x̂ + β̇): J, the Jacobian of x̂, is symmetric too, so J ẋ is the backward of a norm without scale;
                   the bracket is the norm with scale γ̇ and shift β̇
    pooling.py     ẋ where the maximum was
    other.py       any other: torch's forward mode for this one operation, at the cost of a second pass of it; two reverse passes of it
                   where it has no forward mode

What cannot be followed operation by operation raises `CannotTrace`: writing into part of a tensor, and what torch does not show (a custom
autograd function). So does a result that has a gradient and no tangent: it is unknown, not zero.

    x a value   dx its tangent ẋ, None where it is zero   B images   C channels   *S spatial axes
"""

from pixeltrust.method.forward_mode.fallback import (
    count_fallbacks,
    derivative_along,
    first_line,
    is_complete,
    load_forward_mode,
    operation_name,
    use_plain_kernels,
)
from pixeltrust.method.forward_mode.rules import CannotTrace
from pixeltrust.method.forward_mode.tracing import Tangents

__all__ = [
    "CannotTrace",
    "Tangents",
    "count_fallbacks",
    "derivative_along",
    "first_line",
    "is_complete",
    "load_forward_mode",
    "operation_name",
    "use_plain_kernels",
]
