"""Directional derivatives of a network along its parameters, for any nn.Module.

A direction v has one tensor per parameter that it moves. The tangent of the logits along v is d/dh f(θ + h v) at h = 0.

    exact               dual numbers (θ, v) through the network, by the rules of `duals`
                        where it cannot be followed by them, by torch's own forward mode: as right, but slower
    finite-difference   (f(θ + h v) − f(θ)) / h, on separate tensors: θ itself is never touched

Nothing is copied but what a pass may change (buffers). The module holds the very same Parameter objects afterwards, under every
name it knows them by. torch.func.functional_call is not used: on modules registered twice it leaves plain tensors behind. Of a network
from torch.compile, the passes here run uncompiled.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from pixeltrust.duals import Tangents, Unfollowed, plain_attention

Direction: TypeAlias = dict[nn.Parameter, Tensor]
TangentRule: TypeAlias = Callable[[nn.Module, Tensor, Direction], tuple[Tensor, Tensor]]


_FOLLOWED: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()  # by the rules of `duals`; absent: not known yet


def exact_tangent(model: nn.Module, images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Logits and their tangent along `direction`, from one pass of dual numbers.

    In grad mode the logits carry their graph back to the parameters; the tangent is always detached.

    Raises:
        ValueError: the network has an operation without forward mode; names it and the way out.
    """
    if not _FOLLOWED.get(model, True):
        return forward_mode_tangent(model, images, direction)
    kept = nullcontext() if model in _FOLLOWED else _restored_after(Unfollowed, model)
    try:
        with _explained(model), _uncompiled(), torch.enable_grad(), kept, Tangents(direction) as tangents:
            logits, tangent = tangents.dual(model(images))
    except Unfollowed:
        _FOLLOWED[model] = False
        return forward_mode_tangent(model, images, direction)
    _FOLLOWED[model] = True
    return logits if torch.is_grad_enabled() else logits.detach(), torch.zeros_like(logits).detach() if tangent is None else tangent


def forward_mode_tangent(model: nn.Module, images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """The same by torch's forward mode, for any network that has it; in grad mode torch records the tangents as well.

    Raises:
        ValueError: as `exact_tangent`.
    """
    with _explained(model), _uncompiled(), forward_mode.dual_level():
        duals = {parameter: forward_mode.make_dual(parameter, tangent) for parameter, tangent in direction.items()}
        with _standing_in(model, "_parameters", duals), plain_attention():
            output = model(images)
        logits, tangent = forward_mode.unpack_dual(output)
    return logits, torch.zeros_like(logits).detach() if tangent is None else tangent.detach()


def finite_difference_tangent(model: nn.Module, images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """The same from two ordinary passes that draw the same random numbers; only the second, at θ, leaves a trace (buffers, graph).

    The step is h = 2 √ε / ‖v‖ of the precision: 7e-4 in float32. There the median error is about .1 % of the largest value;
    pixels whose activations pass a kink (ReLU, max pooling) within h can be several per cent off. On a GPU both passes are of full
    float32, whatever torch may do elsewhere: TF32 makes a difference useless.

    Raises:
        ValueError: some of the pass has less than float32, where a difference is noise.
    """
    norm = float(get_total_norm([tangent.float() for tangent in direction.values()])) if direction else 0.0
    if norm == 0:
        logits = model(images)
        return logits, torch.zeros_like(logits).detach()
    precision = _Precision(direction)
    step = 2 * torch.finfo(precision.coarsest).eps ** 0.5 / norm
    with _full_float32(), _uncompiled():
        with torch.no_grad(), torch.random.fork_rng(_random_devices(images.device)), buffers_kept(model), precision:
            moved = {parameter: torch.add(parameter, tangent, alpha=step) for parameter, tangent in direction.items()}
            with _standing_in(model, "_parameters", moved):
                tangent = model(images)  # before the recorded pass, when memory is free
            del moved
        if torch.finfo(precision.coarsest).eps > torch.finfo(torch.float32).eps:
            raise ValueError(f'gains="finite-difference" is noise in {precision.coarsest}; use gains="exact", or 32-bit precision')
        logits = model(images)
    return logits, tangent.sub_(logits.detach()).div_(step)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """The block works on copies of the buffers (running statistics); the module's own are not touched, and are back after it."""
    with _standing_in(model, "_buffers", {buffer: buffer.clone() for buffer in model.buffers()}):
        yield


@contextmanager
def _standing_in(model: nn.Module, kind: str, substitutes: Mapping[Any, Tensor]) -> Iterator[None]:
    """Every module finds a substitute where it keeps the tensor, under every name, until the block ends. `kind` is its table."""
    places = [
        (table, name, tensor)
        for table in (getattr(module, kind) for module in model.modules())
        for name, tensor in table.items()
        if tensor is not None and tensor in substitutes
    ]
    try:
        for table, name, tensor in places:
            table[name] = substitutes[tensor]
        yield
    finally:
        for table, name, tensor in places:
            table[name] = tensor


@contextmanager
def _restored_after(error: type[Exception], model: nn.Module) -> Iterator[None]:
    """The buffers are as before if the block fails so."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except error:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        raise


@contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    """An operation without forward mode is named, with the way out."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if "forward AD" not in str(error) and "jvp" not in str(error):
            raise
        raise ValueError(
            f'{type(model).__name__} has an operation without forward-mode derivative; use gains="finite-difference" ({error})'
        ) from error


def _uncompiled() -> AbstractContextManager[Any]:
    """What torch.compile has made of networks is left aside: it would compile the rules too, and again for every moved parameter."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 until the block ends."""
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


class _Precision(TorchFunctionMode):
    """While entered, notes the dtype that rounds most, of all that is computed: a network may hand bf16 work out as float32."""

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        self.coarsest = torch.float64
        for parameter in direction:
            self._note(parameter)

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self._note(result)
        return result

    def _note(self, tensor: Tensor) -> None:
        self.coarsest = max(self.coarsest, tensor.dtype, key=lambda dtype: torch.finfo(dtype).eps)


def _random_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
