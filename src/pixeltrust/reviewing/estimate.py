"""AUDIT/estimate.json, in words and as a chart: how good the masks are expected to be, as mending has measured it on the pairs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.text import count, one_line

FILE, FORMAT = "estimate.json", 1
_LEAST_GAIN = 0.005  # a smaller one would be said as .00
WIDTH, HEIGHT = 264, 96  # of the chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 8, 20  # what is around its panel
_LEAST_SPAN = 0.04  # of Dice, from the bottom of the panel to its top


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A mean Dice, with the interval it is in."""

    dice: float
    low: float
    high: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Quality":
        """Return it from plain values.

        Raises:
            KeyError, TypeError, ValueError: it is not there.
        """
        numbers = {name: float(values[name]) for name in ("dice", "low", "high")}
        if wrong := [f"{name} is {number}" for name, number in numbers.items() if not 0 <= number <= 1]:
            raise ValueError(f"{', '.join(wrong)}, not a Dice")
        return cls(**numbers)

    def __str__(self) -> str:
        return f"{_short(self.dice)} ({_short(self.low)} to {_short(self.high)})"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is known of the quality of masks, from so many pairs."""

    pairs: int
    way: str
    given: Quality
    expected: Quality
    below: tuple[float, int]
    """A Dice, and the number of cases that are expected below it."""
    more: tuple[int, float] | None
    """So many further pairs, and the Dice that they would bring."""
    history: tuple[tuple[int, Quality], ...]
    """The expected quality after so many pairs, of every time; the last one is this."""

    def __str__(self) -> str:
        dice, cases = self.below
        if self.way == "given":
            parts = [f"given {self.given} after {self.pairs:,} pairs: nothing is expected to be better, so no mask is changed"]
        else:
            parts = [f"given {_short(self.given.dice)}, expected {self.expected} after {self.pairs:,} pairs"]
        if self.more:
            pairs, gain = self.more
            parts.append(f"{pairs:,} more would bring " + (f"about +{_short(gain)}" if gain >= _LEAST_GAIN else "less than +.01"))
        if cases:
            parts.append(f"{count(cases, 'mask')} {'is' if cases == 1 else 'are'} expected below {_short(dice)}")
        return "; ".join(parts)


def read_estimate(audit: Path) -> Estimate | None:
    """Read the estimate of an audit folder; None where there is none.

    Raises:
        RunError: it cannot be read, or is of a later version.
    """
    file = audit / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] > FORMAT:
            raise RunError(f"{file}: was written by a later pixeltrust (format {values['format']}, this one knows {FORMAT}); update it")
        pairs, expected, below, more = int(values["pairs"]), Quality.of(values["expected"]), values["below"], values["more"]
        return Estimate(
            pairs=pairs,
            way=str(values["way"]),
            given=Quality.of(values["ways"]["given"]),
            expected=expected,
            below=(float(below["dice"]), int(below["cases"])),
            more=(int(more["pairs"]), float(more["gain"])) if more else None,
            history=tuple((int(point["pairs"]), Quality.of(point)) for point in values["history"]) or ((pairs, expected),),
        )
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise RunError(f"{file}: not an estimate: it has no {error}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {one_line(error)}; mend again to make it anew") from None


@dataclass(frozen=True, kw_only=True)
class EstimateChart:
    """Where the expected quality lies over the pairs, in the units of the chart."""

    line: str
    """The points of the line, as SVG has them."""
    band: str
    """The corners of its interval."""
    points: list[tuple[float, float, float, float]]
    """x, and the y of the Dice and of both ends of its interval."""
    levels: list[tuple[float, str]]
    """The y of lines across, with their Dice."""
    ticks: list[tuple[float, str]]
    """The x of numbers of pairs."""
    text: str


def draw_estimate(estimate: Estimate) -> EstimateChart:
    """Lay out the chart of an estimate's history; with a single point it is a mark with its interval."""
    counts, qualities = zip(*sorted(estimate.history, key=lambda point: point[0]), strict=True)
    low, high = min(quality.low for quality in qualities), max(quality.high for quality in qualities)
    middle, half = (low + high) / 2, max(high - low, _LEAST_SPAN) / 2 * 1.1
    first, span = counts[0], counts[-1] - counts[0]

    def across(pairs: int) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * ((pairs - first) / span if span else 0.5), 1)

    def down(dice: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (middle + half - dice) / (2 * half), 1)

    points = [(across(pairs), down(q.dice), down(q.low), down(q.high)) for pairs, q in zip(counts, qualities, strict=True)]
    return EstimateChart(
        line=" ".join(f"{x},{y}" for x, y, _, _ in points),
        band=" ".join([f"{x},{top}" for x, _, _, top in points] + [f"{x},{bottom}" for x, _, bottom, _ in reversed(points)]),
        points=points,
        levels=[(down(dice), _short(dice)) for dice in _levels(middle - half, middle + half)],
        ticks=[(across(pairs), f"{pairs:,}") for pairs in dict.fromkeys([counts[0], counts[-1]])],
        text="Expected Dice by pairs: " + ", ".join(f"{pairs:,}: {q}" for pairs, q in zip(counts, qualities, strict=True)),
    )


def _levels(low: float, high: float) -> list[float]:
    """Return two to five round numbers of Dice within a range."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / step <= 5)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(dice: float) -> str:
    """Return a Dice with two decimals and no zero before the point."""
    return f"{dice:.2f}".removeprefix("0")
