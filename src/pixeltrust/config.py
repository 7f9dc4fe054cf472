"""The settings of a training run: one frozen dataclass, one TOML file, `key=value` on the command line."""

import ast
import dataclasses
import inspect
import math
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli_w

from pixeltrust.method_table import METHODS
from pixeltrust.plumbing.errors import ConfigError, RunError

LARGEST_SIDE = 1 << 14
SMALLEST_SIDE = {2: 16, 3: 4}  # by the number of axes: volumes of thick slices have few
MOST_PIXELS = 1 << 30  # of a batch: 3 GiB as bytes in colour, hundreds in a network
USUAL_PIXELS = 16 * 96 * 96  # of a batch
_FINITE = sys.float_info.max


@dataclass(frozen=True)
class Between:
    """The range of a setting, both ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low} or more" if self.high >= _FINITE else f"{self.low} to {self.high}"


Count: TypeAlias = Annotated[int, Between(1, 10**9)]
Share: TypeAlias = Annotated[float, Between(0, 1)]
NotNegative: TypeAlias = Annotated[float, Between(0, _FINITE)]
Loss: TypeAlias = Literal["cross-entropy", "dice-ce"]
Augment: TypeAlias = Literal["flips-and-turns", "none"]
Jitter: TypeAlias = Literal["clean", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run. A setting that the method does not use is legal; an unknown one is not.

    Example:
        pixeltrust.train("lesions", out="run", config=Config(model="unet-small", epochs=20))  # or config={"model": …}

    Raises:
        ConfigError: an unknown name (names the nearest known one), or a value of the wrong type or out of its range.
    """

    def __new__(cls, **values: Any) -> "Config":
        _refuse_unknown(values)
        return super().__new__(cls)

    method: str = "trust"
    """How a step uses the masks; the methods have a table of their own."""

    model: str = "unet"
    """`unet` (widths 64 to 1024), `unet-small` (16 to 256), `unet-tiny` (8 to 128), or `package.module:function`."""

    classes: Annotated[int, Between(1, 254)] = 1
    """Logits per pixel: 1 is foreground against background; 2 or more are labels 0 … classes − 1."""

    channels: Annotated[int, Between(1, 64)] = 3
    """Channels of pictures as the network gets them: 1 grey, 3 colour. Volumes have as many as each has files, whatever this says."""

    ignore_label: Annotated[int | None, Between(0, 255)] = None
    """The value in mask files that marks ignored pixels. Unset: 255, except in files of 0 and 255, where that is the foreground."""

    image_size: int | tuple[int, int] | tuple[int, int, int] = 96
    """Pixels a side, or [height, width], that pictures are resized to; [depth, height, width] of the patches of volumes."""

    spacing: tuple[float, float, float] | None = None
    """Millimetres between voxels along [depth, height, width] that volumes are resampled to. Unset: the median of the training cases."""

    normalise: str | tuple[str, ...] = "image"
    """Intensities of volumes: `image` (zero mean, unit deviation in each volume) or `ct:LOW,HIGH` (a window); or a list, one a channel."""

    batch_size: Count = 16
    """Noisy images in a step (for `plain` and those like it: images of the pool), of all processes together."""

    clean_batch_size: Count = 16
    """Clean images in a step, of all processes together."""

    loss: Loss | None = None
    """What is minimised: `cross-entropy`, or `dice-ce`, the field's usual Dice plus cross-entropy; methods of a loss of their own keep it.
    Unset: `dice-ce` for volumes, `cross-entropy` for pictures."""

    clean_weight: NotNegative | None = None
    """λ of `trust`, `pixel` and `image`: how much the clean loss adds to the update. Unset: 1 for `trust`, 0 (the paper) for the others."""

    trust_memory: Share | None = None
    """β of `trust`, and of the helped maps of `pixel` and `image`: how much of a pixel's trust stays when its image is seen again; 1 learns
    nothing. Unset: 0.7, and 0.9 with fewer than 30 clean cases to train on."""

    trust_sharpness: Annotated[float, Between(0, 100)] = 3.0
    """s of `trust`: a pixel counts with its trust to this power; 0 lets all count alike."""

    gains: Literal["exact", "finite-difference"] = "exact"
    """How `trust`, `pixel` and `image` take the gains: forward mode, or a difference of two passes."""

    along: str = ""
    """Comma-separated prefixes of the names of the parameters that gains are computed for; empty: all."""

    finetune_share: Share = 1 / 3
    """Share of the updates, the last ones, that `finetuned` makes on clean batches alone."""

    epochs: Count = 50
    """Passes over the noisy cases; every method makes epochs × ceil(noisy cases / batch_size) updates (or × `updates_per_epoch`)."""

    updates_per_epoch: Count | None = None
    """Updates in an epoch. Unset: as many as show every noisy case once (every clean one where there are no noisy ones)."""

    given_dropped: Share = 0.25
    """Share of the images that `mender` sees without their given mask, so that it also knows what to do without one."""

    crop_around_given: NotNegative | None = None
    """How much a `mender` sees of a picture around its given mask, in multiples of the mask's extent, so that small lesions look like large
    ones; 0: all. Unset: all, but `mend` takes as little, from 1.5 on, as holds the clean masks of the pairs. Not for volumes."""

    coarse_share: Share = 0.0
    """Share of the updates, the first ones, that `mender` makes at half the image size, which takes a quarter of the time."""

    stronger_below: Share = 0.9
    """Mean Dice of the pairs below which `mend` trains stronger menders too, and takes them if they are surely better: three times as long
    and, of pictures, `unet-small` in place of `unet-tiny`. With fewer than 20 pairs it never does. 0: never."""

    learning_rate: float = 1e-3
    """Learning rate at the start."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """The optimiser of that name in torch."""

    momentum: Share = 0.9
    """Momentum of `sgd`."""

    weight_decay: NotNegative = 0.0
    """Weight decay of the optimiser."""

    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """Learning rate over the updates: `cosine` to 0, `step` ×0.1 after each third, or `constant`."""

    augment: Augment | None = None
    """Random flips and quarter turns (half turns where height and width differ) of every training image, or none. Unset: `flips-and-turns`,
    and `none` for volumes, whose labels often differ by direction alone (left and right, front and back)."""

    jitter: Jitter | None = None
    """Random zoom, shift and rotation, contrast and colour: for the clean batches' images, for all images, or for none. Unset: `clean`, and
    `all` for volumes."""

    colour_jitter: Share = 0.25
    """How far `jitter` changes the colours of pictures, either way: contrast by this much, each channel by .4 of it. Further helps where
    clean masks are few, and costs a little where they are many; menders have 0.5 by default."""

    grey_share: Share = 0.0
    """Share of the pictures with `jitter` that are shown in grey; menders have 0.2 by default. Leave it 0 where colour alone tells what is
    what."""

    precision: Literal["32", "bf16"] = "32"
    """`bf16` is mixed precision: passes in bfloat16, parameters, losses and weights in float32. Refused on a CPU where torch gets the
    gradient of a convolution wrong there, as torch 2.13 does in volumes where its input has fewer planes than the kernel."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device to train on."""

    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Seed of all that is random: initial parameters, held-out cases, order, augmentation, dropout; each has a stream of its own."""

    val_fraction: Annotated[float, Between(0, 0.9)] = 0.0
    """Share of the clean cases held out to choose the best weights. 0, or where that gives fewer than 10: none, all are trained on."""

    cache_gib: Annotated[float, Between(0, inf)] = 4.0
    """Decoded cases are kept in memory up to this size, and beyond it in a memory-mapped file in the run folder."""

    checkpoint_minutes: Annotated[float, Between(0, inf)] = 5.0
    """A checkpoint is written after every epoch, and within one after this time."""

    weight_map_cases: Annotated[int, Between(0, 64)] = 8
    """Noisy cases whose weight maps are kept, after at most 12 epochs spread evenly, for the report; 0 for none."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _coerce(field.name, getattr(self, field.name)))
        for name, between in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not between.low <= value <= between.high:
                raise ConfigError(f"{name} must be {between}, not {value!r:.100}")
        if not 0 < self.learning_rate <= _FINITE:
            raise ConfigError(f"learning_rate must be above 0 and finite, not {self.learning_rate!r}")
        smallest = SMALLEST_SIDE[len(self.size)]
        if not smallest <= min(self.size) <= max(self.size) <= LARGEST_SIDE:
            raise ConfigError(f"image_size must be {smallest} to {LARGEST_SIDE}, not {self.image_size!r:.100}")
        if len(self.size) == 2 and self.channels not in (1, 3):
            raise ConfigError(f"channels must be 1 (grey) or 3 (colour) for pictures, not {self.channels!r:.100}")
        if self.spacing is not None and not 0 < min(self.spacing) <= max(self.spacing) <= _FINITE:
            raise ConfigError(f"spacing must be above 0 and finite, not {self.spacing!r:.100}")
        for how in self.normalisation:
            window_of(how)
        for name in ("batch_size", "clean_batch_size"):
            pixels = getattr(self, name) * math.prod(self.size)
            if pixels > MOST_PIXELS:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} and image_size = {self.image_size}: {pixels:,} pixels in a batch, which may "
                    f"have {MOST_PIXELS:,} at most; choose smaller ones"
                )

    @property
    def size(self) -> tuple[int, ...]:
        """The size that the network trains on: (height, width) of pictures, (depth, height, width) of patches of volumes."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def normalisation(self) -> tuple[str, ...]:
        """How volumes are normalised: one for each channel, or one for all."""
        return (self.normalise,) if isinstance(self.normalise, str) else self.normalise

    @property
    def training_loss(self) -> Loss:
        """`loss`, or its default for pictures or volumes."""
        return self.loss or ("dice-ce" if len(self.size) == 3 else "cross-entropy")

    @property
    def flips(self) -> bool:
        """Whether training shows images flipped and turned: `augment`, or its default."""
        unset = "none" if len(self.size) == 3 else "flips-and-turns"
        return (self.augment or unset) != "none"

    @property
    def jittered(self) -> Jitter:
        """`jitter`, or its default for pictures or volumes."""
        return self.jitter or ("all" if len(self.size) == 3 else "clean")

    @property
    def planes(self) -> int:
        """Planes of the given mask that the network sees beside the channels of the image: of a mender, one for each foreground class."""
        return max(1, self.classes - 1) if METHODS[self.method].sees_given else 0


HEADINGS = {
    "method": "How it learns",
    "classes": "Images and masks",
    "batch_size": "A step",
    "epochs": "How long",
    "learning_rate": "Optimiser",
    "augment": "Variation of the images",
    "precision": "Machine, chance and what is kept",
}
"""The groups of settings, each by its first one."""


def describe_settings() -> dict[str, str]:
    """Return the text under every setting of `Config`, by its name, in their order."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(Config)).body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def show_default(name: str) -> str:
    """Return the default of a setting as people read it."""
    default = getattr(Config, name)
    return "unset" if default is None else "none" if default == "" else f"{default:.3g}" if isinstance(default, float) else f"{default}"


_RANGES = {
    name: between
    for name, kind in typing.get_type_hints(Config, include_extras=True).items()
    for part in (kind, *typing.get_args(kind))
    for between in getattr(part, "__metadata__", ())
}
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple[int, int]: "[height, width]",
    tuple[int, int, int]: "[depth, height, width]",
    tuple[float, float, float]: "three numbers [depth, height, width]",
    tuple[str, ...]: "a list of texts",
}
_KINDS = {
    name: typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for name, kind in typing.get_type_hints(Config).items()
}


def read_config(file: Path | None = None, settings: Sequence[str] = (), defaults: Mapping[str, Any] | None = None) -> Config:
    """Return the settings that `read_values` reads, over the defaults.

    Raises:
        ConfigError: as there.
    """
    return config_from({**(defaults or {}), **read_values(file, settings, defaults)})


def read_values(file: Path | None = None, settings: Sequence[str] = (), defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the settings of a TOML file, then those of `key=value` texts, and check them over the defaults.

    Args:
        file: TOML with settings at the top level.
        settings: `key=value`, the value as TOML has it; a bare word is a string: `method=pixel`, `image_size=64`.
        defaults: those that differ from `Config`'s own; they are not among what is returned.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown (names the nearest known one), malformed or out of range.
    """
    values: dict[str, Any] = read_toml(file) if file is not None else {}
    try:
        config_from({**(defaults or {}), **values})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    values.update(map(setting, settings))
    config_from({**(defaults or {}), **values})
    return values


def require_run(folder: Path) -> Path:
    """Return a folder that has the settings of a run.

    Raises:
        RunError: it does not.
    """
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: not a run folder (it has no config.toml); `pixeltrust train` makes one")
    return folder


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply for a file of settings") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def setting(text: str) -> tuple[str, Any]:
    """Split a `key=value` text into the name and the value; a bare word is a string.

    Raises:
        ConfigError: it has another form.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def config_from(values: Mapping[str, Any], source: str = "") -> Config:
    """Make a Config from a mapping.

    Raises:
        ConfigError: as `read_config`.
    """
    _refuse_unknown(values, source)
    return Config(**values)


def as_config(config: Config | Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None) -> Config:
    """Return the settings that a Python call was given: a Config as it is, a mapping or nothing over the defaults.

    Raises:
        ConfigError: as `read_config`; or it is neither.
    """
    if isinstance(config, Config):
        return config
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config must be a Config or a mapping of settings, not {type(config).__name__}")
    return config_from({**(defaults or {}), **(config or {})})


def refuse_other_settings(folder: Path, before: Config, now: Config) -> None:
    """Raise unless what was started in a folder with some settings is continued with the same, apart from what the data have settled.

    Raises:
        RunError: names the settings that differ.
    """
    if len(before.size) == len(now.size) == 3:
        now = dataclasses.replace(now, spacing=now.spacing or before.spacing, channels=before.channels)
    if now.crop_around_given is None:
        now = dataclasses.replace(now, crop_around_given=before.crop_around_given)
    changed = [name for name, value in dataclasses.asdict(now).items() if getattr(before, name) != value]
    if changed:
        was = ", ".join(f"{name} = {getattr(before, name)!r}, now {getattr(now, name)!r}" for name in changed)
        raise RunError(f"{folder}: was started with other settings ({was}); leave them out to continue, or choose another --out")


def _refuse_unknown(names: Iterable[str], source: str = "") -> None:
    for name in names:
        if name not in _KINDS:
            near = get_close_matches(str(name)[:100], _KINDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_KINDS)}"
            raise ConfigError(f"{source}unknown setting {name!r:.100}; {hint}")


def to_values(config: Config) -> dict[str, Any]:
    """Return the settings as plain values that `config_from` takes; unset ones are left out."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_toml(config: Config) -> str:
    """Return the settings as TOML text that `read_config` reads."""
    return tomli_w.dumps(to_values(config))


def patch_of(config: Config) -> tuple[int, ...]:
    """Return the size of the patches of volumes; empty for pictures."""
    return config.size if len(config.size) == 3 else ()


def batch_of_patches(size: Sequence[int]) -> int:
    """Return how many patches of volumes have about as many voxels as a usual batch of pictures has pixels, 2 at least."""
    return max(2, round(USUAL_PIXELS / math.prod(size)))


def window_of(how: str) -> tuple[float, float] | None:
    """Return the window (low, high) of a text of the setting `normalise`; None for `image`.

    Raises:
        ConfigError: it is neither.
    """
    if how == "image":
        return None
    try:
        low, high = map(float, how.removeprefix("ct:").split(","))
        if how.startswith("ct:") and -_FINITE <= low < high <= _FINITE:
            return low, high
    except ValueError:
        pass
    raise ConfigError(f"normalise must be image, or a window as ct:-160,240, not {how!r:.100}")


def _are_of(values: Sequence[object], kinds: tuple[Any, ...]) -> bool:
    """Return whether these values are of the kinds of a tuple; a whole number is a number."""
    wanted = kinds[:1] * len(values) if kinds[-1] is ... else kinds
    return len(values) == len(wanted) and all(
        type(value) is kind or (kind is float and type(value) is int) for value, kind in zip(values, wanted, strict=True)
    )


def _coerce(name: str, value: Any) -> Any:
    """Return the value in its field's type (from a list for a tuple, 1 for 1.0, 32 for "32"), or raise a ConfigError."""
    if value is None and types.NoneType in _KINDS[name]:
        return None
    for kind in _KINDS[name]:
        if name == "method" or typing.get_origin(kind) is Literal:
            choices = tuple(METHODS) if name == "method" else typing.get_args(kind)
            if not isinstance(value, bool):
                for choice in choices:
                    if str(value) == str(choice):
                        return choice
            near = get_close_matches(str(value)[:100], map(str, choices), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r:.100}{hint}")
        if kind in (int, str) and type(value) is kind:
            return value
        if kind is float and type(value) in (int, float) and value == value:
            return float(value)
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple) and value and _are_of(value, typing.get_args(kind)):
            return tuple(float(each) if float in typing.get_args(kind) else each for each in value)
    raise ConfigError(f"{name} must be {' or '.join(_WORDS[kind] for kind in _KINDS[name] if kind in _WORDS)}, not {value!r:.100}")
