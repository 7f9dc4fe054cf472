"""The rule for operations without a rule of their own: torch's forward mode for one operation, or else two reverse passes of it."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from pixeltrust.method.forward_mode.rules import CannotTrace, is_dual, values_of
from pixeltrust.method.module_state import random_states, replay_random

_noted: ContextVar[Counter[str] | None] = ContextVar("noted", default=None)


def fallback_rule(function: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Yield the value of a call and its tangent, by torch's forward mode or two reverse passes."""
    values = [leaf for leaf in tree_leaves((values_of(args), values_of(kwargs))) if isinstance(leaf, Tensor)]
    versions = [value._version for value in values]
    random = random_states(values)
    value = function(*values_of(args), **values_of(kwargs))
    if versions != [value._version for value in values]:
        raise CannotTrace(f"{operation_name(function)}, which writes into a tensor")
    yield value
    if (noted := _noted.get()) is not None:
        noted[operation_name(function)] += 1
    with replay_random(random), use_plain_kernels(), hide_saved_tensors():
        tangent = _by_forward_mode(function, args, kwargs)
        if not is_complete(value, tangent):
            tangent = _by_two_reverse_passes(function, args, kwargs)
    yield tangent


def is_complete(value: Any, tangent: Any) -> bool:
    """Return True if every part of a result that has a gradient has a tangent; a missing tangent is unknown, not zero."""
    values, tangents = tree_leaves(value), tree_leaves(tangent)
    if len(tangents) != len(values):
        tangents = [None] * len(values)
    return all(known is not None or not is_computed(part) for part, known in zip(values, tangents, strict=True))


def is_computed(part: Any) -> bool:
    """Return True if part of a result has a gradient with a past; a new leaf, as of zeros_like(x, requires_grad=True), has none."""
    return isinstance(part, Tensor) and part.requires_grad and not part.is_leaf


def operation_name(function: Any) -> str:
    """Return the name of an operation as a person knows it."""
    short = getattr(function, "__name__", str(function))
    name = str(getattr(function, "__qualname__", short))
    return short if "pybind11" in name else name.removeprefix("_VariableFunctionsClass.").removeprefix("TensorBase.")


@contextmanager
def count_fallbacks() -> Iterator[Counter[str]]:
    """Count, by name, the operations of the block that have no rule."""
    counts: Counter[str] = Counter()
    token = _noted.set(counts)
    try:
        yield counts
    finally:
        _noted.reset(token)


@contextmanager
def use_plain_kernels() -> Iterator[None]:
    """Use kernels in the block that can be differentiated twice: the formula of attention, and no recurrent kernels of cuDNN."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    without_cudnn = torch.backends.cudnn.flags(enabled=False) if torch.cuda.is_initialized() else nullcontext()
    try:
        with sdpa_kernel(SDPBackend.MATH), without_cudnn:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def hide_saved_tensors() -> Iterator[None]:
    """Hide the tensors that the block saves from hooks: activation checkpointing counts them."""
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        yield


@cache
def load_forward_mode() -> None:
    """Load what torch loads at the first use of forward mode, without its warning about torch.jit, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script", category=Warning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401


def _by_forward_mode(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the tangent of the result, None where torch has no forward mode for the operation."""
    load_forward_mode()

    def forward_dual(leaf: Any) -> Any:
        return forward_mode.make_dual(leaf.value.detach(), leaf.tangent) if is_dual(leaf) else _copy_constant(leaf)

    try:
        with forward_mode.dual_level():
            result = function(*tree_map(forward_dual, args, is_leaf=is_dual), **tree_map(forward_dual, kwargs, is_leaf=is_dual))
            return tree_map(lambda leaf: forward_mode.unpack_dual(leaf).tangent if isinstance(leaf, Tensor) else None, result)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # NotImplementedError among them
        return None


def _by_two_reverse_passes(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the tangent J ẋ of the result as the derivative of ⟨Jᵀu, ẋ⟩ in u.

    Raises:
        CannotTrace: the backward of the operation cannot be differentiated.
    """
    moved, tangents = [], []

    def leaf_of(leaf: Any) -> Any:
        if not is_dual(leaf):
            return _copy_constant(leaf)
        moved.append(leaf.value.detach().requires_grad_())
        tangents.append(leaf.tangent)
        return moved[-1]

    try:
        with torch.enable_grad():
            result = function(*tree_map(leaf_of, args, is_leaf=is_dual), **tree_map(leaf_of, kwargs, is_leaf=is_dual))
            leaves, shape = tree_flatten(result)
            outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
            found = iter(derivative_along(outputs, moved, tangents))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CannotTrace(
            f"{operation_name(function)}, which has no forward mode and cannot be differentiated twice ({first_line(error)})"
        ) from None
    return tree_unflatten([next(found) if isinstance(leaf, Tensor) and leaf.requires_grad else None for leaf in leaves], shape)


def _copy_constant(leaf: Any) -> Any:
    """Copy a constant for the second call of an operation, which may write into it (running statistics) as the first one did."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def derivative_along(outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
    """Return J ẋ of each output: ⟨Jᵀu, ẋ⟩ is linear in u, and its derivative is J ẋ. The graphs are kept for another backward.

    Raises:
        RuntimeError: a backward on the way cannot be differentiated.
    """
    auxiliary = [torch.zeros_like(output, requires_grad=True) for output in outputs]
    gradients = torch.autograd.grad(outputs, inputs, auxiliary, create_graph=True, allow_unused=True)
    terms = [(gradient * tangent).sum() for gradient, tangent in zip(gradients, tangents, strict=True) if gradient is not None]
    if not terms or not any(term.requires_grad for term in terms):
        raise RuntimeError("its backward leaves no graph")
    derivatives = torch.autograd.grad(torch.stack([term.to(terms[0].dtype) for term in terms]).sum(), auxiliary, allow_unused=True)
    if any(derivative is None for derivative in derivatives):
        raise RuntimeError("its backward leaves no graph")
    return list(derivatives)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().split("\n")[0] or type(error).__name__
