"""The settings of menders: those of a training, with other defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixeltrust.config import Config, as_config, read_config
from pixeltrust.plumbing.errors import ConfigError

DEFAULTS: Mapping[str, Any] = {
    "method": "mender",
    "model": "unet-tiny",
    "epochs": 10,
    "updates_per_epoch": 100,
    "coarse_share": 0.75,
    "learning_rate": 3e-3,
    "weight_map_cases": 0,
}
"""The defaults of menders where they differ from those of `Config`."""


def read_mender_config(file: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """Read the settings of menders, as `read_config` does.

    Raises:
        ConfigError: as there; or the method is another than `mender`.
    """
    return _require_mender(read_config(file, settings, DEFAULTS))


def as_mender_config(config: Config | Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of menders that a Python call was given, as `as_config` does.

    Args:
        defaults: in place of the usual ones of menders.

    Raises:
        ConfigError: as there; or the method is another than `mender`.
    """
    return _require_mender(as_config(config, defaults or DEFAULTS))


def _require_mender(config: Config) -> Config:
    if config.method != "mender":
        raise ConfigError(f"method = {config.method!r}: menders are trained by method = 'mender'; leave it out")
    return config
