"""Directional derivatives of a network along its parameters, for any nn.Module.

A direction v has one tensor per parameter that it moves. The tangent of the logits along v is d/dh f(θ + h v) at h = 0.

    exact               dual numbers (θ, v) through the network, torch's forward mode
    finite-difference   (f(θ + h v) − f(θ)) / h, on separate tensors: θ itself is never touched

Nothing is copied but what a pass may change (buffers). The module holds the very same Parameter objects afterwards, under every
name it knows them by. torch.func.functional_call is not used: on modules registered twice it leaves plain tensors behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn

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
            with _standing_in(model, duals):
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
    """The same from two ordinary passes; the second leaves no trace (buffers, random numbers, graph).

    The step is h = 2 √ε / ‖v‖ of the logits' precision: 7e-4 in float32, where it agrees with the exact tangent to about .1 %.

    Raises:
        ValueError: the logits have less than float32, where a difference is noise.
    """
    random_state = _random_state(images.device)
    logits = model(images)
    if torch.finfo(logits.dtype).eps > torch.finfo(torch.float32).eps:
        raise ValueError(f'gains="finite-difference" is noise in {logits.dtype}; use gains="exact", or 32-bit precision')
    norm = direction_norm(direction)
    if norm == 0:
        return logits, torch.zeros_like(logits).detach()
    step = 2 * torch.finfo(logits.dtype).eps ** 0.5 / norm
    with torch.no_grad(), buffers_kept(model), torch.random.fork_rng(_random_devices(images.device)):
        _set_random_state(images.device, random_state)
        moved = {parameter: parameter + step * tangent for parameter, tangent in direction.items()}
        with _standing_in(model, moved):
            tangent = (model(images) - logits) / step
    return logits, tangent.detach()


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Whatever the block does to buffers (running statistics) is undone, in place."""
    kept = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept.items():
                buffer.copy_(value)


@contextmanager
def _standing_in(model: nn.Module, substitutes: dict[nn.Parameter, Tensor]) -> Iterator[None]:
    """Every module finds a substitute where it keeps the parameter, under every name, until the block ends."""
    places = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter in substitutes
    ]
    try:
        for parameters, name, parameter in places:
            parameters[name] = substitutes[parameter]  # type: ignore[assignment]
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter


def _random_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
