"""Charts and image panels, as text (SVG) or bytes (PNG) that a page can hold.

Charts are SVG pictures with real text that follow the reader's light or dark setting by themselves; every one is small enough to
be legible on a phone. Panels are PNG pictures of one case, enlarged, with outlines or weights on them. Nothing here touches pyplot.

    image    uint8 (H, W, 3)
    mask     bool (H, W)
    weights  float (H, W), in multiples of the average weight: 1 is average, 0 is left out
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from skimage.segmentation import find_boundaries

from pixeltrust.metrics import bootstrap_interval, mean_of_defined

WIDTH, HEIGHT = 3.9, 2.55  # inches of one chart; at 96 px an inch 374 px, the width of a phone
PRINTED_DPI = 160  # of the PNG pictures
PANEL_PIXELS = 256  # the longer side of a panel
_DASH = 7  # pixels of a panel
MOST = 8.0  # the weight, in averages, at which the colours of `heat` end

# Okabe and Ito's palette, told apart by all common kinds of colour vision; the second of each pair is for dark pages.
COLOURS = {
    "plain": ("#c25200", "#f0a030"),
    "pixel": ("#0072b2", "#56b4e9"),
    "clean": ("#00805f", "#22c19a"),
    "joint": ("#a8497c", "#dd92bb"),
    "robust": ("#7a6a00", "#d2c04a"),
    "own": ("#6a4fb3", "#b3a2f2"),
    "ink": ("#1c1b19", "#eceae4"),
    "faint": ("#77736a", "#a29e94"),
    "line": ("#dcd8cf", "#3b3a36"),
}
FAMILIES = {
    "plain": ("plain",),
    "clean": ("clean", "finetuned"),
    "joint": ("joint",),
    "pixel": ("trust", "pixel", "image", "pixel+clean"),
    "robust": ("dice-ce", "gce", "mae", "nr-dice", "sce", "t-loss", "pruned", "mean-teacher"),
    "ink": ("ceiling",),
}
"""Methods that share a colour; `marker_of` tells them apart. Any other name is a method of somebody's own."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "d")
OUTLINES = {
    "noisy": (240, 228, 66),
    "true": (255, 255, 255),
    "plain": (240, 140, 30),
    "trust": (70, 180, 255),
    "predicted": (70, 180, 255),
    "mended": (70, 180, 255),
}
_QUANTITIES = {
    "loss": "Loss on the training batches",
    "val_dice": "Dice on the held-out clean cases",
    "zero_share": "Share of pixels with weight 0",
    "effective_pixels": "Effective pixels in a batch: 1 / Σ w²",
}
_FROM_ZERO = ("zero_share", "effective_pixels")
_ANCHORS = ((0.0, "#7f3b08"), (0.25, "#d0832c"), (0.5, "#f4f1ea"), (0.75, "#4c8fbd"), (1.0, "#08315e"))
_HEAT = LinearSegmentedColormap.from_list("weights", _ANCHORS)
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pixeltrust",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its words."""

    title: str
    svg: str
    text: str
    """What the picture shows, for those who do not see it."""


def training_curves(histories: Mapping[str, pd.DataFrame]) -> list[Chart]:
    """The curves of one or several runs over their updates, a chart per quantity; a quantity that no run has is left out.

    Args:
        histories: history.csv by the name of the run (its method, where there is one run of it).
    """
    charts = [_curves(column, title, histories) for column, title in _QUANTITIES.items()]
    return [chart for chart in charts if chart is not None]


def dice_strips(scores: Mapping[str, np.ndarray]) -> Chart:
    """Every case's Dice as a dot, one row per method, with the mean and its 95 % interval; NaN are left out."""
    figure, axes = _chart(height=max(HEIGHT, 0.75 + 0.75 * len(scores)))
    spread = np.random.default_rng(0)
    words = []
    for row, (name, values) in enumerate(scores.items()):
        defined = np.asarray(values)[~np.isnan(values)]
        (low, high), mean = bootstrap_interval(defined), mean_of_defined(defined)
        axes.scatter(defined, row + spread.uniform(-0.17, 0.17, len(defined)), s=9, color=_colour(name), alpha=0.5, linewidths=0)
        axes.plot([low, high], [row, row], color=ink("ink"), linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, row, marker="D", markersize=5, color=ink("ink"))
        axes.text(0.0, row - 0.3, f"{name}  mean {mean:.3f}", transform=axes.get_yaxis_transform(), color=_colour(name), fontweight="bold")
        words.append(f"{name}: mean {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, {len(defined)} cases")
    axes.set(ylim=(len(scores) - 0.6, -0.6), yticks=[], xlabel="Dice, a dot per test case")
    axes.spines["left"].set_visible(False)
    return Chart(title="Dice of every test case", svg=svg(figure), text="; ".join(words))


def differences(values: np.ndarray, *, better: str, worse: str) -> Chart:
    """The paired differences in Dice, sorted, a bar per case, coloured by the method that did better; NaN are left out."""
    ordered = np.sort(np.asarray(values)[~np.isnan(values)])
    figure, axes = _chart()
    names = np.where(ordered > 0, better, worse)
    axes.bar(np.arange(len(ordered)), ordered, width=1.0, color=[_colour(name) for name in names])
    axes.axhline(0, color=ink("ink"), linewidth=0.8)
    won, lost = int((ordered > 0).sum()), int((ordered < 0).sum())
    bold: Any = {"transform": axes.transAxes, "fontweight": "bold"}
    axes.text(0.98, 0.96, f"{better} better: {won}", ha="right", va="top", color=_colour(better), **bold)
    axes.text(0.02, 0.04, f"{worse} better: {lost}", va="bottom", color=_colour(worse), **bold)
    axes.set(xticks=[], xlabel="test cases, sorted", xlim=(-0.6, len(ordered) - 0.4))
    axes.margins(y=0.2)
    text = f"{better} is better in {won} and {worse} in {lost} of {len(ordered)} cases"
    return Chart(title=f"Dice of {better} minus {worse}, case by case", svg=svg(figure), text=text)


def heat_legend() -> Chart:
    """What the colours of `heat` mean."""
    figure, axes = _chart(height=0.72)
    axes.imshow(_HEAT(np.linspace(0, 1, 256))[None], extent=(0, 1, 0, 1), aspect="auto")
    marks = [0.0, 0.5, 1.0, 2.0, 4.0, MOST]
    axes.set(yticks=[], xticks=_position(np.array(marks)), xticklabels=["0", "½", "1 (average)", "2", "4", f"{MOST:g}+"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    text = f"brown: weight 0, left out; pale: the average weight; dark blue: {MOST:g} times the average or more"
    return Chart(title="Weight of a pixel, in multiples of the average", svg=svg(figure), text=text)


def overlay(image: np.ndarray, masks: Mapping[str, np.ndarray] | None = None) -> bytes:
    """The image, enlarged, with the outlines of masks on it, as PNG.

    Args:
        image: uint8 (H, W, 3).
        masks: bool (H, W), by a name of `OUTLINES`; later ones are drawn over earlier ones.
    """
    size = _panel_size(image.shape[0], image.shape[1])
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).copy()
    for name, mask in (masks or {}).items():
        line = find_boundaries(_enlarged(mask.astype(np.float32), size) > 0.5, mode="thick")
        picture[_thicker(_thicker(line))] = 20
        picture[_thicker(line)] = OUTLINES[name]
    return _png(picture)


def heat(
    weights: np.ndarray, mask: np.ndarray | None = None, *, true: np.ndarray | None = None, shape: tuple[int, int] | None = None
) -> bytes:
    """Weights as colours, as PNG: brown below the average, blue above it, the outline of `mask` in black, that of `true` broken.

    The colours run evenly from 0 to 1 and by the logarithm from 1 to `MOST`.

    Args:
        weights: float (H, W), in multiples of the average.
        mask: bool, of any size; the mask whose pixels are weighed.
        true: bool, of any size; the true mask.
        shape: (height, width) whose proportions the picture has; those of `weights` where not given.
    """
    size = _panel_size(*(shape or weights.shape))
    place = _position(_enlarged(weights.astype(np.float32), size, Image.Resampling.NEAREST))
    picture = (_HEAT(place)[..., :3] * 255).round().astype(np.uint8)
    if true is not None:
        rows, columns = np.indices(picture.shape[:2])
        picture[_thicker(_inner_line(true, size)) & ((rows + columns) // _DASH % 2 == 0)] = 0
    if mask is not None:
        picture[_thicker(_inner_line(mask, size))] = 0
    return _png(picture)


def doubt_heat(doubt: np.ndarray, mask: np.ndarray | None = None, *, under: np.ndarray | None = None) -> bytes:
    """Draw doubt as colours, as PNG: dark brown for certainly wrong, pale for ½, nothing where it is 0; the outline of `mask` in black.

    Args:
        doubt: float (H, W), the probability that a label is wrong, 0 … 1.
        mask: bool (H, W).
        under: uint8 (H, W, 3), an image to show, in grey, where there is no doubt.
    """
    size = _panel_size(*doubt.shape)
    enlarged = _enlarged(doubt.astype(np.float32), size)
    ground = np.full((*enlarged.shape, 3), 255.0)
    if under is not None:
        grey = np.asarray(Image.fromarray(under).convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)
        ground = np.repeat(128 + grey[..., None] / 2, 3, axis=2)
    cover = (enlarged.clip(0, 1) ** 0.7)[..., None]
    colours = _HEAT((0.5 * (1 - enlarged)).clip(0, 0.5))[..., :3] * 255
    picture = (cover * colours + (1 - cover) * ground).round().astype(np.uint8)
    if mask is not None:
        picture[_thicker(_inner_line(mask, size))] = 0
    return _png(picture)


def histogram(values: np.ndarray, *, title: str, axis: str, text: str, bins: int = 20) -> Chart:
    """How values of 0 … 1 are spread."""
    figure, axes = _chart()
    axes.hist(values, bins=np.linspace(0, 1, bins + 1).tolist(), color=_colour("pixel"))
    axes.set(xlabel=axis, ylabel="cases", xlim=(0, 1))
    return Chart(title=title, svg=svg(figure), text=text)


def _inner_line(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return find_boundaries(_enlarged(mask.astype(np.float32), size) > 0.5, mode="inner")


def _position(weights: np.ndarray) -> np.ndarray:
    """Where weights lie on the scale of colours, 0 to 1; the average is in the middle."""
    above = np.log(weights.clip(1, MOST)) / np.log(MOST)
    return 0.5 * (weights.clip(0, 1) + above)


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """(width, height), as Pillow has it."""
    scale = PANEL_PIXELS / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _enlarged(values: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, how))


def _thicker(line: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(line)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _curves(column: str, title: str, histories: Mapping[str, pd.DataFrame]) -> Chart | None:
    known = {name: table[["update", column]].dropna() for name, table in histories.items() if column in table}
    known = {name: table for name, table in known.items() if len(table)}
    if not known:
        return None
    figure, axes = _chart()
    for name, table in known.items():
        axes.plot(table["update"], table[column], color=_colour(name), linewidth=2, marker="o", markersize=3 if len(table) < 40 else 0)
    if column in _FROM_ZERO:
        axes.set_ylim(0, max(table[column].max() for table in known.values()) * 1.15 or 1)
    if column == "zero_share":
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
    if column == "effective_pixels":
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.set_xlabel("updates")
    axes.set_xlim(left=0)
    _label_ends(axes, {name: (table["update"].iloc[-1], table[column].iloc[-1]) for name, table in known.items()})
    ends = "; ".join(f"{name}: {table[column].iloc[0]:.4g} at first, {table[column].iloc[-1]:.4g} at last" for name, table in known.items())
    return Chart(title=title, svg=svg(figure), text=f"{title} over the updates. {ends}")


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """The name of each line beside its end; pushed apart where they would touch."""
    low, high = axes.get_ylim()
    gap, last = 0.11 * (high - low), -np.inf
    for name, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        last = max(y, last + gap)
        beside: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, last), color=_colour(name), fontweight="bold", **beside)


def _chart(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure, (axes,) = panels(1, height=height)
    return figure, axes


def panels(number: int, *, height: float = HEIGHT, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with several charts side by side, each as wide as a phone."""
    columns = min(columns, number)
    rows = -(-number // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        every = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    for axes in every:
        axes.tick_params(colors=ink("faint"), length=0)
        axes.xaxis.label.set_color(ink("faint"))
        axes.yaxis.label.set_color(ink("faint"))
        for spine in axes.spines.values():
            spine.set_color(ink("line"))
        axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    return figure, every


def family_of(method: str) -> str:
    """The name of its colour."""
    return next((family for family, methods in FAMILIES.items() if method in methods), "own")


def marker_of(method: str, among: Sequence[str]) -> str:
    """A shape that no other method of its colour has.

    Args:
        among: all methods there are, in an order that stays.
    """
    family = family_of(method)
    members = FAMILIES.get(family) or [one for one in among if family_of(one) == family]
    return MARKERS[list(members).index(method) % len(MARKERS)]


def _colour(name: str) -> str:
    """The light colour of a method, or of a run that carries its name."""
    family = family_of(name)
    return ink("pixel" if family == "own" else family)


def ink(name: str) -> str:
    """The light colour of a name of `COLOURS`, which `svg` puts in the reader's hands."""
    return COLOURS[name][0]


def png(figure: Figure) -> bytes:
    """A picture on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="png", dpi=PRINTED_DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure) -> str:
    """SVG text whose colours follow the reader's setting and whose fonts are the reader's."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    for name, (light, _) in COLOURS.items():
        text = re.sub(light, f"var(--{name})", text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return _with_themes(text[text.index("<svg") :])


def _with_themes(svg: str) -> str:
    end = svg.index(">") + 1
    return f"{svg[:end]}<style>{_themes()}</style>{svg[end:]}"


def _themes() -> str:
    light, dark = (";".join(f"--{name}:{pair[index]}" for name, pair in COLOURS.items()) for index in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
