"""The settings of menders: those of a training, with other defaults."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixeltrust.config import Config, as_config, batch_of_patches, patch_of, read_config, to_values
from pixeltrust.plumbing.errors import ConfigError

DEFAULTS: Mapping[str, Any] = {
    "method": "mender",
    "model": "unet-tiny",
    "epochs": 6,
    "updates_per_epoch": 100,
    "coarse_share": 0.75,
    "learning_rate": 3e-3,
    "colour_jitter": 0.5,
    "grey_share": 0.2,
    "weight_map_cases": 0,
}
"""The defaults of menders where they differ from those of `Config`; of volumes, the batches go by the size of their patches."""
EPOCHS_OF_VOLUMES = 10
EPOCHS_PER_CASE = 0.4  # of pictures: by default so many epochs for every clean case, up to those of `DEFAULTS`

_OF_DATA = ("classes", "ignore_label", "channels", "device")  # and of the machine

LONGER = 3  # times as long are stronger menders trained
LEAST_BROUGHT = 0.05  # of Dice: where given masks bring the pairs less than that, stronger menders learn from the images alone
FEWEST_FOR_STRONGER = 20  # pairs; fewer are learned in few updates, and say less of how poor the masks are


def read_mender_config(file: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """Read the settings of menders, as `read_config` does.

    Raises:
        ConfigError: as there; or the method is another than `mender`.
    """
    return settle_mender_config(lambda defaults: read_config(file, settings, defaults))


def as_mender_config(
    config: Config | Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None, *, clean: int | None = None
) -> Config:
    """Return the settings of menders that a Python call was given, as `as_config` does.

    Args:
        defaults: in place of the usual ones of menders.
        clean: how many clean cases they learn from: with few the default of `epochs` is smaller.

    Raises:
        ConfigError: as there; or the method is another than `mender`.
    """
    return settle_mender_config(lambda usual: as_config(config, defaults or usual), clean)


def settle_mender_config(read: Callable[[Mapping[str, Any]], Config], clean: int | None = None) -> Config:
    """Return the settings of menders that are read with the defaults of menders.

    These go by the size of the patches for volumes, and for pictures by the number of clean cases where it is known.

    Args:
        read: returns the settings where these defaults hold.
        clean: how many clean cases there are.

    Raises:
        ConfigError: as `read`; or the method is another than `mender`.
    """
    config = read(DEFAULTS)
    if patch := patch_of(config):
        batch = batch_of_patches(patch)
        config = read({**DEFAULTS, "epochs": EPOCHS_OF_VOLUMES, "batch_size": batch, "clean_batch_size": batch})
    elif clean is not None:
        config = read({**DEFAULTS, "epochs": min(DEFAULTS["epochs"], math.ceil(EPOCHS_PER_CASE * clean))})
    if config.method != "mender":
        raise ConfigError(f"method = {config.method!r}: menders are trained by method = 'mender'; leave it out")
    return config


def chosen_settings(given: Config | Mapping[str, Any] | None, config: Config) -> dict[str, Any]:
    """Return the settings of menders that a call was given, as plain values, without those of the data and the machine.

    Args:
        given: all settings, or some.
        config: what became of them.
    """
    values = to_values(config)
    names = values if isinstance(given, Config) else given or ()
    return {name: values.get(name) for name in names if name not in _OF_DATA}


def method_for_mended(patch: Sequence[int]) -> str:
    """Return the method to train with on mended masks: `plain`, and of volumes one that ends on the clean masks (docs/lab.md).

    Args:
        patch: the size of the patches of volumes; empty for pictures.
    """
    return "finetuned" if patch else "plain"


def strengthen(config: Config, *, alone: bool) -> Config:
    """Return the settings of stronger menders (see `Config.stronger_below`), which are trained for longer, and of pictures have a larger
    network unless another was chosen.

    Args:
        alone: on the images alone, without the given masks.
    """
    model = "unet-small" if config.model == DEFAULTS["model"] and len(config.size) == 2 else config.model
    return replace(config, model=model, epochs=LONGER * config.epochs, given_dropped=1.0 if alone else config.given_dropped)
