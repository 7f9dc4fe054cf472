"""Max pooling: the tangent goes where the maximum was."""

from collections.abc import Iterator
from typing import Any

from torch.nn import functional as F

from pixeltrust.method.forward_mode.rules import Rules

_AXES = {F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3}  # torch's own, unlike these, cannot give the indices


def _max_pool(function: Any, x: Any, *args: Any, return_indices: bool = False, **kwargs: Any) -> Iterator[Any]:
    value, indices = function(x.value, *args, return_indices=True, **kwargs)
    yield (value, indices) if return_indices else value
    axes = _AXES[function]
    tangent = x.tangent.flatten(-axes).gather(-1, indices.flatten(-axes)).view(value.shape)
    yield (tangent, None) if return_indices else tangent


RULES = Rules(dict.fromkeys(_AXES, _max_pool))
