"""How much better the proposed masks of an audit are expected to be: the mean gain in Dice over pairs, with its interval by Student's t.

Only pairs count whose clean mask the network has not learned: it knows the others better than the masks that it judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pixeltrust.data.cases import FEWEST_PAIRS
from pixeltrust.metrics import standard_error, student_factor
from pixeltrust.plumbing.text import count


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A gain that was measured, or why it was not."""

    pairs: int = 0
    """Of how many it is the mean; 0 where it is not known."""
    given: float = 0.0
    """The mean Dice of their masks as given."""
    mended: float = 0.0
    low: float = 0.0
    """The 95 % interval of the gain, −1 … 1."""
    high: float = 0.0
    why_not: str = ""
    """Why it is not known, in words."""

    def values(self) -> dict[str, float | str]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, float | str]) -> "Gain":
        """Read it from JSON; an audit of an earlier version has none.

        Raises:
            TypeError: a name that is not known.
            ValueError: a value that cannot be.
        """
        gain = cls(**values)  # type: ignore[arg-type]
        numbers = (gain.given, gain.mended, gain.low, gain.high)
        if type(gain.pairs) is not int or not isinstance(gain.why_not, str) or not all(-1 <= float(number) <= 1 for number in numbers):
            raise ValueError(f"gain is {dict(values)!r}")
        return gain

    def sentence(self) -> str:
        """Return it in words."""
        if not self.pairs:
            return f"How much better the proposed masks are is not known: {self.why_not or 'no corrected mask was compared'}."
        gain, low, high = (f"{value:+.2f}" for value in (self.mended - self.given, self.low, self.high))
        found = f"given {self.given:.2f}, mended {self.mended:.2f}: {gain} of Dice ({low} to {high}, from {count(self.pairs, 'pair')})"
        if self.low > 0:
            return f"{found}."
        return f"{found}, so the mended masks {'are worse: do not train on them' if self.high < 0 else 'may be no better'}."


def measure_gain(dice: np.ndarray, groups: Sequence[str], unseen: np.ndarray) -> Gain:
    """Return the gain over the pairs that the network has not learned, or why there is none.

    Args:
        dice: (N, 2) of every pair: as given, and as mended by a rule that has not seen it; NaN where not defined.
        groups: the group of each; cases of one group count as one draw.
        unseen: bool (N,): the network has not learned the clean mask.
    """
    counted = unseen & ~np.isnan(dice).any(axis=1)
    own = np.asarray(groups, object)[counted]
    if len(set(own)) >= FEWEST_PAIRS:
        given, mended = dice[counted].T
        error, draws = standard_error(mended - given, list(own))
        gain, half = float((mended - given).mean()), error * student_factor(draws)
        before, after, low, high = (round(float(value), 5) for value in (given.mean(), mended.mean(), gain - half, gain + half))
        return Gain(pairs=len(given), given=before, mended=after, low=max(-1.0, low), high=min(1.0, high))
    if not len(dice):
        return Gain(why_not="there is no pair, a case with a given and a corrected mask")
    if not unseen.any():
        return Gain(why_not=f"the network was trained on the corrected masks of all {count(len(dice), 'pair')}, and knows these cases best")
    cases = len(set(own))
    are = "is of a case" if cases == 1 else "are of cases"
    few = f"only {cases:,} of {count(len(dice), 'pair')} {are} that the network was not trained on"
    return Gain(why_not=f"{few}, and {FEWEST_PAIRS} are the fewest that can tell (those of one group count once)")
