"""From a table of Dice to an answer in words: which method to use, how sure that is, what the noise seems to cost.

Every method's difference to `plain`, case by case, has an interval of Student's t that allows for the number of methods tried (Bonferroni).
If no interval reaches above `MARGIN`, there is no difference worth having. Else a method helps if its interval is above 0. Otherwise the
cases do not suffice to tell.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from scipy import stats

from pixeltrust.plumbing.text import count

FEWEST = 12  # clean cases, three to a fold of four: with fewer nothing is trained
MARGIN = 0.02  # of Dice: what is smaller is no reason to prefer a method
CONFIDENCE = 0.95  # of all comparisons with plain training together
ENOUGH = 30  # clean cases that an answer wants, as a rule

Verdict = Literal["helps", "no difference", "too few to tell"]
WHAT = {
    "clean": "train on the clean cases alone: here the noisy masks do more harm than good",
    "joint": "put a clean batch into every step",
    "finetuned": "train on everything, then on the clean cases alone",
    "image": "weigh every image",
    "pixel": "weigh every pixel",
    "pixel+clean": "weigh every pixel, and learn from the clean cases too",
    "trust": "weigh every pixel by what is known of it, and learn from the clean cases too",
}


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One method's line under the answer."""

    method: str
    dice: float
    """Mean over the clean cases, each measured by a network that has not seen it."""
    difference: float
    """Mean of the Dice less that of `plain`, case by case; NaN for `plain` itself."""
    low: float
    high: float
    """Of the difference; all these intervals together hold with `CONFIDENCE`."""

    @property
    def interval(self) -> str:
        """As in "+0.012 to +0.034"."""
        return f"{self.low:+.3f} to {self.high:+.3f}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found; `str` of it is what a person wants to read."""

    verdict: Verdict
    method: str
    """The one to use."""
    words: str
    cases: int
    """Clean cases that it rests on."""
    rows: tuple[AnswerRow, ...] = ()
    """The best first."""
    out: Path | None = None

    def __str__(self) -> str:
        table = []
        if self.rows:
            width = max(len(row.method) for row in self.rows) + 2
            table = ["", f"{'method':<{width}}{'Dice':>5}   minus plain, case by case"]
            table += [f"{row.method:<{width}}{row.dice:.3f}   {_against(row)}".rstrip() for row in self.rows]
        return "\n".join([self.words, *table, *([f"everything is in {self.out}"] if self.out else [])])


def find_answer(scores: pd.DataFrame) -> Answer:
    """The answer that a table of Dice gives.

    Args:
        scores: a row per clean case, a column per method, `plain` among them; cases that a method has no Dice for are left out.
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
    """The answer without any training.

    Args:
        cases: clean ones, or groups of them.
    """
    words = (
        f"Too few clean cases to tell: with {count(cases, 'independent one')} every comparison would be luck. Have at least {FEWEST} "
        f"masks made by an expert, of different patients if that can be, better {ENOUGH} or more, and ask again. Until then `finetuned` "
        f"({WHAT['finetuned']}) is a cautious choice."
    )
    return Answer(verdict="too few to tell", method="finetuned", words=words, cases=cases)


def _row(scores: pd.DataFrame, method: str, comparisons: int) -> AnswerRow:
    difference = (scores[method] - scores["plain"]).to_numpy()
    # Of Student's t: with a dozen cases the bootstrap's interval is far too narrow.
    reach = float(stats.t.ppf(1 - (1 - CONFIDENCE) / comparisons / 2, len(difference) - 1) * stats.sem(difference))
    mean = float(difference.mean())
    return AnswerRow(method=method, dice=float(scores[method].mean()), difference=mean, low=mean - reach, high=mean + reach)


def _against(row: AnswerRow) -> str:
    return "" if math.isnan(row.difference) else f"{row.difference:+.3f} ({row.interval})"


def _helps(compared: list[AnswerRow], plain: AnswerRow, cases: int) -> str:
    best, *rest = compared
    near = [f"`{row.method}`" for row in rest if best.dice - row.dice < MARGIN and row.low > 0]
    also = f" Within {MARGIN} of it: {', '.join(near)}; between them the choice matters little." if near else ""
    return (
        f"It helps. Use `{best.method}` ({WHAT.get(best.method, 'as you defined it')}): Dice {best.dice:.3f} against {plain.dice:.3f} "
        f"of plain training. Case by case that is {best.difference:+.3f}, {best.interval} with {CONFIDENCE:.0%} confidence over "
        f"{count(cases, 'clean case')}, all methods tried allowed for. So the noise seems to cost plain training about "
        f"{best.difference:.2f} of Dice that can be had back.{also}"
    )


def _no_difference(compared: list[AnswerRow], cases: int) -> str:
    best, highest = compared[0], max(row.high for row in compared)
    return (
        f"Plain training is just as good here. Over {count(cases, 'clean case')} no method is ahead of it by more than "
        f"{max(highest, 0):.3f} of Dice, with {CONFIDENCE:.0%} confidence; the best of them, `{best.method}`, stands at "
        f"{best.difference:+.3f} ({best.interval}). The noise seems to cost next to nothing. Use `plain`, the cheapest."
    )


def _cannot_tell(best: AnswerRow, plain: AnswerRow, cases: int) -> str:
    side = "ahead of" if best.difference > 0 else "behind"
    wider = (best.high - best.low) / 2 / max(abs(best.difference), MARGIN)  # an interval shrinks with the root of the cases
    wanted = 10 * math.ceil(cases * max(1.5, wider**2) / 10)
    return (
        f"Too few clean cases to tell. Over {count(cases, 'clean case')} `{best.method}` is {side} plain training by "
        f"{abs(best.difference):.3f} of Dice ({best.dice:.3f} against {plain.dice:.3f}), but {best.interval} holds both no gain and one "
        f"worth having. About {wanted} clean cases should tell. Until then `{best.method if best.difference > 0 else 'plain'}` is as good "
        "a guess as any."
    )
