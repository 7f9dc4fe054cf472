"""Networks by name: MONAI's, or any function of the user's.

A network takes images (B, C, *S) and returns logits (B, K, *S).
"""

import importlib
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from pixeltrust.method.module_state import keep_buffers
from pixeltrust.plumbing.errors import ConfigError

WIDTHS = {
    "unet": (64, 128, 256, 512, 1024, 64),  # the paper's, 31 million parameters
    "unet-small": (16, 32, 64, 128, 256, 16),  # 2 million
    "unet-tiny": (8, 16, 32, 64, 128, 8),  # half a million
}
HALVED_FROM = 16  # pixels a side, at the least: they halve their images four times
GROUPS = 8  # of normalisation, 4 for 8 channels: no batch statistics, in which the noisy and the clean batch would meet


def build_model(name: str, *, channels: int, classes: int, axes: int = 2) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        name: `unet`, `unet-small`, `unet-tiny`, or `package.module:function`: a function that is called with `in_channels` and
            `out_channels` and returns an nn.Module.
        channels: C of the images.
        classes: K of the logits; 1 is binary.
        axes: 2 for pictures, 3 for volumes; a network of the user's knows its own.

    Raises:
        ConfigError: there is no such name, module or function, or it does not return an nn.Module.
    """
    if ":" in name:
        return _users_model(name, channels, classes)
    if name not in WIDTHS:
        near = get_close_matches(name[:100], WIDTHS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"model = {name!r:.100} is not known{hint}; known: {', '.join(WIDTHS)}, or package.module:function")
    from monai.networks.nets import BasicUNet

    norm = ("group", {"num_groups": min(GROUPS, WIDTHS[name][0] // 2)})
    return BasicUNet(spatial_dims=axes, in_channels=channels, out_channels=classes, features=WIDTHS[name], norm=norm)


def _users_model(name: str, channels: int, classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # importing a module may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"model = {name!r} cannot be loaded: {reason}; is its package installed, or on PYTHONPATH?") from error
    if not callable(build):
        raise ConfigError(f"model = {name!r} is of type {type(build).__name__}, not a function")
    try:
        model = build(in_channels=channels, out_channels=classes)
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(
            f"model = {name!r}: calling it with in_channels={channels}, out_channels={classes} failed: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model = {name!r} returned a {type(model).__name__}, not an nn.Module")
    return model


def lay_out(model: nn.Module, axes: int, device: torch.device) -> nn.Module:
    """Lay the parameters of a network on a CPU out with the channels last: a small one takes a quarter less time, for volumes half.

    Not for a network of which gains are asked: forward mode needs the usual layout.
    """
    if device.type != "cpu":
        return model
    layout = torch.channels_last_3d if axes == 3 else torch.channels_last
    laid_out: nn.Module = model.to(memory_format=layout)  # type: ignore[call-overload]
    return laid_out


class InBfloat16(nn.Module):
    """A network in mixed precision: parameters and logits in float32, the pass in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images).float()


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Return the network itself for precision `32`, and in mixed precision for `bf16`."""
    return model if precision == "32" else InBfloat16(model)


def parameters_along(model: nn.Module, along: str) -> list[nn.Parameter] | None:
    """Return the parameters of the named parts of a network, or None (all of them) where no part is named.

    Args:
        along: comma-separated prefixes of their names; the name of a wrapper before them does not matter.

    Raises:
        ConfigError: a prefix fits no parameter; names those that do.
    """
    parts = [part.strip() for part in along.split(",") if part.strip()]
    if not parts:
        return None
    named = {f".{name}": parameter for name, parameter in model.named_parameters()}
    for part in parts:
        if not any(f".{part}" in name for name in named):
            known = ", ".join(dict.fromkeys(name.split(".")[1] for name in named))
            raise ConfigError(f"along = {along!r}: no parameter's name begins with {part!r}; the network's parts: {known}")
    return [parameter for name, parameter in named.items() if any(f".{part}" in name for part in parts)]


def trains_on_one(model: nn.Module, *, channels: int, size: tuple[int, ...]) -> str:
    """Return the error of a network that cannot be trained on a batch of one image; empty where it can.

    Batch normalisation of 1x1 features cannot. Mode, buffers and random numbers are left as before.
    """
    try:
        with keep_buffers(model):
            run_on_zeros(model, (1, channels, *size), training=True)
    except Exception as error:  # a user's network may raise anything
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def try_out(model: nn.Module, *, channels: int, classes: int, size: tuple[int, ...]) -> None:
    """Run one pass over an empty image, so that a network that does not fit is refused before anything is read or written.

    Mode, buffers and random numbers are left as before.

    Raises:
        ConfigError: the network fails, or does not return logits (1, classes, *size).
    """
    attempt = f"the network with images (B, {', '.join(map(str, (channels, *size)))})"
    try:
        logits = run_on_zeros(model, (1, channels, *size), training=False)
    except Exception as error:  # a user's network may raise anything, and memory may be short
        reason = " ".join(str(error).split()) or type(error).__name__
        small = f"; our networks need sides of {HALVED_FROM} or more" if min(size) < HALVED_FROM else ""
        raise ConfigError(f"{attempt} fails: {reason}{small}") from error
    wanted = (1, classes, *size)
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"{attempt} gives {got} for one image where classes = {classes} needs logits {wanted}")


def run_on_zeros(model: nn.Module, shape: tuple[int, ...], *, training: bool) -> Any:
    """Return the output for empty images, without gradient; mode and random numbers are left as before."""
    device, before = next(model.parameters(), torch.empty(0)).device, model.training
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            return model.train(training)(torch.zeros(shape, device=device))
    finally:
        model.train(before)
