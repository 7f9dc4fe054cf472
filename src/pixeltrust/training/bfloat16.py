"""Whether torch can train a network in bfloat16 on this processor.

torch 2.13 gets the weight gradient of a convolution in three axes wrong there where its input has more than one plane and fewer than the
kernel, and says nothing (`docs/lab.md`). So every convolution is tried by itself, once, before the first update.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.plumbing.errors import ConfigError
from pixeltrust.training.methods import coarse_factors
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
    sizes = [config.size]
    if config.method == "mender" and config.coarse_share:
        sizes.append(tuple(side // factor for side, factor in zip(config.size, coarse_factors(config), strict=True)))
    wrong: dict[str, tuple[int, ...]] = {}
    for size in sizes:
        wrong |= wrong_convolutions(model, (1, config.channels + config.planes, *size))
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
    inputs: list[tuple[str, nn.Module, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
        return lambda module, arguments, named, _: inputs.append((name, module, (*arguments, *named.values())[0]))

    hooks = [
        module.register_forward_hook(note(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, _CONVOLUTIONS) and any(parameter.requires_grad for parameter in module.parameters())
    ]
    try:
        run_on_zeros(model, shape, training=False)
    finally:
        for hook in hooks:
            hook.remove()
    alike: dict[tuple[object, ...], bool] = {}
    wrong = {}
    for name, module, images in inputs:
        kind = (_plain(module), module.extra_repr(), images.shape, images.stride())
        if kind not in alike:
            alike[kind] = _is_right(module, images)
        if not alike[kind]:
            wrong[name] = tuple(images.shape[2:])
    return wrong


def _plain(convolution: nn.Module) -> type[nn.Module]:
    """Return torch's own kind of a convolution, which may be of a class made from it."""
    return next(kind for kind in _CONVOLUTIONS if isinstance(convolution, kind))


def _is_right(convolution: Any, images: Tensor) -> bool:
    """Return whether the gradient in bfloat16 is that in float32 but for rounding, for random weights and images like these."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    more = {"output_padding": convolution.output_padding} if convolution.transposed else {}
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):  # of the weights that are replaced at once
        alone = _plain(convolution)(**{name: getattr(convolution, name) for name in names}, **more, bias=False)
    weight = alone.get_parameter("weight")
    layout = torch.channels_last_3d if images.dim() == 5 and images.is_contiguous(memory_format=torch.channels_last_3d) else None
    with torch.no_grad():
        weight.normal_(generator=random)
    if layout is not None:
        alone.to(memory_format=layout)  # type: ignore[call-overload]
    shown = torch.empty_like(images, dtype=torch.float32).normal_(generator=random)

    def gradient(precise: bool) -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            return torch.autograd.grad(alone(shown).float().square().sum(), weight)[0]

    right = gradient(precise=True)
    return bool((gradient(precise=False) - right).norm() <= _ROUNDING * right.norm())  # False of NaN
