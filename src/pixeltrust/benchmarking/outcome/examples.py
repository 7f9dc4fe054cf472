"""Test cases to look at: from the one in which the best method loses the most to another identity, to the one in which it wins the most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.benchmarking.grid import CEILING
from pixeltrust.benchmarking.outcome.statistics import BASE
from pixeltrust.benchmarking.outcome.weight_pictures import read_files
from pixeltrust.benchmarking.outcome.words import OURS, list_competitors, name_group, select_group
from pixeltrust.data.images import mask_name, read_shown
from pixeltrust.data.masks import foreground
from pixeltrust.pages.pieces import evenly_spread
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.training.run_folder import Run

PREDICTIONS = 4  # of a case


@dataclass(frozen=True, kw_only=True)
class Example:
    """A group and a seed whose predicted masks are shown."""

    title: str
    seed: int
    better: str
    """The best method of the group."""
    worse: str
    """`plain`, or the second; the difference between the two orders the cases."""
    folders: dict[str, Path]
    """The cells of the methods that are shown, the best first."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TestedCase:
    """A test case with the predictions of some methods."""

    id: str
    image: np.ndarray
    """uint8 (H, W, 3); of a volume, as the masks, the slice where the true mask is largest."""
    true: np.ndarray
    """bool (H, W)"""
    masks: dict[str, np.ndarray]
    """bool (H, W), by method."""
    dice: dict[str, float]
    """One number per method."""


def choose_example(groups: Sequence[pd.DataFrame], cells: pd.DataFrame) -> Example | None:
    """Return the first group and seed in which the best method and another one are done; None where there is none.

    Args:
        groups: see `words.split_groups`.
        cells: see `BenchmarkResults`.
    """
    for group in groups:
        names = [row.method for row in list_competitors(group)]
        for seed, folders in _folders(cells, group).items():
            done = [name for name in names if name in folders]
            if len(done) > 1 and done[0] == names[0]:
                worse = BASE if BASE in done[1:] else done[1]
                wanted = dict.fromkeys([done[0], worse, OURS, *done[1:], CEILING])
                shown = [name for name in wanted if name in folders][:PREDICTIONS]
                shown.sort(key=[*names, CEILING].index)
                of_shown = {name: folders[name] for name in shown}
                return Example(title=name_group(group), seed=seed, better=done[0], worse=worse, folders=of_shown)
    return None


def _folders(cells: pd.DataFrame, group: pd.DataFrame) -> dict[int, dict[str, Path]]:
    """Return the folders of the finished cells of a group (of its first fold, where there are folds), by seed and method."""
    cells = select_group(cells, group)
    done = cells[(cells["status"] == "done") & (cells["fold"] == cells["fold"].min())]
    folders: dict[int, dict[str, Path]] = {}
    for row in done.to_dict("records"):
        folders.setdefault(row["seed"], {})[row["method"]] = Path(row["folder"])
    return folders


def read_tested_cases(example: Example, most: int) -> Iterator[TestedCase]:
    """Yield cases spread evenly over the order of the difference; the one in which the best method loses the most comes first.

    Cases whose files are gone are left out.

    Raises:
        RunError: the records of the cells cannot be read.
    """
    tables = {method: pd.read_csv(folder / "test.csv", dtype={"id": str}) for method, folder in example.folders.items()}
    dice = {method: table.set_index("id")["dice"] for method, table in tables.items()}
    config = Run(example.folders[example.better] / "run").config()
    paths = read_files(example.folders[example.better] / "cases.csv")
    for identity in evenly_spread(dice[example.better] - dice[example.worse], most):
        try:
            (image, file), methods = paths[identity], list(example.folders)
            true, name = foreground(file, config), mask_name(identity, image)
            predicted = [foreground(folder / "predicted" / name, config) for folder in example.folders.values()]
            shown, (true, *masks) = read_shown(image, [true, *predicted], true)
        except (PixeltrustError, KeyError):
            continue
        scores = {method: float(values.get(identity, np.nan)) for method, values in dice.items()}
        yield TestedCase(id=identity, image=shown, true=true, masks=dict(zip(methods, masks, strict=True)), dice=scores)
