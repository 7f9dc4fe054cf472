"""Make a data folder with simulated annotation noise from a folder with known truth.

    SOURCE/  images/  masks/  split.csv (id, split; may be absent)
    OUT/     images/  noisy/  clean/  test/ (where there is a split)  simulation.csv  simulation.json

`train` cases get noisy masks; those that the seed draws get their true masks too, in clean/, and are pairs. Every other split
becomes test; without split.csv all cases train.
The noise of a case depends on the seed and its id alone, not on which cases are clean. The clean ones are the first of one
shuffled list: the 10 clean cases of a seed are among its 100.

simulation.csv has a row per noisy mask: id, role (noisy; or clean, which is a pair), dice (with the truth), false_positive_share
and false_negative_share (pixels wrongly drawn and wrongly left out, as shares of the true area). All three are undefined, and
empty, where the truth has no foreground; such cases are left out of every mean and counted. Means are over the noisy cases.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.data.image_files import case_id
from pixeltrust.data.images import link_image, mask_name, read_values, write_labels
from pixeltrust.data.known_truth import SourceCase, read_source
from pixeltrust.data.masks import decode_labels
from pixeltrust.metrics import mean_of_defined
from pixeltrust.noise.kinds import KINDS, VOLUME_KINDS, Kind, Noise
from pixeltrust.noise.structures import LABEL_KINDS, LabelKind, draw_labels, require_noise
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import fill_folder_atomically, require_free, write_file
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.seeds import generator
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count

TARGET_TOLERANCE = 0.01  # the largest difference of the mean Dice from `target_dice`
_SEARCH_TOLERANCE = 0.002
_STEPS = 12
_SAMPLE_CASES = 200  # the strength is searched on these, held in memory, and corrected on all
_SAMPLE_PIXELS = 200_000_000  # where they are large, the sample is smaller
_CORRECTIONS = 4
_STRONGEST = 16.0
_MEASURES = ["dice", "false_positive_share", "false_negative_share"]
_COMPLAINT = "These files of the source cannot be used:"


@dataclass(frozen=True, kw_only=True, repr=False)
class SimulationSummary(Summary):
    """The data folder that was made. Means and quartiles are over the noisy cases whose truth has foreground; NaN if there are none.

    A clean case is no noisy case, although its noisy mask is there too.
    """

    out: Path
    noise: str
    strength: float
    seed: int
    noisy: int
    """Cases with a noisy mask alone."""
    clean: int
    """Cases with a clean mask."""
    test: int
    """Cases with a test mask."""
    pairs: int
    """Clean cases that have a noisy mask too: all, or none."""
    empty: int
    """Noisy cases whose truth has no foreground; they are in no mean."""
    mean_dice: float
    dice_quartiles: tuple[float, float, float]
    """At 25 %, 50 % and 75 %."""
    false_positive_share: float
    """Pixels wrongly drawn, as a share of the true area; mean over cases."""
    false_negative_share: float
    """Pixels wrongly left out, as a share of the true area; mean over cases."""

    def __str__(self) -> str:
        low, middle, high = self.dice_quartiles
        pairs = f" ({count(self.pairs, 'pair')})" if self.pairs else ""
        empty = f"; {self.empty} without foreground, in none of the means" if self.empty else ""
        return "\n".join(
            [
                f"{self.out}: {self.noisy} noisy, {self.clean} clean{pairs}, {self.test} test cases{empty}",
                f"noise                 {self.noise}, strength {self.strength:.4g}, seed {self.seed}",
                f"Dice to the truth     {self.mean_dice:.3f} in the mean, quartiles {low:.3f} {middle:.3f} {high:.3f}",
                f"wrongly drawn         {self.false_positive_share:.1%} of the true area",
                f"wrongly left out      {self.false_negative_share:.1%} of the true area",
            ]
        )


def simulate(
    source: Path,
    out: Path,
    *,
    noise: str | Noise = "triangle",
    classes: int = 1,
    clean: int = 100,
    seed: int = 0,
    strength: float | None = None,
    target_dice: float | None = None,
    pairs: bool = True,
    show_progress: bool = True,
) -> SimulationSummary:
    """Write a data folder with simulated noise, whole or not at all.

    Example:
        print(pixeltrust.simulate("isic2017", "lesions", noise="triangle", clean=100))

    Args:
        source: folder with images/, masks/ and maybe split.csv (id, split); of pictures, or of volumes.
        out: a folder that does not exist or is empty, outside `source`. Images are hard links where the disk allows
            it; masks are PNG files of 0 and 255 (labels, where there are several classes), or volumes of labels with the geometry of
            their truth to the bit, in its format.
        noise: a kind by its name (see `pixeltrust.noise.kinds.KINDS`, `VOLUME_KINDS` and `structures.LABEL_KINDS`), or a function
            (mask, generator, strength, image) -> mask, called from several threads; mask is uint8 0/1 (H, W) and image uint8 (H, W, 3),
            of a volume uint8 0/1 (D, H, W) and float32 (D, H, W), the first channel.
        classes: 1: a mask has 0 and at most one other value; 2 or more: labels 0 … classes − 1. Each class gets the noise.
        clean: the number of training cases that get their true mask, from 0.
        seed: decides the noise and, separately, which cases are clean.
        strength: of the noise, from 0; 1 where neither it nor `target_dice` is given.
        target_dice: between 0 and 1; search one strength for all cases, with which the mean Dice of the noisy masks to their
            truth is within .01 of it.
        pairs: write the noisy masks of the clean cases too.
        show_progress: a progress bar on the terminal.

    Raises:
        ConfigError: a setting out of its range, or a target that this noise cannot reach.
        DataError: lists all faults of `source`.
        RunError: `out` cannot be used or written.
    """
    function, name = _find_noise(noise)
    _check_settings(classes, clean, seed, strength, target_dice)
    if isinstance(function, LabelKind) and classes < 3:
        raise ConfigError(f"noise: {name} ({function.help}) needs classes = 3 or more (--classes 3)")
    source, out = Path(source), Path(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise RunError(f"{out}: is inside the source {source}, which is not changed; choose a folder outside it")
    require_free(out)
    cases = read_source(source, classes=classes, show_progress=show_progress)
    _check_suits(function, name, is_volume=cases[0].spacing is not None)
    noisy_cases, clean_cases, test_cases = split_roles(cases, clean=clean, seed=seed, source=source)
    is_known = isinstance(function, Kind | LabelKind)
    needs_image = not is_known or (getattr(function, "needs_image", False) and not cases[0].spacing)
    draw = _Draw(function, seed, classes, needs_image=needs_image)
    with fill_folder_atomically(out) as folder:
        if target_dice is None:
            strength = 1.0 if strength is None else strength
            rows = _write_noisy(noisy_cases, draw, strength, folder, show_progress)
        else:
            strength, rows = _write_at_target(noisy_cases, draw, target_dice, name, folder, show_progress)
        of_pairs = _write_noisy(clean_cases if pairs else [], draw, strength, folder, show_progress)
        _write_true(clean_cases, draw, folder / "clean", show_progress)
        _write_true(test_cases, draw, folder / "test", show_progress)
        _link_images(cases, folder / "images", show_progress)
        summary = _summary(rows, out, name, strength, seed, {"clean": len(clean_cases), "test": len(test_cases), "pairs": len(of_pairs)})
        _write_record(folder, rows, of_pairs, summary, source, target_dice)
    return summary


def _find_noise(noise: str | Noise) -> tuple[Noise | LabelKind, str]:
    if callable(noise):
        inner = getattr(noise, "func", noise)
        return noise, f"{inner.__module__}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    return require_noise(noise), noise


def _check_suits(noise: Noise | LabelKind, name: str, *, is_volume: bool) -> None:
    if isinstance(noise, Kind) and not noise.suits(3 if is_volume else 2):
        here, known = ("volumes", KINDS | VOLUME_KINDS) if is_volume else ("pictures", KINDS)
        others = ", ".join([*(other for other, kind in known.items() if kind.suits(3 if is_volume else 2)), *LABEL_KINDS])
        raise ConfigError(f"noise: {name} ({noise.help}) makes no sense for {here}; there are {others}")


def _check_settings(classes: int, clean: int, seed: int, strength: float | None, target_dice: float | None) -> None:
    if not 1 <= classes < 255:
        raise ConfigError(f"classes: 1 to 254, not {classes}")
    if clean < 0:
        raise ConfigError(f"clean: a number of cases from 0, not {clean}")
    if seed < 0:
        raise ConfigError(f"seed: a whole number from 0, not {seed}")
    if strength is not None and target_dice is not None:
        raise ConfigError("strength and target_dice: give one of them, the target finds the strength")
    if strength is not None and not (math.isfinite(strength) and strength >= 0):
        raise ConfigError(f"strength: a number from 0, not {strength}")
    if target_dice is not None and not 0 < target_dice < 1:
        raise ConfigError(f"target_dice: between 0 and 1, not {target_dice}")


# --- the cases ----------------------------------------------------------------------------------------------------


def simulated_name(case: SourceCase) -> str:
    """Return the name of the file of a noisy mask."""
    return f"{case.id}.png" if case.spacing is None else mask_name(case.id, case.mask)


def split_roles(
    cases: list[SourceCase], *, clean: int, seed: int, source: Path
) -> tuple[list[SourceCase], list[SourceCase], list[SourceCase]]:
    """Split a source into (noisy, clean, test) cases; the seed draws the clean ones.

    Raises:
        DataError: no training case would be left to be noisy.
    """
    training = [case for case in cases if case.trains]
    if clean >= len(training):
        raise DataError(
            f"{source}: {clean} clean cases asked for, but it has {len(training)} for training "
            f"(and {len(cases) - len(training)} for tests): at least one must be left to be noisy"
        )
    order = generator(seed, "clean").permutation(len(training))
    chosen = set(order[:clean].tolist())
    return (
        [case for i, case in enumerate(training) if i not in chosen],
        [case for i, case in enumerate(training) if i in chosen],
        [case for case in cases if not case.trains],
    )


# --- the noise ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """The noise of one simulation."""

    function: Noise | LabelKind
    seed: int
    classes: int
    needs_image: bool

    def read(self, case: SourceCase) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the true labels, and the image where the noise needs it."""
        return self.truth(case), read_values(case.image) if self.needs_image else None

    def truth(self, case: SourceCase) -> np.ndarray:
        """Read the true labels."""
        return decode_labels(case.mask, classes=self.classes, ignore_label=None, may_ignore=False)[0]

    def noisy(self, case: SourceCase, truth: np.ndarray, image: np.ndarray | None, strength: float) -> np.ndarray:
        """Draw the noisy labels."""
        numbers = partial(generator, self.seed, "noise", case.id)
        return draw_labels(self.function, truth, numbers, strength, classes=self.classes, image=image, spacing=case.spacing)

    def write(self, case: SourceCase, labels: np.ndarray, folder: Path) -> None:
        """Write labels: those of a picture of one class as 0 and 255."""
        values = labels * np.uint8(255) if self.classes == 1 and labels.ndim == 2 else labels
        write_labels(folder / simulated_name(case), values, like=case.mask)

    def measures(self, truth: np.ndarray, noisy: np.ndarray) -> tuple[float, ...]:
        """Compute `_MEASURES`: of several classes the means of those that the truth has."""
        labels = range(1, max(self.classes, 2))
        of_classes = np.array([_measures(truth == label, noisy == label) for label in labels])
        return tuple(mean_of_defined(column) for column in of_classes.T)


def _write_noisy(cases: list[SourceCase], draw: _Draw, strength: float, folder: Path, show_progress: bool) -> pd.DataFrame:
    """Write the noisy masks; return a row per case: id and how it differs from the truth."""
    (folder / "noisy").mkdir(exist_ok=True)

    def write(case: SourceCase) -> tuple[float, ...]:
        truth, image = draw.read(case)
        noisy = draw.noisy(case, truth, image, strength)
        draw.write(case, noisy, folder / "noisy")
        return draw.measures(truth, noisy)

    measured = map_in_threads(write, cases, text="noisy masks", complaint=_COMPLAINT, shown=show_progress)
    rows = pd.DataFrame(measured, columns=_MEASURES, dtype=float)
    rows.insert(0, "id", [case.id for case in cases])
    return rows


def _write_at_target(
    cases: list[SourceCase], draw: _Draw, target: float, name: str, folder: Path, show_progress: bool
) -> tuple[float, pd.DataFrame]:
    """Write the noisy masks at the strength that gives the target, searched on a sample and corrected on all of them."""
    sample = _sample(cases, draw)

    def sample_dice(strength: float) -> float:
        def dice(case: tuple[SourceCase, np.ndarray, np.ndarray | None]) -> float:
            return draw.measures(case[1], draw.noisy(*case, strength))[0]

        return mean_of_defined(map_in_threads(dice, sample, text="strength", complaint=_COMPLAINT, shown=show_progress))

    sample_target, tried = target, math.nan
    for _ in range(_CORRECTIONS):
        strength = _strength_for(sample_target, sample_dice)
        if strength == tried:
            break
        rows = _write_noisy(cases, draw, strength, folder, show_progress)
        reached, tried = float(rows["dice"].mean()), strength
        if math.isnan(reached):
            raise ConfigError("target_dice: none of the noisy cases has a true mask with foreground, so there is no Dice to aim at")
        if abs(reached - target) <= TARGET_TOLERANCE:
            return strength, rows
        sample_target = min(sample_target + target - reached, 1 - _SEARCH_TOLERANCE)
    full = "its full strength" if tried == 1 else f"strength {tried:.3g}"
    raise ConfigError(f"target_dice: {name} at {full} gives a mean Dice of {reached:.3f}; {target:g} cannot be reached with it")


def _sample(cases: list[SourceCase], draw: _Draw) -> list[tuple[SourceCase, np.ndarray, np.ndarray | None]]:
    """Choose some cases by the seed; return them with their truth and image."""
    sample, pixels = [], 0
    for i in generator(draw.seed, "target").permutation(len(cases))[:_SAMPLE_CASES]:
        truth, image = draw.read(cases[i])
        sample.append((cases[i], truth, image))
        pixels += truth.size
        if pixels > _SAMPLE_PIXELS:
            break
    return sample


def _strength_for(target: float, mean_dice: Callable[[float], float]) -> float:
    """Search the strength at which the mean Dice falls to the target; if it never does, the strongest that still lowers it."""
    low, above, high, below = 0.0, 1.0, 1.0, mean_dice(1.0)  # the Dice is `above` the target at `low`, `below` it at `high`
    while below > target and high < _STRONGEST:
        further = mean_dice(2 * high)
        if further >= below:
            break
        low, above, high, below = high, below, 2 * high, further
    middle = high
    for _ in range(_STEPS if below < target < above else 0):
        share = (above - target) / (above - below)  # of the way, if the curve were straight; at least a tenth, so that it ends
        middle = low + (high - low) * min(max(share, 0.1), 0.9)
        dice = mean_dice(middle)
        if abs(dice - target) <= _SEARCH_TOLERANCE:
            break
        if dice > target:
            low, above = middle, dice
        else:
            high, below = middle, dice
    return middle


def _measures(truth: np.ndarray, noisy: np.ndarray) -> tuple[float, float, float]:
    """Compute `_MEASURES` of a noisy mask; NaN where the truth has no foreground."""
    area, drawn = int(truth.sum()), int(noisy.sum())
    if not area:
        return math.nan, math.nan, math.nan
    both = int((truth & noisy).sum())
    return 2 * both / (area + drawn), (drawn - both) / area, (area - both) / area


# --- what is written ----------------------------------------------------------------------------------------------


def _write_true(cases: list[SourceCase], draw: _Draw, folder: Path, show_progress: bool) -> None:
    if not cases:
        return
    folder.mkdir()

    def write(case: SourceCase) -> None:
        draw.write(case, draw.truth(case), folder)

    map_in_threads(write, cases, text=f"{folder.name} masks", complaint=_COMPLAINT, shown=show_progress)


def _link_images(cases: list[SourceCase], folder: Path, show_progress: bool) -> None:
    folder.mkdir()

    def link(case: SourceCase) -> None:
        for image in case.image_files:
            link_image(image, folder, case_id(image))

    map_in_threads(link, cases, text="images", complaint=_COMPLAINT, shown=show_progress)


def _summary(rows: pd.DataFrame, out: Path, noise: str, strength: float, seed: int, counts: dict[str, int]) -> SimulationSummary:
    low, middle, high = rows["dice"].quantile([0.25, 0.5, 0.75])
    dice, false_positive, false_negative = rows[_MEASURES].mean()
    return SimulationSummary(
        out=out,
        noise=noise,
        strength=strength,
        seed=seed,
        noisy=len(rows),
        **counts,
        empty=int(rows["dice"].isna().sum()),
        mean_dice=float(dice),
        dice_quartiles=(float(low), float(middle), float(high)),
        false_positive_share=float(false_positive),
        false_negative_share=float(false_negative),
    )


def _write_record(
    folder: Path, rows: pd.DataFrame, of_pairs: pd.DataFrame, summary: SimulationSummary, source: Path, target_dice: float | None
) -> None:
    table = pd.concat([rows.assign(role="noisy"), of_pairs.assign(role="clean")])[["id", "role", *_MEASURES]]
    write_file(folder / "simulation.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    measured = {f"mean_{name}": _or_none(value) for name, value in rows[_MEASURES].mean().items()}
    record = {
        "source": source.resolve().name,
        "noise": summary.noise,
        "strength": summary.strength,
        "target_dice": target_dice,
        "seed": summary.seed,
        "cases": {name: getattr(summary, name) for name in ("noisy", "clean", "pairs", "test")} | {"without_foreground": summary.empty},
        **measured,
        "dice_quartiles": [_or_none(value) for value in summary.dice_quartiles],
    }
    write_file(folder / "simulation.json", json.dumps(record, indent=2) + "\n")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
