"""The masks of a cell: a table of cases for `train` that points to the files where they are.

    OUT/noise/<noise>-<seed>/   where the truth is known: a noisy mask for every training case (see `simulate`), made once

Which cases are clean is drawn by the seed from one shuffled list, so the 10 clean cases of a seed are among its 100, and all methods of
a seed have the same ones. A clean case that has a noisy mask too is a pair: it has a second row, of the role noisy (see `data.cases`).
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
import pandas as pd
from filelock import FileLock

from pixeltrust.benchmarking.grid import CEILING, GIVEN, Cell, Grid, mask_kind
from pixeltrust.data.cases import COLUMNS, Case, Cases, read_cases
from pixeltrust.data.folds import assign_folds, name_groups
from pixeltrust.data.known_truth import SourceCase, read_source
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.noise.simulate import simulate, simulated_name, split_roles
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.seeds import generator
from pixeltrust.plumbing.text import count

NOISE = "noise"
Row = tuple[str, Path, Path, str, str, int]


class CellMasks(Protocol):
    """The source of the cases of every cell."""

    knows_truth: bool
    """True where the true masks of noisy cases are known; then there are a ceiling and shares of wrong pixels."""

    def complete(self, grid: Grid) -> Grid:
        """Return the grid with the axes that it leaves to the data; check that every cell can have its cases.

        Raises:
            ConfigError, DataError: one of them cannot, and why.
        """

    def prepare(self, cell: Cell) -> None:
        """Make the files of the cell's table that are not there yet; several threads and processes may call it."""

    def table(self, cell: Cell, *, true: bool = False) -> pd.DataFrame:
        """Return the table of cases of a cell, with its pairs; with `true` masks for the noisy ones, and no pairs."""


def is_source(folder: Path, layout: Layout) -> bool:
    """Return whether this is a source with known truth, and not a user's data folder or table."""
    return not layout_options(layout) and (folder / "masks").is_dir() and not (folder / "noisy").is_dir()


class SourceMasks:
    """The masks of a source, a folder with known truth: images/, masks/, perhaps split.csv."""

    knows_truth = True

    def __init__(self, source: Path, out: Path, *, classes: int = 1, show_progress: bool = True) -> None:
        self.source, self.folder, self.classes = source.absolute(), out.absolute() / NOISE, classes
        self.cases = read_source(self.source, classes=classes, show_progress=show_progress)

    def complete(self, grid: Grid) -> Grid:
        """See `CellMasks.complete`: triangles and 100 clean cases where not given."""
        grid = grid.filled(noise=("triangle",), clean=(100,))
        if GIVEN in grid.noise:
            raise ConfigError(f"noise: {GIVEN!r} is for a data folder; {self.source} is a source with known truth: name kinds of noise")
        if all(case.trains for case in self.cases):
            raise DataError(f"{self.source}: has no test cases to measure on: split.csv gives every case a split, `train` or another")
        for clean in grid.clean:
            if clean < 1:
                raise ConfigError(f"clean: numbers from 1, not {clean}")
            split_roles(self.cases, clean=clean, seed=0, source=self.source)
        _check_axes(grid, self.source, volumes=self.cases[0].spacing is not None)
        return grid

    def prepare(self, cell: Cell) -> None:
        if cell.method == CEILING:
            return
        folder = self._noise(cell)
        self.folder.mkdir(exist_ok=True)
        with FileLock(self.folder / f".{folder.name}.lock"):
            if not folder.exists():  # it appears only when it is complete
                simulate(self.source, folder, noise=cell.noise, classes=self.classes, clean=0, seed=cell.seed, show_progress=False)

    def table(self, cell: Cell, *, true: bool = False) -> pd.DataFrame:
        noisy, clean, test = split_roles(self.cases, clean=cell.clean, seed=cell.seed, source=self.source)
        listed = [(case, "noisy", true) for case in noisy]
        listed += [(case, role, True) for role, cases in (("clean", clean), ("test", test)) for case in cases]
        listed += [(case, "noisy", False) for case in clean if not true]
        return _table(self._row(case, role, cell, true=of_truth) for case, role, of_truth in listed)

    def _row(self, case: SourceCase, role: str, cell: Cell, *, true: bool) -> Row:
        mask = case.mask if true else self._noise(cell) / "noisy" / simulated_name(case)
        return case.id, case.image, mask, role, "", len(case.image_files)

    def _noise(self, cell: Cell) -> Path:
        return self.folder / f"{cell.noise}-{cell.seed}"


class FolderMasks:
    """The masks of a user's own data folder or table: the noise as it is, the clean cases or some of them."""

    knows_truth = False

    def __init__(self, data: Path, *, show_progress: bool = True, **layout: Unpack[Layout]) -> None:
        self.data = data
        self.cases: Cases = read_cases(data, may_be_volumes=True, show_progress=show_progress, **layout)
        self.clean = self.cases.of("clean")

    def complete(self, grid: Grid) -> Grid:
        """See `CellMasks.complete`: the noise as it is, and all clean cases where not given."""
        grid = grid.filled(noise=(GIVEN,), clean=(len(self.clean),))
        if grid.noise != (GIVEN,):
            raise ConfigError(f"noise: {self.data} has noisy masks of its own; leave `noise` out (or give a source with images/, masks/)")
        if CEILING in grid.methods:
            raise ConfigError(f"methods: {CEILING!r} needs true masks for all cases, which {self.data} does not have")
        if not self.cases.of("test"):
            raise DataError(f"{self.data}: has no test cases to measure on; `--question` measures on clean cases, by cross-validation")
        for clean in grid.clean:
            if not 1 <= clean <= len(self.clean):
                raise ConfigError(f"clean: {self.data} has {count(len(self.clean), 'clean case')}, so 1 to {len(self.clean)}, not {clean}")
        _check_axes(grid, self.data, volumes=self.cases.volumes)
        return grid

    def prepare(self, cell: Cell) -> None:
        """See `CellMasks.prepare`: nothing is to be made."""

    def table(self, cell: Cell, *, true: bool = False) -> pd.DataFrame:
        assert not true, "the truth of a user's noisy masks is not known"
        if cell.fold is not None:
            return self._fold_table(cell)
        order = generator(cell.seed, "clean").permutation(len(self.clean))
        chosen = self.clean[np.sort(order[: cell.clean])]
        return _table(_rows([*self.cases.of("noisy"), *chosen, *self.cases.of("test")]))

    @cached_property
    def groups(self) -> list[str]:
        """The group of every clean case, or a name of its own."""
        return name_groups(self.clean.texts("id"), self.clean.texts("group"))

    def _fold_table(self, cell: Cell) -> pd.DataFrame:
        """Return the table of a fold: its clean cases are test cases; noisy cases of their groups are left out, and so is test/."""
        assert cell.fold is not None
        tested = assign_folds(self.groups, cell.seed, FOLDS) == cell.fold
        left_out = {case.group for case, out in zip(self.clean, tested, strict=True) if out and case.group}
        rows = [case for case in self.cases.of("noisy") if not case.group or case.group not in left_out]
        clean, test = (self.clean[np.flatnonzero(chosen)] for chosen in (~tested, tested))
        return _table(_rows([*rows, *clean, *(replace(case, role="test", given=None) for case in test)]))


FOLDS = 4


def without_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a row per case: without the noisy masks of clean cases."""
    clean = table["id"][table["role"] == "clean"]
    return table[(table["role"] != "noisy") | ~table["id"].isin(clean)]


def _rows(cases: Iterable[Case]) -> Iterable[Row]:
    for case in cases:
        for mask, role in ((case.mask, case.role), (case.given, "noisy")):
            if mask:
                yield case.id, case.image.absolute(), mask.absolute(), role, case.group or "", case.channels


def _table(rows: Iterable[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*COLUMNS, "group", "channels"])


def _check_axes(grid: Grid, data: Path, *, volumes: bool) -> None:
    """Refuse a grid that is not for the images of these data.

    Raises:
        ConfigError: `image_size` has another number of axes, or a method is for pictures alone.
    """
    held, axes = ("volumes", 3) if volumes else ("pictures", 2)
    for method in grid.methods:
        config = grid.config(Cell(method=method, noise="", clean=0, seed=0))
        if len(config.size) != axes:
            example = "[depth, height, width], of patches" if volumes else "one number or two"
            raise ConfigError(f"image_size = {config.image_size}, and {data} holds {held}: set {example}")
        if volumes and mask_kind(method) == "pruned":
            raise ConfigError(f"methods: {method!r} works on pictures, and {data} holds volumes")
