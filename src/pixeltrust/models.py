"""Networks by name: MONAI's, or any function of the user's.

A network takes images (B, C, *S) and gives logits (B, K, *S).
"""

import importlib
from difflib import get_close_matches

from torch import nn

from pixeltrust.errors import ConfigError

WIDTHS = {
    "unet": (64, 128, 256, 512, 1024, 64),  # the paper's, 31 million parameters
    "unet-small": (16, 32, 64, 128, 256, 16),  # 2 million
}
NORM = ("group", {"num_groups": 8})  # no batch statistics: the noisy and the clean batch do not meet in it


def build_model(name: str, *, channels: int, classes: int) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: `unet`, `unet-small`, or `package.module:function`, a function that is called with `in_channels` and
            `out_channels` and returns an nn.Module.
        channels: C of the images.
        classes: K of the logits; 1 is binary.

    Raises:
        ConfigError: no such name, module or function, or what it returns is no nn.Module.
    """
    if ":" in name:
        return _users_model(name, channels, classes)
    if name not in WIDTHS:
        near = get_close_matches(name, WIDTHS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"model = {name!r} is not known{hint}; known: {', '.join(WIDTHS)}, or package.module:function")
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=channels, out_channels=classes, features=WIDTHS[name], norm=NORM)


def _users_model(name: str, channels: int, classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"model = {name!r} cannot be loaded: {error}; is its package installed, or on PYTHONPATH?") from error
    if not callable(build):
        raise ConfigError(f"model = {name!r} is of type {type(build).__name__}, not a function")
    model = build(in_channels=channels, out_channels=classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model = {name!r} returned a {type(model).__name__}, not an nn.Module")
    return model
