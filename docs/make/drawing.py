"""The style of the pictures on the pages: one line for one kind of mask, in colours that the colour-blind can tell apart."""

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LINES = {"given": ("#f0e442", "solid"), "mended": ("#56b4e9", "solid"), "true": ("white", "dashed")}
"""Colour and style of the outline of a mask. Every outline has a black edge, so that it shows on skin and on black."""


def draw_mask(axis: plt.Axes, mask: np.ndarray, name: str) -> None:
    """Draw the outline of a mask (H, W) of the kind `name`."""
    colour, style = LINES[name]
    if mask.any() and not mask.all():
        axis.contour(mask, [0.5], colors="black", linewidths=3.5)
        axis.contour(mask, [0.5], colors=colour, linestyles=style, linewidths=2)
    axis.set_axis_off()


def add_legend(figure: plt.Figure, names: Iterable[str], *, place: tuple[float, float] = (0.5, 0)) -> None:
    """Put a legend of the outlines at the foot of a figure, centred at `place`."""
    lines = [plt.Line2D([], [], color=LINES[name][0], linestyle=LINES[name][1], linewidth=2.5, label=f"{name} mask") for name in names]
    legend = figure.legend(handles=lines, ncols=len(lines), loc="lower center", bbox_to_anchor=place, facecolor="0.4", fontsize=11)
    plt.setp(legend.get_texts(), color="white")


def save(figure: plt.Figure, name: str, dpi: int = 90) -> None:
    """Write a figure as docs/pictures/<name>.png, in 256 colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(256).save(Path(__file__).parents[1] / "pictures" / f"{name}.png", optimize=True)
