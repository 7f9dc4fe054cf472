"""Directional derivatives of a network along its parameters, for any nn.Module.

A direction v has one tensor per parameter that it moves. The tangent of the logits along v is d/dh f(θ + h v) at h = 0, by what the
network's own backward takes for derivatives. There are three exact ways, and an approximation:

    rules                dual numbers (θ, v) through the network, operation by operation, by the rules of `forward_mode`
    forward mode         torch's own forward mode through the network as a whole, where the rules cannot trace it
    two reverse passes   Jᵀu by a backward that is recorded, then the derivative of ⟨Jᵀu, v⟩ in u, which is J v: slower, and it needs only
                         that the backward can be differentiated
    finite-difference    (f(θ + h v) − f(θ)) / h, on separate tensors: θ itself is never touched

`exact_tangent` takes the first that works. A way must also give correct values: ⟨u, J v⟩ = ⟨Jᵀu, v⟩ for every u, so a few backward passes
with random u show whether a tangent is correct. They are made at the passes 1, 2, 4, 8 … of a network. A wrong tangent is never used.

Networks from torch.compile run uncompiled here.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pixeltrust.method.forward_mode.fallback import (
    derivative_along,
    first_line,
    is_complete,
    load_forward_mode,
    operation_name,
    use_plain_kernels,
)
from pixeltrust.method.forward_mode.rules import CannotTrace
from pixeltrust.method.forward_mode.tracing import Tangents
from pixeltrust.method.module_state import keep_buffers, random_states, replay_random, restore_on_failure, substitute_parameters
from pixeltrust.plumbing.errors import GainsWarning

Direction: TypeAlias = dict[nn.Parameter, Tensor]
Pick: TypeAlias = Callable[[Any], Tensor]
"""A function that picks the logits (B, K, *S) from what a network returns."""
TangentRule: TypeAlias = Callable[[nn.Module, Tensor, Direction, Pick], tuple[Tensor, Tensor]]


class NotLogits(TypeError):
    """The network does not return a tensor."""


def require_logits(answer: Any) -> Tensor:
    """Return the output of a network that returns only its logits.

    Raises:
        NotLogits: it is not a tensor; says what is in it, and what to do.
    """
    if isinstance(answer, Tensor):
        return answer
    kind = f"a dict of {', '.join(map(repr, answer))}" if isinstance(answer, dict) else f"a {type(answer).__name__}"
    example = f"answer[{next(iter(answer))!r}]" if isinstance(answer, dict) and answer else "answer[0]"
    raise NotLogits(
        f"the network returns {kind}, not a tensor: pick its logits, logits=lambda answer: {example}; or, in a step with deep supervision, "
        "those of all heads, the finest first, logits=list"
    )


# --- the ways --------------------------------------------------------------------------------------------------------


def rules_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick = require_logits) -> tuple[Tensor, Tensor]:
    """Return the logits with their graph and their tangent without one, by the rules of `forward_mode`.

    Raises:
        CannotTrace: the rules cannot trace an operation.
    """
    with Tangents(direction) as tangents:
        logits, tangent = tangents.dual(pick(model(images)))
    return logits, _zeros_if_none(tangent, logits)


def forward_mode_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick = require_logits) -> tuple[Tensor, Tensor]:
    """Return the same by torch's forward mode, which in grad mode records the tangents too.

    Raises:
        CannotTrace: an operation gave no tangent.
        RuntimeError: an operation has no forward mode.
    """
    load_forward_mode()
    with forward_mode.dual_level(), use_plain_kernels():
        duals = {parameter: forward_mode.make_dual(parameter, tangent) for parameter, tangent in direction.items()}
        with substitute_parameters(model, duals), _ForwardMode(duals):
            logits = pick(model(images))
        logits, tangent = forward_mode.unpack_dual(logits)
    return logits, _zeros_if_none(tangent, logits).detach()


def reverse_mode_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick = require_logits) -> tuple[Tensor, Tensor]:
    """Return the same as the derivative of ⟨Jᵀu, v⟩ in u.

    Raises:
        CannotTrace: the backward of an operation cannot be differentiated.
    """
    with use_plain_kernels():
        logits = pick(model(images))
        if not direction or not logits.requires_grad:
            return logits, torch.zeros_like(logits).detach()
        try:
            (tangent,) = derivative_along([logits], list(direction), list(direction.values()))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CannotTrace(first_line(error)) from None
    return logits, tangent.detach()


@dataclass(frozen=True)
class Way:
    """A way to the exact tangent."""

    name: str
    tangent: TangentRule
    words: str


RULES = Way("rules", rules_tangent, "by rules for each operation")
FORWARD_MODE = Way(
    "forward mode", forward_mode_tangent, "by torch's forward mode of the whole network, which takes more time and memory than rules"
)
REVERSE_MODE = Way("two reverse passes", reverse_mode_tangent, "by two reverse passes of the whole network, the slowest way")
WAYS = (RULES, FORWARD_MODE, REVERSE_MODE)


@dataclass(frozen=True)
class Choice:
    """The way that works for a network, and the reasons why those before it do not."""

    way: Way
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"exact gains {self.way.words}" + "".join(f"; not by {reason}" for reason in self.passed_over)


@dataclass
class Record:
    """A way that works, with the passes and parameters that it was tested for."""

    choice: Choice
    passes: int = 0
    parameters: set[int] = field(default_factory=set)
    """The ids of the parameters along which it was tested."""
    picks: set[Any] = field(default_factory=set)
    """The code that picked the logits."""

    def is_test_due(self, direction: Direction, pick: Pick) -> bool:
        """Count a pass, and return True if it is to be tested: the 1st, 2nd, 4th, 8th …, and one with new parameters or another pick.

        A gate that opens in training, or a head that is no longer zero, can show what the first pass did not.
        """
        self.passes += 1
        new = not {id(parameter) for parameter in direction} <= self.parameters or _code_of(pick) not in self.picks
        self.parameters |= {id(parameter) for parameter in direction}
        self.picks.add(_code_of(pick))
        return new or self.passes & (self.passes - 1) == 0


def _code_of(pick: Pick) -> Any:
    own = inspect.unwrap(pick)
    return getattr(own, "__code__", own)


_RECORDS: "WeakKeyDictionary[nn.Module, dict[bool, Record]]" = WeakKeyDictionary()  # by training mode
_WARNED: "WeakSet[nn.Module]" = WeakSet()


def get_choice(model: nn.Module) -> Choice | None:
    """Return the way that `exact_tangent` takes for a network in its present mode; None before its first pass."""
    record = _RECORDS.get(model, {}).get(model.training)
    return record.choice if record else None


def exact_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick = require_logits) -> tuple[Tensor, Tensor]:
    """Return the logits and their tangent along `direction`, by the first way that works for this network.

    In grad mode the logits carry their graph back to the parameters; the tangent is always detached.

    Raises:
        ValueError: no exact way works; names the reason for each.

    Warns:
        GainsWarning: once for a network that the rules cannot trace, with the reason.
    """
    with _run_uncompiled(), torch.enable_grad():
        logits, tangent = _use_record(model, images, direction, pick) or _choose_way(model, images, direction, pick)
    return logits if torch.is_grad_enabled() else logits.detach(), tangent


def _use_record(model: nn.Module, images: Tensor, direction: Direction, pick: Pick) -> tuple[Tensor, Tensor] | None:
    """Return logits and tangent by the way that is known to work; None if there is none yet, or it has stopped working."""
    record = _RECORDS.get(model, {}).get(model.training)
    if record is None:
        return None
    try:
        if record.is_test_due(direction, pick):
            return _try_way(record.choice.way, model, images, direction, pick)[:2]
        with restore_on_failure(model):
            return record.choice.way.tangent(model, images, direction, pick)
    except (torch.OutOfMemoryError, NotLogits):
        raise
    except Exception:  # another branch of the network than before; the network's own errors will show again
        del _RECORDS[model][model.training]
        return None


def _choose_way(model: nn.Module, images: Tensor, direction: Direction, pick: Pick) -> tuple[Tensor, Tensor]:
    """Return logits and tangent by the first way that works; failed ways leave buffers and random generators as they were."""
    passed_over: list[str] = []
    for way in WAYS:
        try:
            logits, tangent, error = _try_way(way, model, images, direction, pick)
        except (torch.OutOfMemoryError, NotLogits):
            raise
        except Exception as failure:
            if way is REVERSE_MODE and not isinstance(failure, CannotTrace):
                raise  # an ordinary pass fails: the network's own error
            passed_over.append(f"{way.name}: {first_line(failure)}")
        else:
            if error is not None:
                record = Record(Choice(way, tuple(passed_over)))
                record.is_test_due(direction, pick)
                _RECORDS.setdefault(model, {})[model.training] = record
                if passed_over and model not in _WARNED:
                    _WARNED.add(model)
                    warnings.warn(f"{type(model).__name__}: {record.choice}", GainsWarning, stacklevel=2)
            return logits, tangent
    raise ValueError(
        f"{type(model).__name__} has no exact gains; not by "
        + "; not by ".join(passed_over)
        + '. gains="finite-difference" may serve: it is compared with the backward too'
    )


def _try_way(way: Way, model: nn.Module, images: Tensor, direction: Direction, pick: Pick) -> tuple[Tensor, Tensor, float | None]:
    """Return logits, tangent and its error (see `tangent_error`), which rounding explains.

    Raises:
        CannotTrace: the error is larger. Whatever is raised, buffers and random generators are as before.
    """
    with restore_on_failure(model):
        with Precision(direction, recorded=True) as precision:
            logits, tangent = way.tangent(model, images, direction, pick)
        error = tangent_error(model, logits, tangent, direction)
        if error is not None and not error <= precision.tolerance(images.device):
            raise CannotTrace(f"it is {error:.2g} off from the network's backward{_name_foreign_operations(logits)}")
    return logits, tangent, error


def _name_foreign_operations(logits: Tensor) -> str:
    """Name the operations in a graph that are not torch's own: they are the likely cause."""
    seen, left, names = set(), [logits.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [parent for parent, _ in node.next_functions]
        if isinstance(node, torch.autograd.function.BackwardCFunction) or "CppNode" in node.name():
            names.add(node.name().removesuffix("Backward"))
    return f", which has operations of others: {', '.join(sorted(names))}" if names else ""


# --- tests of a tangent ----------------------------------------------------------------------------------------

DRAWS = 3
"""Number of backward passes with random u in a test: an error of 10 % stays hidden in one of 10,000 networks."""
DIFFERENCE_DRAWS = 8
DIFFERENCE_TOLERANCE = 0.2
"""Allowed error of a finite difference: kinks make some pixels wrong, a straight-through estimator half of them."""


def tangent_error(model: nn.Module, logits: Tensor, tangent: Tensor, direction: Direction, *, draws: int = DRAWS) -> float | None:
    """Return the error of a tangent against the network's backward, relative to its norm.

    It is the root mean square of ⟨u, J v⟩ − ⟨Jᵀu, v⟩ over random u. None where this shows nothing: v is 0, or the logits are not
    finite. Buffers and random generators are left as they are.

    Args:
        logits: with their graph, which is kept.
    """
    if not any(v.count_nonzero() for v in direction.values()) or not logits.requires_grad or not logits.isfinite().all():
        return None
    random = torch.Generator().manual_seed(0)
    tangent = _in_float64(tangent)
    squares, scale = 0.0, float(tangent.norm())
    with keep_buffers(model):  # activation checkpointing computes parts of the network again
        for _ in range(draws):
            u = torch.randn(logits.shape, generator=random, dtype=torch.float64).to(logits.dtype).to(logits.device)
            backward = backward_along(logits, direction, u)
            squares += (float((_in_float64(u) * tangent).sum()) - backward) ** 2
            scale = max(scale, abs(backward) / 3)
    error = (squares / draws) ** 0.5
    return 0.0 if error == 0 else error / max(scale, 1e-300)


def backward_along(output: Tensor, direction: Direction, u: Tensor | None = None) -> float:
    """Return ⟨Jᵀu, v⟩ by one backward of an output, whose graph is kept; u is left out for a scalar."""
    gradients = torch.autograd.grad(output, list(direction), u, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, direction.values(), strict=True)
    return sum(float((_in_float64(gradient) * _in_float64(v)).sum()) for gradient, v in pairs if gradient is not None)


def _in_float64(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()  # mps does not have float64


class Precision(TorchFunctionMode):
    """A mode that finds the coarsest dtype of a computation: a network may return float32 after work in bf16.

    Args:
        recorded: look only at results that have a gradient, in a pass that is recorded.
    """

    def __init__(self, direction: Direction, *, recorded: bool = False) -> None:
        super().__init__()
        self.coarsest, self._recorded = torch.float64, recorded
        for parameter in direction:
            self._note(parameter)

    def tolerance(self, device: torch.device) -> float:
        """Return the largest error that rounding alone may give a correct tangent."""
        if self.coarsest == torch.float32 and device.type == "cuda":  # it may be TF32
            return 1e-2
        return {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2}.get(self.coarsest, 0.2)

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and (result.requires_grad or not self._recorded):
            self._note(result)
        return result

    def _note(self, tensor: Tensor) -> None:
        self.coarsest = max(self.coarsest, tensor.dtype, key=lambda dtype: torch.finfo(dtype).eps)


class _Moved(TorchFunctionMode):
    """A mode in which parameters that the network uses past its modules' tables are moved too."""

    def __init__(self, moved: dict[nn.Parameter, Tensor]) -> None:
        super().__init__()
        self._moved = moved

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        args, kwargs = tree_map(lambda leaf: self._moved.get(leaf, leaf) if isinstance(leaf, nn.Parameter) else leaf, (args, kwargs or {}))
        return self.call(function, args, kwargs)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of a function of the network."""
        return function(*args, **kwargs)


class _ForwardMode(_Moved):
    """A mode in which torch's forward mode sees what the backward sees.

    Parameters that the network uses past its modules' tables have their tangents too, what is computed without gradient has none, and a
    result that has a gradient and no tangent raises `CannotTrace`.
    """

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return _without_tangents(function, args, kwargs)
        result = function(*args, **kwargs)
        is_moved = any(_tangent_of(leaf) is not None for leaf in tree_leaves((args, kwargs)))
        if is_moved and not is_complete(result, tree_map(_tangent_of, result)):
            raise CannotTrace(f"{operation_name(function)}, whose result has no tangent")
        return result


def _without_tangents(function: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of a call without tangents; a tensor that it writes into and returns is the very tensor that was given."""
    given: dict[int, Tensor] = {}

    def value_of(leaf: Any) -> Any:
        if _tangent_of(leaf) is None:
            return leaf
        value = forward_mode.unpack_dual(leaf).primal
        given[id(value)] = leaf
        return value

    values = tree_map(value_of, (args, kwargs))
    result = function(*values[0], **values[1])
    return tree_map(lambda leaf: given.get(id(leaf), leaf), result)


def _tangent_of(leaf: Any) -> Tensor | None:
    return forward_mode.unpack_dual(leaf).tangent if isinstance(leaf, Tensor) else None


def _zeros_if_none(tangent: Tensor | None, logits: Tensor) -> Tensor:
    """Return zeros where the direction does not reach the logits."""
    return torch.zeros_like(logits).detach() if tangent is None else tangent


# --- finite differences ------------------------------------------------------------------------------------------------

_DIFFERENCES: "WeakKeyDictionary[nn.Module, Record]" = WeakKeyDictionary()
_DIFFERENCE = Choice(Way("finite-difference", lambda *_: NotImplemented, "by a finite difference"))


def finite_difference_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick = require_logits) -> tuple[Tensor, Tensor]:
    """Return the same from two ordinary passes with the same random numbers; only the second, at θ, changes buffers and has a graph.

    The step is h = 2 √ε / ‖v‖ of the precision: 7e-4 in float32. There the median error is about .1 % of the largest value;
    pixels whose activations pass a kink (ReLU, max pooling) within h can be several per cent off. On a GPU both passes are in full
    float32, whatever the settings of torch: TF32 makes a difference useless.

    Raises:
        ValueError: part of the pass is less precise than float32, where a difference is noise; or the difference does not agree with the
            network's backward (straight-through estimators, fake quantisation).
    """
    norm = float(get_total_norm([tangent.float() for tangent in direction.values()])) if direction else 0.0
    if norm == 0:
        logits = pick(model(images))
        return logits, torch.zeros_like(logits).detach()
    is_tested = _DIFFERENCES.setdefault(model, Record(_DIFFERENCE)).is_test_due(direction, pick)
    precision = Precision(direction)
    step = 2 * torch.finfo(precision.coarsest).eps ** 0.5 / norm
    with _use_full_float32(), _run_uncompiled():
        with torch.no_grad(), replay_random(random_states([images])), keep_buffers(model), precision:
            moved = {parameter: torch.add(parameter, tangent, alpha=step) for parameter, tangent in direction.items()}
            with substitute_parameters(model, moved), _Moved(moved):
                tangent = pick(model(images))  # before the recorded pass, when memory is free
            del moved
        if torch.finfo(precision.coarsest).eps > torch.finfo(torch.float32).eps:
            raise ValueError(f'gains="finite-difference" is noise in {precision.coarsest}; use gains="exact", or 32-bit precision')
        with torch.enable_grad() if is_tested else nullcontext():
            logits = pick(model(images))
        tangent = tangent.sub_(logits.detach()).div_(step)
        if is_tested:
            error = tangent_error(model, logits, tangent, direction, draws=DIFFERENCE_DRAWS)
            if error is not None and not error <= DIFFERENCE_TOLERANCE:
                del _DIFFERENCES[model]
                raise ValueError(
                    f'gains="finite-difference" are {error:.0%} off from the backward of {type(model).__name__}: the backward of some '
                    'operation is not its derivative (a straight-through estimator, quantisation), or a kink is near; use gains="exact"'
                )
    return logits if torch.is_grad_enabled() else logits.detach(), tangent


def _run_uncompiled() -> AbstractContextManager[Any]:
    """Run networks from torch.compile as they were: it would compile the rules too, and again for every moved parameter."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _use_full_float32() -> Iterator[None]:
    """Switch TF32 off in the block."""
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
