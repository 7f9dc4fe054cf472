"""State that a pass through a network changes, protected or restored: buffers, the modules' tensors, random generators.

Only what a pass may change is copied. Afterwards a module holds the very same Parameter objects, under each of their names;
torch.func.functional_call is not used, because it leaves plain tensors in modules that are registered twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

RandomStates: TypeAlias = dict[torch.device, Tensor]


@contextmanager
def keep_buffers(model: nn.Module) -> Iterator[None]:
    """Run the block with copies of the buffers (running statistics); the module's own stay as they are, and are back after it."""
    saved = _buffer_tables(model)
    copies: dict[int, Tensor] = {}  # one for a buffer with several names
    try:
        for table, buffers in saved:
            for name, buffer in buffers.items():
                if buffer is not None:
                    table[name] = copies.setdefault(id(buffer), buffer.clone())
        yield
    finally:
        _restore_buffers(saved)


@contextmanager
def substitute_parameters(model: nn.Module, substitutes: Mapping[Any, Tensor]) -> Iterator[None]:
    """Run the block with other tensors in place of the modules' parameters, under each of their names."""
    tables = [module._parameters for module in model.modules()]
    places = [(table, name, p) for table in tables for name, p in table.items() if p is not None and p in substitutes]
    try:
        for table, name, parameter in places:
            table[name] = substitutes[parameter]  # type: ignore[assignment]
        yield
    finally:
        for table, name, parameter in places:
            table[name] = parameter


@contextmanager
def restore_on_failure(model: nn.Module) -> Iterator[None]:
    """Restore buffers and random generators if the block fails, so that a second try changes and draws the same."""
    saved = _buffer_tables(model)
    values = [(buffer, buffer.clone()) for _, buffers in saved for buffer in buffers.values() if buffer is not None]
    states = random_states([*model.parameters(), *model.buffers()])
    try:
        yield
    except BaseException:
        _set_random_states(states)
        _restore_buffers(saved)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):  # nothing can write to an expanded view
                    buffer.copy_(value)
        raise


@contextmanager
def replay_random(states: RandomStates) -> Iterator[None]:
    """Run the block with the random numbers that follow these states; afterwards the generators are as they are now."""
    with torch.random.fork_rng([device for device in states if device.type == "cuda"]):
        _set_random_states(states)
        yield


def random_states(tensors: Iterable[Tensor]) -> RandomStates:
    """Return the states of the CPU's random generator and of the generators of the GPUs that these tensors are on."""
    cards = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return {torch.device("cpu"): torch.get_rng_state(), **{card: torch.cuda.get_rng_state(card) for card in cards}}


def _buffer_tables(model: nn.Module) -> list[tuple[Any, dict[str, Tensor | None]]]:
    """Return every module's table of buffers with a copy of the table."""
    return [(module._buffers, dict(module._buffers.items())) for module in model.modules()]


def _restore_buffers(saved: list[tuple[Any, dict[str, Tensor | None]]]) -> None:
    for table, buffers in saved:
        for name in [name for name in table.keys() if name not in buffers]:  # noqa: SIM118 (a scripted module's table is not a dict)
            del table[name]
        for name, buffer in buffers.items():
            if table[name] is not buffer:
                table[name] = buffer


def _set_random_states(states: RandomStates) -> None:
    for device, state in states.items():
        torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)
