"""The pieces of a page: numbers with intervals, pictures with captions, and the templates that hold them."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from pixeltrust import __version__
from pixeltrust.config import Config
from pixeltrust.metrics import bootstrap_interval
from pixeltrust.pages.numbers import format_range
from pixeltrust.pages.pictures import draw_heat, draw_overlay, png_source
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import write_file


@dataclass(frozen=True, kw_only=True)
class Number:
    """A mean with its interval, as a page shows it."""

    what: str
    value: str
    interval: str
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a case with its caption; a dash where there is no picture."""

    title: str
    text: str
    """What the picture shows, for those who do not see it."""
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class GalleryCase:
    """A case in pictures."""

    title: str
    panels: list[Panel]
    note: str = ""


def draw_outlines(title: str, text: str, image: np.ndarray, *, note: str = "", **masks: np.ndarray) -> Panel:
    """Draw an image with the outlines of masks, each by a name of `pictures.OUTLINES`."""
    return Panel(title=title, text=text, source=png_source(draw_overlay(image, masks)), note=note)


def draw_weights(
    title: str,
    identity: str,
    weights: np.ndarray,
    mask: np.ndarray | None,
    *,
    true: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
) -> Panel:
    """Draw the weights of a case, see `pictures.draw_heat`."""
    zero = float((weights == 0).mean())
    text = f"the weights of {identity}: {zero:.0%} of its pixels have weight 0, the largest is {float(weights.max()):.1f} times the average"
    source = png_source(draw_heat(weights.astype(np.float32), mask, true=true, shape=shape))
    return Panel(title=title, text=text, source=source, note=f"{zero:.0%} at 0")


def cases_by_role(cases: pd.DataFrame) -> dict[str, int]:
    """Count the cases of a run by role; those that are held out are counted apart."""
    held = cases["held_out"].astype(str).str.lower() == "true"
    roles = cases["role"][~held].value_counts()
    return {role: int(roles.get(role, 0)) for role in ("noisy", "clean", "test")} | {"held out": int(held.sum())}


def list_settings(config: Config, leave_out: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the settings that have a value, as names and texts."""
    values = {name: value for name, value in asdict(config).items() if value not in (None, "") and name not in leave_out}
    shown = {float: lambda value: f"{value:.4g}", tuple: lambda value: " × ".join(map(str, value))}
    return [(name, shown.get(type(value), str)(value)) for name, value in values.items()]


def idle_notes(history: pd.DataFrame) -> Iterable[str]:
    """Yield a note where there were steps in which all weights were 0."""
    idle, updates = int(history["all_zero_steps"].sum()), int(history["update"].iloc[-1])
    if idle:
        yield (
            f"In {idle:,} of {updates:,} steps ({idle / updates:.0%}) no noisy pixel would have lowered the loss on the clean batch, "
            "so all weights were 0 and nothing was learned from the noisy masks. Where that happens often, they have nothing more to "
            "teach, or contradict the clean ones."
        )


def seconds_per_update(history: pd.DataFrame) -> float:
    """Return the mean over a whole training."""
    return float(history["seconds"].iloc[-1] / history["update"].iloc[-1])


def count_cases(number: int, kind: str) -> str:
    """Return such as "3 noisy cases"."""
    return f"{number:,} {kind} {'case' if number == 1 else 'cases'}"


def format_interval(values: np.ndarray, *, digits: int = 3, signed: bool = False) -> str:
    """Return the 95 % bootstrap interval of the mean of values."""
    return format_range(*bootstrap_interval(values), digits=digits, signed=signed)


def typical_and_worst(values: pd.Series, typical: int, worst: int) -> tuple[list[str], list[str]]:
    """Return ids (the index) from the middle of the order of their values, and those of the lowest, the lowest first; NaN are left out."""
    ordered = [str(identity) for identity in values.dropna().sort_values(kind="stable").index]
    worst = min(worst, len(ordered) // 2)
    lowest, others = ordered[:worst], ordered[worst:]
    start = max(0, (len(ordered) - typical) // 2 - len(lowest))
    return others[start : start + typical], lowest


def evenly_spread(values: pd.Series, most: int) -> list[str]:
    """Return ids (the index), evenly spread over the order of their values; NaN are left out."""
    ordered = values.dropna().sort_values(kind="stable").index
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [str(ordered[place]) for place in places]


def with_marks(text: str) -> Markup:
    """Return a text as HTML: `code` and **bold** are marked up, everything else is text."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked))


def render_page(template: str, **values: Any) -> str:
    """Return a page as HTML text."""
    return _templates().get_template(template).render(version=__version__, **values)


@cache
def _templates() -> jinja2.Environment:
    """Return the templates of the pages, each of which is compiled once."""
    loader = jinja2.PackageLoader("pixeltrust", "pages/templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["marks"] = with_marks
    return pages


def write_page(html: str, out: Path) -> Path:
    """Write a page, and return its file.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_file(out, html)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out
