"""Whether torch can train a network in bfloat16 on this processor.

torch 2.13 gets the weight gradient of a convolution in three axes wrong there where the depth of its input is smaller than the kernel, and
says nothing (`docs/lab.md`). So every convolution is tried by itself, once, before the first update.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.plumbing.errors import ConfigError
from pixeltrust.training.models import run_on_zeros

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ROUNDING = 0.1  # of the gradient; bfloat16 rounds to 0.003 of it


def refuse_wrong_gradients(model: nn.Module, config: Config, device: torch.device) -> None:
    """Raise where a network would be trained in bfloat16 on a CPU by gradients that are wrong.

    Raises:
        ConfigError: names a convolution whose gradient is wrong, and the size of its input.
    """
    if config.precision == "32" or device.type != "cpu":
        return
    wrong = wrong_convolutions(model, (1, config.channels + config.planes, *config.size))
    if wrong:
        name, size = next(iter(wrong.items()))
        raise ConfigError(
            f"precision = 'bf16': here torch gets the gradient of {len(wrong)} of the network's convolutions wrong (such as {name}, whose "
            f"input has the size {'x'.join(map(str, size))}); use precision = '32', or another image_size"
        )


def wrong_convolutions(model: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the convolutions whose weight gradient in bfloat16 is wrong on the CPU, with the sizes *S of their inputs.

    Mode, buffers and random numbers are left as before.

    Args:
        shape: (B, C, *S) of the network's images.
    """
    inputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, arguments, __: inputs.update({name: arguments[0]})

    found = {name: module for name, module in model.named_modules() if isinstance(module, _CONVOLUTIONS)}
    hooks = [module.register_forward_hook(note(name)) for name, module in found.items()]
    try:
        run_on_zeros(model, shape, training=False)
    finally:
        for hook in hooks:
            hook.remove()
    alike: dict[tuple[object, ...], bool] = {}
    for name, images in inputs.items():
        kind = (found[name].extra_repr(), images.shape)
        if kind not in alike:
            alike[kind] = _is_right(found[name], images)
    return {name: tuple(images.shape[2:]) for name, images in inputs.items() if not alike[found[name].extra_repr(), images.shape]}


def _is_right(convolution: nn.Module, images: Tensor) -> bool:
    """Return whether the gradient in bfloat16 is that in float32 but for rounding, for random images like these."""
    alone, random = deepcopy(convolution), torch.Generator().manual_seed(0)
    shown = torch.empty_like(images).normal_(generator=random)

    def gradient(precise: bool) -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            return torch.autograd.grad(alone(shown).float().square().sum(), alone.get_parameter("weight"))[0]

    right = gradient(precise=True)
    return bool((gradient(precise=False) - right).norm() <= _ROUNDING * right.norm())  # False of NaN
