"""Any operation without a rule of its own: torch's forward mode for it alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from pixeltrust.duals.rules import Dual, Unfollowed, is_dual, values_of


def any_other(function: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    values = [leaf for leaf in tree_leaves((values_of(args), values_of(kwargs))) if isinstance(leaf, Tensor)]
    versions = [value._version for value in values]
    random = _random_states(values)
    value = function(*values_of(args), **values_of(kwargs))
    if versions != [value._version for value in values]:
        raise Unfollowed(f"{getattr(function, '__name__', function)}, which writes into a tensor")
    yield value
    with _random_from(random), forward_mode.dual_level(), plain_attention():
        result = function(*_forward_duals(args), **_forward_duals(kwargs))
        yield tree_map(lambda leaf: forward_mode.unpack_dual(leaf).tangent if isinstance(leaf, Tensor) else None, result)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by its formula, until the block ends: the fused kernels have no forward mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _forward_duals(values: Any) -> Any:
    def forward_dual(leaf: Any) -> Any:
        return forward_mode.make_dual(leaf.value.detach(), leaf.tangent) if isinstance(leaf, Dual) else leaf

    return tree_map(forward_dual, values, is_leaf=is_dual)


def _random_states(values: list[Tensor]) -> list[tuple[torch.device, Tensor]]:
    devices = {value.device for value in values if value.device.type == "cuda"}
    return [(torch.device("cpu"), torch.get_rng_state()), *((device, torch.cuda.get_rng_state(device)) for device in devices)]


@contextmanager
def _random_from(states: list[tuple[torch.device, Tensor]]) -> Iterator[None]:
    """The block draws the random numbers that were drawn from these states on, and leaves the generators as they are now."""
    with torch.random.fork_rng([device for device, _ in states if device.type == "cuda"]):
        for device, state in states:
            torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)
        yield
