"""A pass in which every value carries its tangent."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pixeltrust.method.forward_mode import linear, norms, pointwise, products
from pixeltrust.method.forward_mode.fallback import fallback_rule, is_complete, is_computed, operation_name
from pixeltrust.method.forward_mode.rules import CannotTrace, Dual, Rules, has_dual, values_of

_RULES = Rules(linear.RULES | products.RULES | pointwise.RULES | norms.RULES)


class TracedTensor(Tensor):
    """A stand-in for a value in the network's code, with its tangent: both are freed as soon as the network drops it.

    If the network keeps it beyond the pass (a loss of its own, say), it acts as the plain value from then on.
    """

    value: Tensor
    tangent: Tensor | None
    shared: bool
    """True if it is a view or has one: writing into it would have to write into the other's tangent too."""

    def __new__(cls, value: Tensor, tangent: Tensor | None, during: "Tangents") -> "TracedTensor":  # noqa: ARG004
        # It requires a gradient, so that an operation hidden from the mode is found out: its result has one, and is not a TracedTensor.
        return Tensor._make_subclass(cls, value.detach(), True)

    def __init__(self, value: Tensor, tangent: Tensor | None, during: "Tangents") -> None:
        self.value, self.tangent, self.shared, self._during = value, _like(tangent, value), value._is_view(), during

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Handle an operation that the pass does not see: one after the pass, or one within it that hides the tensor."""

        def value_of(leaf: Any) -> Any:
            if not isinstance(leaf, TracedTensor):
                return leaf
            if leaf._during.entered:
                raise CannotTrace(f"a tensor that reaches {operation_name(function)} by a hidden way")
            return leaf.value

        return function(*tree_map(value_of, args), **tree_map(value_of, kwargs or {}))

    def overwrite(self, tangent: Tensor | None) -> None:
        """Take over the tangent after the value was written into."""
        if self.shared:
            raise CannotTrace("an operation in place on a tensor that shares its memory with another")
        self.tangent = _like(tangent, self.value)


class Tangents(TorchFunctionMode):
    """A mode in which all that is computed from the parameters of `direction` has a tangent, which `dual` returns.

    A result that depends on them and has no tangent raises `CannotTrace`: its tangent is unknown, not zero.
    """

    def __init__(self, direction: Mapping[nn.Parameter, Tensor]) -> None:
        super().__init__()
        self._direction = direction
        self.entered = False

    def __enter__(self) -> "Tangents":
        self.entered = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.entered = False
        self._direction = {}  # so that what the network keeps of this pass does not keep the direction

    def dual(self, tensor: Tensor) -> Dual:
        """Return the recorded value and the tangent behind a tensor of the network.

        Raises:
            CannotTrace: it was computed by a hidden operation.
        """
        if isinstance(tensor, TracedTensor):
            if tensor._during is not self:
                raise CannotTrace("a tensor that the network has kept from a pass before")
            return Dual(tensor.value, tensor.tangent)
        if tensor.requires_grad and not tensor.is_leaf:
            shown = tensor.grad_fn.name() if tensor.grad_fn is not None else "an operation"
            raise CannotTrace(f"{shown}, which torch does not show (a custom autograd function, torch.func, torch.jit)")
        return Dual(tensor, self._direction.get(tensor) if isinstance(tensor, nn.Parameter) else None)

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        plain_args, plain_kwargs = tree_map(self._unwrap, args), tree_map(self._unwrap, kwargs)
        target = args[0] if args and isinstance(args[0], TracedTensor) else None
        version = target.value._version if target is not None else 0
        if torch.is_grad_enabled() and has_dual(plain_args, plain_kwargs):
            value, tangent = _apply(function, plain_args, plain_kwargs)
        else:
            value, tangent = function(*values_of(plain_args), **values_of(plain_kwargs)), None
        if target is not None and value is target.value:
            if version != value._version and torch.is_grad_enabled():  # it was written into, not just handed through
                target.overwrite(tangent)
            return target
        sources = [target] if target is not None else [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, TracedTensor)]
        return self._wrap(value, tangent, sources)

    def _unwrap(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        dual = self.dual(leaf)
        return dual.value if dual.tangent is None else dual

    def _wrap(self, value: Any, tangent: Any, sources: list[TracedTensor]) -> Any:
        """Wrap a result for the network; it may share the memory of `sources`."""
        if isinstance(value, tuple | list):
            tangents = tangent if isinstance(tangent, tuple | list) else [None] * len(value)
            parts = [self._wrap(*pair, sources) for pair in zip(value, tangents, strict=True)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if not is_computed(value):
            return value
        traced = TracedTensor(value, tangent, self)
        for source in sources:
            source.shared |= traced.shared
        return traced


def _apply(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the value and the tangent of a call, by its rule."""
    rule = _RULES.get(function, fallback_rule)
    try:
        steps = rule(function, *args, **kwargs)
    except TypeError:  # called in a way that its rule does not support
        steps = fallback_rule(function, *args, **kwargs)
    value = next(steps)
    if not any(map(is_computed, tree_leaves(value))):
        return value, None
    with torch.no_grad():
        tangent = next(steps)
    if not is_complete(value, tangent):
        raise CannotTrace(f"{operation_name(function)}, whose result has no tangent")
    return value, tangent


def _like(tangent: Tensor | None, value: Tensor) -> Tensor | None:
    return None if tangent is None else tangent.to(value.dtype).expand(value.shape)
