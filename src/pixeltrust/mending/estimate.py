"""How good masks are expected to be: measured on pairs by menders that have not seen them, and carried over to the other masks.

A pair says what the Dice of each way of treating its mask really is; the soft Dice with what the mender saw (see `ways`) is known of
every mask. A calibration joins the two, and gives every mask an expected Dice. Among the masks these are spread by how far the menders
agree (see `spread`). Their mean is corrected by how far the calibration is off on the pairs, and its interval is that of this correction
(prediction-powered inference: Angelopoulos et al., Science 382, 2023). It holds as far as the pairs are like the other masks: drawn at
random, not picked for being bad.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from pixeltrust.mending.ways import ALONE, WAYS, Way
from pixeltrust.metrics import standard_error, student_factor
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import write_file
from pixeltrust.plumbing.text import count, one_line

FILE, FORMAT = "estimate.json", 2
LOW_DICE = 0.7  # masks that are expected below it are counted
MORE_PAIRS = 20
_SURE = 1.0  # standard errors by which a way must be ahead, on the same pairs, of the one that it takes the place of
_PRIOR = 4.0  # pairs whose weight the prior of the calibration has: that the soft Dice is right but for a shift
_CHANCE = 0.05  # with which pairs that are drawn at random look so much better than the other masks
_FAR = 0.02  # Dice by which masks that look worse than every pair are so in the mean, where it is worth a word
_ENDS = 1e-3  # Dice are kept this far from 0 and 1

Kind: TypeAlias = Literal["usual", "stronger", "alone"]
"""Of menders: the usual ones; stronger ones; stronger ones that see the images alone (see `Config.stronger_below`)."""
Measured: TypeAlias = Mapping[Way, np.ndarray]
"""Per way (N, 2): the Dice with the truth (NaN where it is not defined), and the soft Dice. `mender` is missing of menders that see the
images alone."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A mean Dice, and its 95 % interval."""

    dice: float
    low: float
    high: float


def mean_interval(values: np.ndarray, groups: Sequence[str] | None = None) -> Quality:
    """Return the mean of values that are defined, and its interval by Student's t; cases of one group count as one draw.

    Args:
        values: (N,), NaN where not defined.
        groups: the group of each; all are their own where not given.
    """
    if np.isnan(values).all():
        return Quality(dice=math.nan, low=math.nan, high=math.nan)
    return _quality(float(np.nanmean(values)), *standard_error(values, groups))


def _quality(mean: float, error: float, draws: int) -> Quality:
    """Return a mean with its interval by Student's t, both within 0 … 1."""
    half = error * student_factor(draws)
    return Quality(dice=min(max(mean, 0.0), 1.0), low=max(0.0, mean - half), high=min(1.0, mean + half))


@dataclass(frozen=True)
class Calibration:
    """The Dice to expect of a mask with a soft Dice: a straight line between their log odds, and a shift that keeps the mean right."""

    level: float
    slope: float
    shift: float

    @classmethod
    def of(cls, dice: np.ndarray, soft: np.ndarray) -> "Calibration":
        """Fit it to pairs, (N,) each; pairs without a Dice are left out. A prior holds the slope near 1 where there are few."""
        defined = ~np.isnan(dice)
        x, y = _log_odds(soft[defined]), _log_odds(dice[defined])
        if not len(x):
            return cls(0.0, 1.0, 0.0)
        around = x - x.mean()
        prior = _PRIOR * max(float(around.var()), 0.05)
        slope = max(0.0, float((around * (y - y.mean())).sum() + prior) / float((around**2).sum() + prior))
        fitted = cls(float(y.mean() - slope * x.mean()), slope, 0.0)
        return cls(fitted.level, fitted.slope, float(dice[defined].mean() - fitted.expect(soft[defined]).mean()))

    def expect(self, soft: np.ndarray) -> np.ndarray:
        """Return the expected Dice (N,), 0 … 1."""
        return np.clip(_share(self.level + self.slope * _log_odds(soft)) + self.shift, 0, 1)


def _log_odds(values: np.ndarray) -> np.ndarray:
    inside = np.clip(values, _ENDS, 1 - _ENDS)
    return np.log(inside / (1 - inside))


def _share(log_odds: np.ndarray) -> np.ndarray:
    shares: np.ndarray = 1 / (1 + np.exp(-log_odds))
    return shares


@dataclass(frozen=True)
class Choice:
    """What is done with the masks."""

    way: Way
    """The way that is best in the mean over the pairs: `mender` unless another is surely better, `given` where nothing is."""
    by_case: bool
    """Whether a mask is kept where its own expected Dice is the higher one."""
    calibrations: Mapping[Way, Calibration]

    def changes(self, soft_given: np.ndarray, soft_way: np.ndarray) -> np.ndarray:
        """Return which masks (N,) are changed."""
        if self.way == "given":
            return np.zeros(len(soft_given), bool)
        if not self.by_case:
            return np.ones(len(soft_given), bool)
        return self.calibrations[self.way].expect(soft_way) > self.calibrations["given"].expect(soft_given)


def choose(measured: Measured, folds: np.ndarray, groups: Sequence[str]) -> Choice:
    """Choose what to do with the masks, by the pairs.

    Whether to choose case by case is decided by cross-validation: the calibrations of the other folds choose for the pairs of a fold.
    """
    given, best = measured["given"][:, 0], best_way(measured, groups)
    calibrations = {way: Calibration.of(*values.T) for way, values in measured.items()}
    if best == "given":
        return Choice(best, False, calibrations)
    by_case = np.where(_changes_by_others(measured, best, folds), measured[best][:, 0], given)
    return Choice(best, bool(np.nanmean(by_case) > np.nanmean(measured[best][:, 0])), calibrations)


def best_way(measured: Measured, groups: Sequence[str]) -> Way:
    """Return the way that is best in the mean over the pairs: what sees the image and the mask goes before what sees less, unless that is
    surely better."""
    best: Way = "given"
    for way in ("mender", *ALONE):
        if way in measured and is_surely_better(measured[way][:, 0], measured[best][:, 0], groups):
            best = way
    return best


def is_surely_better(dice: np.ndarray, other: np.ndarray, groups: Sequence[str]) -> bool:
    """Return whether Dice (N,) of the pairs are higher in the mean than other ones, by more than `_SURE` standard errors."""
    ahead = dice - other
    error, _ = standard_error(ahead, groups)
    return bool(np.nanmean(ahead) > _SURE * error)


def _changes_by_others(measured: Measured, way: Way, folds: np.ndarray) -> np.ndarray:
    changes = np.ones(len(folds), bool)
    for fold in np.unique(folds):
        held = folds == fold
        if not held.all():
            others = Choice(way, True, {each: Calibration.of(*measured[each][~held].T) for each in ("given", way)})
            changes[held] = others.changes(measured["given"][held, 1], measured[way][held, 1])
    return changes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What estimate.json holds."""

    pairs: int
    cases: int
    """Noisy masks."""
    way: Way
    changed: int
    """Masks that are changed."""
    drops_apart: bool = False
    """Whether parts that do not touch the given mask are dropped (not in files of format 1)."""
    menders: Kind = "usual"
    """Not in files of format 1 either."""
    ways: Mapping[Way, Quality]
    """Of the pairs, by menders that have not seen them."""
    expected: Quality
    """Of all masks, once they are mended."""
    below: Mapping[str, float]
    """`cases` expected below the Dice `dice`."""
    beyond: int = 0
    """Masks that look worse than every pair, where they are more than chance allows, and not by a hair. No pair says how bad those are."""
    more: Mapping[str, float] | None
    """About how much Dice (`gain`) so many `pairs` more would bring; None where these menders learned from one number of pairs only."""
    history: tuple[Mapping[str, Any], ...]
    """`pairs`, `dice`, `low`, `high` and `menders` of every time, the last one this."""

    def write(self, folder: Path) -> None:
        """Write estimate.json."""
        write_file(folder / FILE, json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")

    def sentence(self) -> str:
        """Return it in words."""
        expected = self.expected
        interval = f"{short(expected.low)} to {short(expected.high)}, from {self.pairs:,} pairs"
        if self.way == "given":
            return f"given {short(expected.dice)} ({interval}): no way is surely better, so no mask is changed"
        return f"given {short(self.ways['given'].dice)}, mended {short(expected.dice)} ({interval})"

    def doubt(self) -> str:
        """Say why the estimate may be wrong; empty where nothing tells."""
        if not self.beyond:
            return ""
        return (
            f"{self.beyond:,} of {count(self.cases, 'mask')} look worse than every pair, more than chance allows: the masks may be worse "
            "than expected. Are the pairs drawn at random? More of them, at random, would show"
        )


def short(dice: float) -> str:
    """Return a Dice in two digits, as .93."""
    return f"{dice:.2f}".removeprefix("0")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of every listed mask, (N,) each."""

    changed: np.ndarray
    expected_given: np.ndarray
    """The expected Dice of the mask as it is."""
    expected: np.ndarray
    """That of the proposed one."""


def make_estimate(
    measured: Measured,
    choice: Choice,
    groups: Sequence[str],
    *,
    soft: np.ndarray,
    agreement: np.ndarray | None = None,
    noisy: np.ndarray,
    drops_apart: bool = False,
    menders: Kind = "usual",
    earlier: Sequence[Mapping[str, Any]] = (),
) -> tuple[Estimate, Verdict]:
    """Return the estimate of all masks, and what becomes of each.

    Args:
        measured, groups: of the pairs.
        soft: of every listed mask the soft Dice as given, and that after the chosen way, (N, 2).
        agreement: how far those menders agree on the mask after the chosen way, a Dice (N,); NaN where not known.
        noisy: whether a listed mask is noisy, (N,), and not one that a person has corrected: those are in no number.
        drops_apart: whether the chosen way drops what does not touch the given mask.
        menders: which menders they are by.
        earlier: the history of an estimate from fewer pairs.
    """
    real, predicted = _apply(choice, measured)
    off = real - predicted
    changed = choice.changes(soft[:, 0], soft[:, 1])
    expected_given = choice.calibrations["given"].expect(soft[:, 0])
    treated = choice.calibrations[choice.way].expect(soft[:, 1])
    beyond = _count_beyond(np.where(changed, treated, expected_given)[noisy], predicted, groups)
    if agreement is not None and (counted := changed & noisy).any():
        treated = spread(treated, agreement, counted)
    expected = np.where(changed, treated, expected_given)
    verdict = Verdict(changed & noisy, expected_given, expected)
    overall = _quality(float(expected[noisy].mean() + np.nanmean(off)), *standard_error(off, groups))
    below = np.mean([(expected[noisy] + value < LOW_DICE).sum() for value in off[~np.isnan(off)]])
    history = (*(row for row in earlier if row["pairs"] < len(real)), {"pairs": len(real), **asdict(overall), "menders": menders})
    estimate = Estimate(
        pairs=len(real),
        cases=int(noisy.sum()),
        way=choice.way,
        changed=int(verdict.changed.sum()),
        drops_apart=drops_apart,
        menders=menders,
        ways={way: mean_interval(values[:, 0], groups) for way, values in measured.items()},
        expected=overall,
        below={"dice": LOW_DICE, "cases": round(float(below))},
        beyond=beyond,
        more=_gain_of_more(history),
        history=history,
    )
    return estimate, verdict


def spread(expected: np.ndarray, agreement: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return expected Dice (N,) that are higher where menders agree more, with the same mean over the counted masks.

    The log odds are those of the agreement but for one shift. Menders that were trained on other pairs are wrong where they differ; what
    each is sure of by itself says less of a mask (`docs/lab.md`). Nothing changes where an agreement is not known.

    Args:
        agreement: the mean Dice of the masks of several menders with the one that they make together, (N,).
        counted: whose mean stays, (N,) bool, not all False.
    """
    from scipy.optimize import brentq  # imported here: a review needs none of it

    if np.isnan(agreement).any():
        return expected
    odds, mean = _log_odds(agreement), float(np.clip(expected[counted].mean(), _ENDS, 1 - _ENDS))
    shift = brentq(lambda shift: float(_share(odds[counted] + shift).mean()) - mean, -20, 20)
    return _share(odds + shift)


def _apply(choice: Choice, measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return the Dice that the pairs have after the choice, and those that the calibration expects, (N,)."""
    given, treated = measured["given"], measured[choice.way]
    changed = choice.changes(given[:, 1], treated[:, 1])
    kept, expected = (choice.calibrations[way].expect(measured[way][:, 1]) for way in ("given", choice.way))
    return np.where(changed, treated[:, 0], given[:, 0]), np.where(changed, expected, kept)


def _count_beyond(expected: np.ndarray, of_pairs: np.ndarray, groups: Sequence[str]) -> int:
    """Return how many masks are expected to be worse than every pair; 0 where pairs drawn at random often leave so many out, or it is by
    little.

    Args:
        expected, of_pairs: Dice by the calibrations, of the masks (M,) and of the pairs (N,).
        groups: of the pairs; those of one group count as one draw.
    """
    worst = of_pairs.min()
    beyond = expected[expected < worst]
    is_chance = (1 - len(beyond) / len(expected)) ** len(set(groups)) >= _CHANCE
    return 0 if is_chance or worst - beyond.mean() < _FAR else len(beyond)


def _gain_of_more(history: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return what further pairs would bring, if the error falls as a power of their number; None for a single point of these menders."""
    kinds = [row.get("menders", "usual") for row in history]
    history = [row for row, kind in zip(history, kinds, strict=True) if kind == kinds[-1]]
    if len(history) < 2:
        return None
    pairs = np.array([row["pairs"] for row in history], float)
    errors = np.clip([1 - row["dice"] for row in history], _ENDS, 1)
    power = min(0.0, float(np.polyfit(np.log(pairs), np.log(errors), 1)[0]))
    return {"pairs": MORE_PAIRS, "gain": float(errors[-1] * (1 - ((pairs[-1] + MORE_PAIRS) / pairs[-1]) ** power))}


def read_estimate(folder: Path) -> Estimate | None:
    """Read estimate.json of a folder; None where there is none.

    Raises:
        RunError: it cannot be read, or is of a later version.
    """
    file = folder / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") > FORMAT:
            raise RunError(f"{file}: was written by a later pixeltrust; update it")
        return Estimate(**values | _parsed(values))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {one_line(error)}; mend again, or remove it") from None


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    more = values["more"]
    return {
        "menders": _parsed_kind(values),
        "ways": {way: _parsed_quality(values["ways"][way]) for way in WAYS if way != "mender" or way in values["ways"]},
        "expected": _parsed_quality(values["expected"]),
        "beyond": int(values.get("beyond", 0)),
        "below": {"dice": float(values["below"]["dice"]), "cases": int(values["below"]["cases"])},
        "more": more and {"pairs": int(more["pairs"]), "gain": float(more["gain"])},
        "history": tuple(
            {"pairs": int(row["pairs"]), **asdict(_parsed_quality(row)), "menders": _parsed_kind(row)} for row in values["history"]
        ),
    }


def _parsed_kind(values: Mapping[str, Any]) -> Kind:
    kind: Kind = values.get("menders", "usual")
    if kind not in get_args(Kind):
        raise ValueError(f"menders: {kind!r} is none of {', '.join(get_args(Kind))}")
    return kind


def _parsed_quality(values: Mapping[str, Any]) -> Quality:
    numbers = {name: float(values[name]) for name in ("dice", "low", "high")}
    if wrong := [f"{name} {number}" for name, number in numbers.items() if number < 0 or number > 1]:
        raise ValueError(f"{wrong[0]} is not from 0 to 1")
    return Quality(**numbers)
