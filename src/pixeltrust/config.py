"""The settings of a training run: one frozen dataclass, one TOML file, `key=value` on the command line."""

import dataclasses
import sys
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import tomli_w

from pixeltrust.method_table import METHODS
from pixeltrust.plumbing.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run does. A setting that the method has no use for is legal; an unknown one is not.

    Raises:
        ConfigError: a value of the wrong type or out of its range.
    """

    method: str = "trust"
    """How a step uses the masks; the methods are in the table above."""

    model: str = "unet"
    """`unet` (widths 64 to 1024), `unet-small` (16 to 256), or `package.module:function`."""

    classes: int = 1
    """Logits per pixel: 1 is foreground against background; 2 or more are labels 0 … classes − 1."""

    channels: Literal[1, 3] = 3
    """Channels of the images as the network gets them: 1 grey, 3 colour."""

    ignore_label: int | None = None
    """The value in mask files that marks ignored pixels. Unset: 255, except in files of 0 and 255, where that is the foreground."""

    image_size: int | tuple[int, int] = 96
    """Pixels a side, or [height, width], of what the network trains on."""

    batch_size: int = 16
    """Noisy images in a step (for `plain` and those like it: images of the pool), of all processes together."""

    clean_batch_size: int = 16
    """Clean images in a step, of all processes together."""

    clean_weight: float | None = None
    """λ of `trust`, `pixel` and `image`: how much the clean loss adds to the update. Unset: 1 for `trust`, 0 (the paper) for the others."""

    trust_memory: float | None = None
    """β of `trust`, and of the helped maps of `pixel` and `image`: how much of a pixel's trust stays when its image is seen again; 1 learns
    nothing. Unset: 0.7, and 0.9 with fewer than 30 clean cases to train on."""

    trust_sharpness: float = 3.0
    """s of `trust`: a pixel counts with its trust to this power; 0 lets all count alike."""

    gains: Literal["exact", "finite-difference"] = "exact"
    """How `trust`, `pixel` and `image` take the gains: forward mode, or a difference of two passes."""

    along: str = ""
    """Parts of the network along which the gains are taken, as their parameters' names begin, with commas between; empty: all."""

    finetune_share: float = 1 / 3
    """Share of the updates, the last ones, that `finetuned` makes on clean batches alone."""

    epochs: int = 50
    """Passes over the noisy cases; every method makes epochs × ceil(noisy cases / batch_size) updates."""

    learning_rate: float = 1e-3
    """The optimiser's, at the start."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """torch's optimiser of that name."""

    momentum: float = 0.9
    """Of `sgd`."""

    weight_decay: float = 0.0
    """Of the optimiser."""

    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """Of the learning rate over the updates: `cosine` to 0, `step` ×0.1 after each third, or `constant`."""

    augment: Literal["flips-and-turns", "none"] = "flips-and-turns"
    """Random flips and quarter turns (half turns where height and width differ) of every training image, or none."""

    jitter: Literal["clean", "all", "none"] = "clean"
    """Random zoom, shift and rotation, contrast and colour: of the clean batches' images, of all images, or of none."""

    precision: Literal["32", "bf16"] = "32"
    """`bf16` is mixed precision: passes in bfloat16, parameters, losses and weights in float32."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""

    seed: int = 0
    """Of everything random: initial parameters, held-out cases, order, augmentation, dropout; each has a stream of its own."""

    val_fraction: float = 0.2
    """Share of the clean cases held out to choose the best weights; fewer than 10 choose nothing, and are trained on instead."""

    cache_gib: float = 4.0
    """Decoded cases are kept in memory up to this size, beyond it in a memory-mapped file in the run folder."""

    checkpoint_minutes: float = 5.0
    """A checkpoint is written after every epoch, and within one after this time."""

    weight_map_cases: int = 8
    """Noisy cases whose weight maps are kept, after at most 12 epochs spread evenly, for the report; 0 for none."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _coerced(field.name, getattr(self, field.name)))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None:
                continue
            if not low <= value <= high:
                upper = "" if high >= _FINITE else f" to {high}"
                raise ConfigError(f"{name} must be {low}{upper or ' or more'}, not {value!r:.100}")
        if not 0 < self.learning_rate <= _FINITE:
            raise ConfigError(f"learning_rate must be above 0 and finite, not {self.learning_rate!r}")
        if not 16 <= min(self.size) <= max(self.size) <= LARGEST_SIDE:
            raise ConfigError(f"image_size must be 16 to {LARGEST_SIDE}, not {self.image_size!r:.100}")
        for name in ("batch_size", "clean_batch_size"):
            pixels = getattr(self, name) * self.size[0] * self.size[1]
            if pixels > MOST_PIXELS:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} and image_size = {self.image_size}: {pixels:,} pixels in a batch, which may "
                    f"have {MOST_PIXELS:,} at most; choose smaller ones"
                )
        if self.ignore_label is not None and not 0 <= self.ignore_label <= 255:
            raise ConfigError(f"ignore_label must be 0 to 255, not {self.ignore_label!r}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the network trains on."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)


LARGEST_SIDE = 1 << 14
MOST_PIXELS = 1 << 30  # of a batch: 3 GiB as bytes in colour, hundreds in a network
_MANY = 10**9
_ANY = float("inf")
_FINITE = sys.float_info.max
_RANGES = (
    ("classes", 1, 254),
    ("batch_size", 1, _MANY),
    ("clean_batch_size", 1, _MANY),
    ("clean_weight", 0, _FINITE),
    ("trust_memory", 0, 1),
    ("trust_sharpness", 0, 100),
    ("finetune_share", 0, 1),
    ("epochs", 1, _MANY),
    ("momentum", 0, 1),
    ("weight_decay", 0, _FINITE),
    ("seed", 0, 2**32 - 1),
    ("val_fraction", 0, 0.9),
    ("cache_gib", 0, _ANY),
    ("checkpoint_minutes", 0, _ANY),
    ("weight_map_cases", 0, 64),
)
_WORDS = {int: "a whole number", float: "a number", str: "a text", tuple[int, int]: "[height, width]"}
_TYPES = typing.get_type_hints(Config)


def read_config(file: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """The settings of a TOML file, then those of `key=value` texts, over the defaults.

    Args:
        file: TOML with settings at the top level.
        settings: `key=value`, the value as TOML has it; a bare word is a string: `method=pixel`, `image_size=64`.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown (names the nearest known one), malformed or out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(read_toml(file))
        try:
            config_from(values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
    values.update(map(setting, settings))
    return config_from(values)


def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply for a file of settings") from None
    except (OSError, ValueError) as error:  # no UTF-8, or a number of thousands of digits
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def setting(text: str) -> tuple[str, Any]:
    """The name and value of a `key=value` text; a bare word is a string.

    Raises:
        ConfigError: it is written in another way.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as key=value")
    return key.strip(), _toml_value(value.strip())


def config_from(values: Mapping[str, Any], source: str = "") -> Config:
    """A Config from a mapping.

    Raises:
        ConfigError: as `read_config`.
    """
    _refuse_unknown(values, source)
    return Config(**values)


def _refuse_unknown(values: Mapping[str, Any], source: str) -> None:
    for name in values:
        if name not in _TYPES:
            near = get_close_matches(name[:100], _TYPES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_TYPES)}"
            raise ConfigError(f"{source}unknown setting {name!r:.100}; {hint}")


def values_of(config: Config) -> dict[str, Any]:
    """The settings as plain values that `config_from` takes back; unset ones are left out."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_toml(config: Config) -> str:
    """The settings as the TOML text that `read_config` reads back."""
    return tomli_w.dumps(values_of(config))


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _coerced(name: str, value: Any) -> Any:
    """The value as its field's type has it (a list for a tuple, 1 for 1.0, 32 for "32"), or a ConfigError."""
    expected = _TYPES[name]
    for kind in typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,):
        if name == "method" or typing.get_origin(kind) is Literal:
            choices = tuple(METHODS) if name == "method" else typing.get_args(kind)
            if not isinstance(value, bool):
                for choice in choices:
                    if str(value) == str(choice):
                        return choice
            near = get_close_matches(str(value)[:100], map(str, choices), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r:.100}{hint}")
        if kind is types.NoneType and value is None:
            return None
        if kind in (int, str) and type(value) is kind:
            return value
        if kind is float and type(value) in (int, float) and value == value:
            return float(value)
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple) and [type(v) for v in value] == [int, int]:
            return tuple(value)
    kinds = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    raise ConfigError(f"{name} must be {' or '.join(_WORDS[kind] for kind in kinds if kind in _WORDS)}, not {value!r:.100}")
