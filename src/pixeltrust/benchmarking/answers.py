"""An answer in words from a table of Dice: which method to use, how sure that is, what the noise seems to cost.

Every method's difference to `plain`, case by case, has an interval of Student's t that allows for the number of methods tried (Bonferroni).
If no interval reaches above `MARGIN`, there is no difference that matters. Else a method helps if its interval is above 0. Otherwise there
are too few cases to tell.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from pixeltrust.pages.numbers import format_number
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count

FEWEST = 12  # clean cases, three to a fold of four: with fewer nothing is trained
MARGIN = 0.02  # of Dice: a smaller difference is not a reason to prefer a method
CONFIDENCE = 0.95  # of all comparisons with plain training together
ENOUGH = 30  # clean cases that an answer usually needs

Verdict = Literal["helps", "no difference", "too few to tell"]
MEANING = {
    "clean": "train on the clean cases alone: here the noisy masks do more harm than good",
    "joint": "put a clean batch into every step",
    "finetuned": "train on everything, then on the clean cases alone",
    "mended": "mend the noisy masks by what your pairs show, with `pixeltrust mend`, then train on them as `plain`",
    "mended+finetuned": "mend them so, then train on everything, and then on the clean cases alone (`finetuned`)",
    "image": "weigh every image",
    "pixel": "weigh every pixel",
    "pixel+clean": "weigh every pixel, and learn from the clean cases too",
    "trust": "weigh every pixel by how often learning it has helped, and learn from the clean cases too",
}


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """A method in the table under the answer."""

    method: str
    dice: float
    """Mean over the clean cases, each measured by a network that has not seen it."""
    difference: float
    """Mean of the Dice less that of `plain`, case by case; NaN for `plain` itself."""
    low: float
    high: float
    """The ends of the interval of the difference; all intervals together hold with `CONFIDENCE`."""

    @property
    def interval(self) -> str:
        """The interval as text, such as "+0.012 to +0.034"."""
        return f"{_signed(self.low)} to {_signed(self.high)}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Answer(Summary):
    """The answer to a question; `str` gives the summary."""

    verdict: Verdict
    method: str
    """The method to use."""
    words: str
    cases: int
    """How many clean cases were measured."""
    rows: tuple[AnswerRow, ...] = ()
    """The best method first."""
    out: Path | None = None

    def in_rows(self) -> pd.DataFrame | None:
        rows = [(row.method, f"{row.dice:.3f}", _difference_words(row)) for row in self.rows]
        return pd.DataFrame(rows, columns=["method", "Dice", "minus plain, case by case"]) if rows else None

    def in_words(self) -> str:
        return "\n".join([self.words, *([f"everything is in {self.out}"] if self.out else [])])

    def __str__(self) -> str:
        table = []
        if self.rows:
            width = max(len(row.method) for row in self.rows) + 2
            table = ["", f"{'method':<{width}}{'Dice':>5}   minus plain, case by case"]
            table += [f"{row.method:<{width}}{row.dice:.3f}   {_difference_words(row)}".rstrip() for row in self.rows]
        return "\n".join([self.words, *table, *([f"everything is in {self.out}"] if self.out else [])])


def find_answer(scores: pd.DataFrame) -> Answer:
    """Return the answer that a table of Dice gives.

    Args:
        scores: a row per clean case, a column per method, `plain` among them; cases without a Dice of every method are left out.
    """
    scores = scores.dropna()
    if len(scores) < FEWEST:
        return answer_too_few(len(scores))
    others = [str(method) for method in scores if method != "plain"]
    plain = AnswerRow(method="plain", dice=float(scores["plain"].mean()), difference=math.nan, low=math.nan, high=math.nan)
    compared = sorted((_row(scores, method, len(others)) for method in others), key=lambda row: -row.dice)
    rows = tuple(sorted([plain, *compared], key=lambda row: -row.dice))
    best = compared[0]
    verdict: Verdict
    if max(row.high for row in compared) < MARGIN:
        verdict, method, words = "no difference", "plain", _no_difference(compared, len(scores))
    elif best.low > 0:
        verdict, method, words = "helps", best.method, _helps(compared, plain, len(scores))
    else:
        verdict, method, words = "too few to tell", rows[0].method, _cannot_tell(best, plain, len(scores))
    return Answer(verdict=verdict, method=method, words=words, cases=len(scores), rows=rows)


def answer_too_few(cases: int) -> Answer:
    """Return the answer where there are too few clean cases to train at all.

    Args:
        cases: the number of clean cases, or of groups of them.
    """
    words = (
        f"Too few clean cases to tell: with {count(cases, 'independent one')} every comparison would be luck. Have an expert make at least "
        f"{FEWEST} masks, better {ENOUGH} or more, if possible of different patients, and ask again. Until then `finetuned` "
        f"({MEANING['finetuned']}) is a cautious choice."
    )
    return Answer(verdict="too few to tell", method="finetuned", words=words, cases=cases)


def _row(scores: pd.DataFrame, method: str, comparisons: int) -> AnswerRow:
    from scipy import stats

    difference = (scores[method] - scores["plain"]).to_numpy()
    # By Student's t: with a dozen cases the interval of the bootstrap is far too narrow.
    reach = float(stats.t.ppf(1 - (1 - CONFIDENCE) / comparisons / 2, len(difference) - 1) * stats.sem(difference))
    mean = float(difference.mean())
    return AnswerRow(method=method, dice=float(scores[method].mean()), difference=mean, low=mean - reach, high=mean + reach)


def _difference_words(row: AnswerRow) -> str:
    return "" if math.isnan(row.difference) else f"{_signed(row.difference)} ({row.interval})"


def _signed(value: float) -> str:
    return format_number(value, signed=True)


def _helps(compared: list[AnswerRow], plain: AnswerRow, cases: int) -> str:
    best, *rest = compared
    near = [f"`{row.method}`" for row in rest if best.dice - row.dice < MARGIN and row.low > 0]
    also = f" Within {MARGIN} of it: {', '.join(near)}; the choice between them matters little." if near else ""
    return (
        f"It helps. Use `{best.method}` ({MEANING.get(best.method, 'as you defined it')}): Dice {best.dice:.3f} against {plain.dice:.3f} "
        f"of plain training. Case by case that is {_signed(best.difference)}, {best.interval} with {CONFIDENCE:.0%} confidence over "
        f"{count(cases, 'clean case')}; the confidence allows for the number of methods. So the noise seems to cost plain training about "
        f"{best.difference:.2f} of Dice, which this method gains back.{also}"
    )


def _no_difference(compared: list[AnswerRow], cases: int) -> str:
    best, highest = compared[0], max(row.high for row in compared)
    return (
        f"Plain training is just as good here. Over {count(cases, 'clean case')} no method is ahead of it by more than "
        f"{max(highest, 0):.3f} of Dice, with {CONFIDENCE:.0%} confidence; the best of them, `{best.method}`, differs by "
        f"{_signed(best.difference)} ({best.interval}). The noise seems to cost almost nothing. Use `plain`, the cheapest method."
    )


def _cannot_tell(best: AnswerRow, plain: AnswerRow, cases: int) -> str:
    side = "ahead of" if best.difference > 0 else "behind"
    wider = (best.high - best.low) / 2 / max(abs(best.difference), MARGIN)  # an interval shrinks with the root of the cases
    enough = 10 * math.ceil(cases * max(1.5, wider**2) / 10)
    return (
        f"Too few clean cases to tell. Over {count(cases, 'clean case')} `{best.method}` is {side} plain training by "
        f"{abs(best.difference):.3f} of Dice ({best.dice:.3f} against {plain.dice:.3f}), but the interval, {best.interval}, contains "
        f"both no gain and one that matters. About {enough} clean cases should be enough to tell. Until then "
        f"`{best.method if best.difference > 0 else 'plain'}` is a fair guess."
    )
