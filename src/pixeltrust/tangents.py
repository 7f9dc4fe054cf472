"""Directional derivatives of a network along its parameters, for any nn.Module.

A direction v has one tensor per parameter that it moves. The tangent of the logits along v is d/dh f(θ + h v) at h = 0.

    exact               dual numbers (θ, v) through the network, torch's forward mode
    finite-difference   (f(θ + h v) − f(θ)) / h, on separate tensors: θ itself is never touched

Nothing is copied but what a pass may change (buffers). The module holds the very same Parameter objects afterwards, under every
name it knows them by. torch.func.functional_call is not used: on modules registered twice it leaves plain tensors behind.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Direction: TypeAlias = dict[nn.Parameter, Tensor]
TangentRule: TypeAlias = Callable[[nn.Module, Tensor, Direction], tuple[Tensor, Tensor]]


def direction_norm(direction: Direction) -> float:
    """‖v‖, accumulated in float32 or better."""
    return float(torch.stack([v.float().norm() for v in direction.values()]).norm()) if direction else 0.0


def exact_tangent(model: nn.Module, images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Logits and their tangent along `direction`, from one pass of dual numbers.

    In grad mode the logits carry their graph back to the parameters; the tangent is always detached.

    Raises:
        ValueError: the network has an operation without forward mode; names it and the way out.
    """
    with forward_mode.dual_level():
        duals = {parameter: forward_mode.make_dual(parameter, tangent) for parameter, tangent in direction.items()}
        try:
            with _standing_in(model, "_parameters", duals), _plain_attention():
                output = model(images)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "jvp" not in str(error):
                raise
            raise ValueError(
                f'{type(model).__name__} has an operation without forward-mode derivative; use gains="finite-difference" ({error})'
            ) from error
        logits, tangent = forward_mode.unpack_dual(output)
    return logits, torch.zeros_like(logits).detach() if tangent is None else tangent.detach()


def finite_difference_tangent(model: nn.Module, images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """The same from two ordinary passes that draw the same random numbers; only the first leaves a trace (buffers, graph).

    The step is h = 2 √ε / ‖v‖ of the pass's precision: 7e-4 in float32. There the median error is about .1 % of the largest
    value; pixels whose activations pass a kink (ReLU, max pooling) within h can be several per cent off.

    Raises:
        ValueError: some of the pass has less than float32, where a difference is noise.
    """
    norm = direction_norm(direction)
    with torch.random.fork_rng(_random_devices(images.device), enabled=norm > 0):
        logits = model(images)
    dtype = _coarsest_dtype(logits, direction)
    if torch.finfo(dtype).eps > torch.finfo(torch.float32).eps:
        raise ValueError(f'gains="finite-difference" is noise in {dtype}; use gains="exact", or 32-bit precision')
    if norm == 0:
        return logits, torch.zeros_like(logits).detach()
    step = 2 * torch.finfo(dtype).eps ** 0.5 / norm
    with torch.no_grad(), buffers_kept(model):
        moved = {parameter: parameter + step * tangent for parameter, tangent in direction.items()}
        with _standing_in(model, "_parameters", moved):
            tangent = (model(images) - logits) / step
    return logits, tangent.detach()


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
def _plain_attention() -> Iterator[None]:
    """Attention by its formula, until the block ends: the fused kernels have no forward mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _coarsest_dtype(logits: Tensor, direction: Direction) -> torch.dtype:
    """Of the logits, the parameters and autocast, the dtype that rounds most: a network may hand bf16 work out as float32."""
    dtypes = {logits.dtype, *(parameter.dtype for parameter in direction)}
    if torch.is_autocast_enabled(logits.device.type):
        dtypes.add(torch.get_autocast_dtype(logits.device.type))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _random_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
