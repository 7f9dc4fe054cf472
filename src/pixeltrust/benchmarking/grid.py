"""The grid of a benchmark: methods × noise × numbers of clean masks × seeds, and the settings that all of them share.

methods = ["plain", "finetuned", "pixel", "mine"]
noise = ["triangle", "box"]
clean = [50, 100]
seeds = [0, 1, 2]
match = "time"                   # every method has the same time; "updates" (where not given): the same number of updates
epochs = 20                      # any training setting

[variants.mine]                  # a method of your own: the name of another one, with settings
method = "pixel"
clean_weight = 0.5

[mender]                         # settings of the menders of `mended`, in place of those of `pixeltrust mend`
updates_per_epoch = 200
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from pixeltrust.config import Config, config_from, read_toml, setting
from pixeltrust.mending.settings import settle_mender_config
from pixeltrust.method_table import METHODS
from pixeltrust.noise.kinds import require_kind
from pixeltrust.plumbing.errors import ConfigError

CEILING = "ceiling"
"""Trained on true masks, which a user with noisy ones does not have: it is not a rival, and never the best."""
GIVEN = "given"
"""The noise of a user's own data, whose masks are noisy as they are."""
MaskKind = Literal["noisy", "true", "pruned", "mended"]
Match = Literal["updates", "time"]

VARIANTS: dict[str, dict[str, Any]] = {
    "pixel+clean": {"method": "pixel", "clean_weight": 1.0},
    "pruned": {"method": "plain"},
    "mended": {"method": "plain"},
    "mended+finetuned": {"method": "finetuned"},
    CEILING: {"method": "plain"},
}
"""Methods of the benchmark that are another method with settings, or with other masks (see `mask_kind`)."""
MENDER_SIDE = 96  # pixels: menders see larger images as small as this
_OF_CELL = ("classes", "channels", "ignore_label", "spacing", "normalise", "precision", "device", "seed")
"""Settings that menders share with the training."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training and its measurement."""

    method: str
    noise: str
    clean: int
    seed: int
    fold: int | None = None
    """The fold of a cross-validation over the clean cases."""

    @property
    def name(self) -> str:
        """The name of its folder, different for all cells of a grid."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.method}-{self.noise}-{self.clean}-{self.seed}{fold}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes and settings of a benchmark. Whoever runs it fills the empty axes (see `filled`).

    Example:
        Grid(methods=("plain", "trust"), noise=("triangle",), clean=(10, 100), seeds=(0, 1, 2), settings={"epochs": 20})

    Raises:
        ConfigError: a method, noise or setting is not known, an axis is empty or names something twice, or a number is out of range.
    """

    methods: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    clean: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that all methods share."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The user's own methods, by name."""
    mender: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the menders of `mended`, in place of the usual ones (see `mender_config`)."""
    match: Match = "updates"
    """What all methods have in common: the number of updates, or the time that the most expensive one takes for it (see `matching`)."""

    def __post_init__(self) -> None:
        for name, kind in (("methods", str), ("noise", str), ("clean", int), ("seeds", int)):
            object.__setattr__(self, name, _axis(name, kind, getattr(self, name)))
        for seed in self.seeds:
            if seed < 0:
                raise ConfigError(f"seeds: whole numbers from 0, not {seed}")
        for noise in self.noise:
            if noise != GIVEN:
                require_kind(noise)
        for clash in (set(self.variants) & {*METHODS, *VARIANTS}) | {name for name in self.variants if not _is_name(name)}:
            raise ConfigError(f"variants.{clash}: choose another name, of letters, digits, + and -, that no method has yet")
        for name, settings in self.variants.items():
            if not isinstance(settings, Mapping) or "method" not in settings:
                raise ConfigError(f"variants.{name}: needs a method, that of another, and settings; not {settings!r}")
        if self.match not in get_args(Match):
            raise ConfigError(f"match must be {' or '.join(get_args(Match))}, not {self.match!r}")
        for name, settings in self.variants.items():
            if self.match == "time" and "epochs" in settings:
                raise ConfigError(f"variants.{name}: epochs follow from match = 'time'; leave them out, or match = 'updates'")
        for name in ("method", "seed"):
            if name in self.settings:
                raise ConfigError(f"{name}: a grid has {name}s, a list; or [variants.NAME] with a method and its settings")
        for method in (*self.methods, *self.variants) or ("plain",):
            self.config(Cell(method=method, noise="", clean=0, seed=0))
        if not isinstance(self.mender, Mapping) or {"method", *_OF_CELL} & self.mender.keys():
            raise ConfigError(f"mender: a table of settings of menders, without method, {', '.join(_OF_CELL)}; not {self.mender!r}")
        self.mender_config(Config())

    def filled(self, **axes: tuple[Any, ...]) -> "Grid":
        """Return the grid with these axes where its own are empty."""
        missing: dict[str, Any] = {name: values for name, values in axes.items() if not getattr(self, name)}
        return replace(self, **missing)

    @property
    def classes(self) -> int:
        """That of all trainings, as in `Config`."""
        return config_from(self.settings).classes

    def cells(self) -> list[Cell]:
        """Return all cells, ordered by noise, number of clean masks, seed, and method."""
        return [
            Cell(method=method, noise=noise, clean=clean, seed=seed)
            for noise in self.noise
            for clean in self.clean
            for seed in self.seeds
            for method in self.methods
        ]

    def config(self, cell: Cell) -> Config:
        """Return the settings of a cell's training.

        Raises:
            ConfigError: its method is not known, or a setting cannot be used.
        """
        variants = {**{name: {"method": name} for name in METHODS}, **VARIANTS, **self.variants}
        if cell.method not in variants:
            near = get_close_matches(cell.method, variants, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"methods: {cell.method!r} is not known; {hint}known: {', '.join(variants)}, or a name in [variants]")
        return config_from({**self.settings, **variants[cell.method], "seed": cell.seed}, f"{cell.method}: ")

    def mender_config(self, config: Config, clean: int | None = None) -> Config:
        """Return the settings of the menders of a cell that trains with these: those of `pixeltrust mend`, for the same files and device,
        and the size of the training up to `MENDER_SIDE` a side.

        Args:
            clean: the clean cases of the cell; where not given, as for many.

        Raises:
            ConfigError: a setting of `mender` cannot be used.
        """
        shared = {name: getattr(config, name) for name in _OF_CELL}
        size = tuple(min(side, MENDER_SIDE) for side in config.size)
        return settle_mender_config(lambda usual: config_from({**usual, **shared, "image_size": size, **self.mender}, "mender: "), clean)

    def record(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def mask_kind(method: str) -> MaskKind:
    """Return which masks the noisy cases get in training: their own, the true ones, their own without pruned pixels, or mended ones."""
    return {CEILING: "true", "pruned": "pruned", "mended": "mended", "mended+finetuned": "mended"}.get(method, "noisy")  # type: ignore[return-value]


def read_grid(file: Path | None = None, settings: Sequence[str] = ()) -> Grid:
    """Read the grid of a TOML file, with changes by `key=value` texts.

    Raises:
        ConfigError: see `Grid`; or the file cannot be read.
    """
    return grid_from({**(read_toml(file) if file else {}), **dict(map(setting, settings))})


def grid_from(values: Mapping[str, Any]) -> Grid:
    """Return the grid of a mapping: its axes, variants and mender by these names, and settings of training.

    Raises:
        ConfigError: see `Grid`; or an axis is empty.
    """
    axes = {axis.name for axis in fields(Grid)} - {"settings"}
    for name in axes & values.keys():
        if not values[name]:
            raise ConfigError(f"{name} is empty; leave it out for the default")
    return Grid(
        **{name: values[name] for name in axes & values.keys()},
        settings={name: value for name, value in values.items() if name not in axes},
    )


def as_grid(grid: Grid | Mapping[str, Any] | None) -> Grid:
    """Return the grid that a Python call was given: as it is, or that of a mapping."""
    return grid if isinstance(grid, Grid) else grid_from(grid or {})


def _axis(name: str, kind: type, values: Any) -> tuple[Any, ...]:
    listed = tuple(values) if isinstance(values, list | tuple) else (values,)
    if any(type(value) is not kind for value in listed):
        words = {str: "texts", int: "whole numbers"}[kind]
        raise ConfigError(f"{name} must be a list of {words}, not {values!r}")
    doubled = {value for value in listed if listed.count(value) > 1}
    if doubled:
        raise ConfigError(f"{name}: {', '.join(map(str, sorted(doubled)))} is there twice")
    return listed


def _is_name(name: str) -> bool:
    return bool(name) and all(letter.isalnum() or letter in "+-_" for letter in name)
