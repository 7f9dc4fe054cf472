"""How good the masks of a review are expected to be (AUDIT/estimate.json, see `mending.estimate`), in words and as a chart of the page."""

import math
from dataclasses import dataclass

from pixeltrust.mending.estimate import Estimate, Quality, short
from pixeltrust.plumbing.text import count

WIDTH, HEIGHT = 264, 96  # of the chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 8, 20  # what is around its panel
_LEAST_SPAN = 0.04  # of Dice, from the bottom of the panel to its top
_LEAST_GAIN = 0.005  # a smaller one would be said as .00


def describe_estimate(estimate: Estimate) -> str:
    """Return an estimate in words, with what more pairs would bring, and how many masks are still bad."""
    parts = [estimate.sentence()]
    if estimate.more:
        gain = estimate.more["gain"]
        brought = f"about +{short(gain)}" if gain >= _LEAST_GAIN else "less than +.01"
        parts.append(f"{estimate.more['pairs']:,} more would bring {brought}")
    if cases := int(estimate.below["cases"]):
        parts.append(f"{count(cases, 'mask')} {'is' if cases == 1 else 'are'} expected below {short(estimate.below['dice'])}")
    if estimate.beyond:
        parts.append(estimate.doubt())
    return "; ".join(parts)


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


def draw_estimate(estimate: Estimate) -> EstimateChart | None:
    """Lay out the chart of an estimate's history; a single point is a mark with its interval. None where no Dice is defined."""
    course = {int(row["pairs"]): Quality(dice=row["dice"], low=row["low"], high=row["high"]) for row in estimate.history}
    course = {pairs: course[pairs] for pairs in sorted(course) if math.isfinite(course[pairs].high - course[pairs].low)}
    if not course:
        return None
    low, high = min(quality.low for quality in course.values()), max(quality.high for quality in course.values())
    middle, half = (low + high) / 2, max(high - low, _LEAST_SPAN) / 2 * 1.1
    first, last = min(course), max(course)

    def across(pairs: int) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * ((pairs - first) / (last - first) if last > first else 0.5), 1)

    def down(dice: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (middle + half - dice) / (2 * half), 1)

    points = [(across(pairs), down(quality.dice), down(quality.low), down(quality.high)) for pairs, quality in course.items()]
    said = [f"{pairs:,}: {short(each.dice)} ({short(each.low)} to {short(each.high)})" for pairs, each in course.items()]
    return EstimateChart(
        line=" ".join(f"{x},{y}" for x, y, _, _ in points),
        band=" ".join([f"{x},{top}" for x, _, _, top in points] + [f"{x},{bottom}" for x, _, bottom, _ in reversed(points)]),
        points=points,
        levels=[(down(dice), short(dice)) for dice in _levels(middle - half, middle + half)],
        ticks=[(across(pairs), f"{pairs:,}") for pairs in dict.fromkeys([first, last])],
        text=f"Expected Dice by the number of pairs: {', '.join(said)}",
    )


def _levels(low: float, high: float) -> list[float]:
    """Return up to five round numbers of Dice within a range."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / step <= 5)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
