"""What a pass through a network may change, kept or put back: buffers, the tensors that modules hold, random generators.

Nothing is copied but what a pass may change. A module holds the very same Parameter objects afterwards, under every name it knows them by;
torch.func.functional_call is not used, for on modules registered twice it leaves plain tensors behind.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

RandomStates: TypeAlias = dict[torch.device, Tensor]


@contextmanager
def keep_buffers(model: nn.Module) -> Iterator[None]:
    """Let the block work on copies of the buffers (running statistics); the module's own are not touched, and are back after it."""
    saved = _buffer_tables(model)
    copies: dict[int, Tensor] = {}  # one for a buffer of several names
    try:
        for table, buffers in saved:
            for name, buffer in buffers.items():
                if buffer is not None:
                    table[name] = copies.setdefault(id(buffer), buffer.clone())
        yield
    finally:
        _restore_buffers(saved)


@contextmanager
def substitute_tensors(model: nn.Module, kind: str, substitutes: Mapping[Any, Tensor]) -> Iterator[None]:
    """Let every module find a substitute where it keeps the tensor, under every name, until the block ends. `kind` is its table."""
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
def restore_on_failure(model: nn.Module) -> Iterator[None]:
    """Put buffers and random generators back if the block fails, so that a second try changes and draws what the first would have."""
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
                if not torch.equal(buffer, value):  # one that is an expanded view can be written to by nobody
                    buffer.copy_(value)
        raise


@contextmanager
def replay_random(states: RandomStates) -> Iterator[None]:
    """Let the block draw the random numbers that were drawn from these states on, and leave the generators as they are now."""
    with torch.random.fork_rng([device for device in states if device.type == "cuda"]):
        _set_random_states(states)
        yield


def random_states(tensors: Iterable[Tensor]) -> RandomStates:
    """Return the states of the processor's generator and of those of the cards that these tensors are on."""
    cards = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return {torch.device("cpu"): torch.get_rng_state(), **{card: torch.cuda.get_rng_state(card) for card in cards}}


def _buffer_tables(model: nn.Module) -> list[tuple[Any, dict[str, Tensor | None]]]:
    """Every module's table of buffers, and what is in it."""
    return [(module._buffers, dict(module._buffers.items())) for module in model.modules()]


def _restore_buffers(saved: list[tuple[Any, dict[str, Tensor | None]]]) -> None:
    for table, buffers in saved:
        for name in [name for name in table.keys() if name not in buffers]:  # noqa: SIM118 (a scripted module's table is no dict)
            del table[name]
        for name, buffer in buffers.items():
            if table[name] is not buffer:
                table[name] = buffer


def _set_random_states(states: RandomStates) -> None:
    for device, state in states.items():
        torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)
