"""The weights of fixed images early, midway and late in training, beside the noisy and the true mask."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from pixeltrust.benchmarking.outcome.figures import Drawing
from pixeltrust.benchmarking.outcome.words import OURS
from pixeltrust.data.images import read_image
from pixeltrust.data.masks import foreground
from pixeltrust.pages.charts import LETTER, ink, new_panels
from pixeltrust.pages.pictures import HEAT, MOST, draw_heat, draw_overlay
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.plumbing.tables import read_table
from pixeltrust.training.run_folder import Run

SIDE = 1.25  # inches of a picture
CASES = 4  # in the figure


@dataclass(frozen=True, eq=False, kw_only=True)
class WeighedCase:
    """A noisy training case and its weights."""

    id: str
    image: np.ndarray
    """uint8 (H, W, 3)"""
    noisy: np.ndarray
    """bool (H, W)"""
    true: np.ndarray | None
    """bool (H, W), where it is known."""
    epochs: list[int]
    maps: np.ndarray
    """(E, h, w), in multiples of the average weight."""


def find_cell_with_maps(cells: pd.DataFrame) -> Path | None:
    """Return the folder of the first finished cell of `trust` that kept weight maps of pictures, or else of any method."""
    done = cells[cells["status"] == "done"]
    folders = [Path(folder) for ours in (True, False) for folder in done.loc[(done["method"] == OURS) == ours, "folder"]]
    return next((folder for folder in folders if _has_maps(Run(folder / "run"))), None)


def _has_maps(run: Run) -> bool:
    return (run.folder / "weight_maps.npz").is_file() and len(run.config().size) == 2


def read_weighed_cases(folder: Path, most: int) -> Iterator[WeighedCase]:
    """Yield cases of a cell with their weights after the first, a middle and the last epoch; cases whose files are gone are left out.

    Raises:
        RunError: the records of the run cannot be read.
    """
    run = Run(folder / "run")
    config, (epochs, maps, _) = run.config(), run.weight_maps_over_time()
    paths, truths = (read_files(folder / name) for name in ("cases.csv", "truth.csv"))
    for identity in list(maps)[:most]:
        try:
            image, noisy = read_image(paths[identity][0]), foreground(paths[identity][1], config)
            true = foreground(truths[identity][1], config) if identity in truths else None
        except (PixeltrustError, KeyError):
            continue
        yield WeighedCase(id=identity, image=image, noisy=noisy, true=true, epochs=epochs, maps=maps[identity].astype(np.float32))


def read_files(table: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of image and mask of every case of a table; none where there is no table."""
    if not table.is_file():
        return {}
    return {row["id"]: (Path(row["image"]), Path(row["mask"])) for row in read_table(table).to_dict("records")}


def maps_figure(cases: Sequence[WeighedCase], heading: str) -> Drawing:
    """Draw a row per case: its image, its noisy and its true mask, and its weights."""
    columns = 3 + max(len(case.epochs) for case in cases)
    figure, axes = new_panels(len(cases) * columns, columns=columns)
    figure.set_size_inches(SIDE * columns, (SIDE + 0.1) * len(cases) + 0.5)
    for row, case in enumerate(cases):
        shown = axes[row * columns : (row + 1) * columns]
        for panel, (what, picture) in zip(shown, _pictures(case), strict=False):
            panel.imshow(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
            if row == 0:
                panel.set_title(what, fontsize=LETTER, color=ink("ink"))
        for panel in shown:
            panel.set_axis_off()
    add_weight_bar(figure)
    zeros = (f"{case.id}: " + ", ".join(f"{(weights == 0).mean():.0%}" for weights in case.maps) for case in cases)
    text = f"share of pixels with weight 0 after epochs {', '.join(map(str, cases[0].epochs))}. " + "; ".join(zeros)
    return Drawing(name="weight-maps", title=heading, text=text, figure=figure)


def add_weight_bar(figure: Figure) -> None:
    """Put the colours of weights at the foot of a figure, and what the lines are."""
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), ax=figure.axes, orientation="horizontal", fraction=0.02, aspect=40, pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["weight 0: left out", "the average", f"{MOST:g} times that"])
    bar.ax.tick_params(labelsize=LETTER - 1, colors=ink("faint"))
    bar.set_label("line: noisy mask; broken line: true mask", fontsize=LETTER - 1, color=ink("faint"))


def _pictures(case: WeighedCase) -> Iterator[tuple[str, bytes]]:
    yield "image", draw_overlay(case.image)
    yield "noisy mask", draw_overlay(case.image, {"noisy": case.noisy})
    yield "true mask", draw_overlay(case.image, {"true": case.true} if case.true is not None else {})
    for epoch, weights in zip(case.epochs, case.maps, strict=True):
        yield f"epoch {epoch}", draw_heat(weights, case.noisy, true=case.true, shape=case.image.shape[:2])
