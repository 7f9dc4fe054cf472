"""The page of a mending: how good the masks are expected to be, which to look at, and how the menders do on the pairs."""

from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import Audit, read_audit_cases, review_command, train_command
from pixeltrust.auditing.page import audited_case
from pixeltrust.data.images import map_name, read_labels, read_shown
from pixeltrust.data.masks import decode_labels
from pixeltrust.mending.estimate import Estimate, read_estimate, short
from pixeltrust.mending.settings import method_for_mended
from pixeltrust.pages.charts import Chart, ink, new_panels, to_svg
from pixeltrust.pages.pieces import GalleryCase, Number, draw_outlines, render_page
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.plumbing.tables import read_table
from pixeltrust.plumbing.text import count

WORST, TYPICAL, PAIRS = 12, 6, 8  # cases in pictures
_SHORT = {"given": "as given", "network": "network, image alone", "audit": "audit by that network", "mender": "mender: image and mask"}
_MENDERS = {
    "usual": "",
    "stronger": "The usual menders left the masks poor; these are stronger ones. ",
    "alone": "The usual menders left the masks poor, and the given masks added little; these are stronger ones that see the images alone. ",
}
_WORDS = {
    "given": "as given",
    "network": "what a network sees in the image alone",
    "audit": "what a network sees in the image alone, where that contradicts the mask",
    "mender": "what a network sees in the image and the given mask",
}


def read_mending_page(folder: Path) -> str:
    """Return the page of a folder that `mend` has written, as HTML text.

    Raises:
        RunError: the folder is not one.
        DataError: its tables have faults.
    """
    estimate = read_estimate(folder)
    if estimate is None:
        raise RunError(f"{folder}: has no estimate.json; `pixeltrust mend` makes one")
    return mending_page(Audit.read(folder), read_audit_cases(folder), estimate)


def mending_page(audit: Audit, cases: pd.DataFrame, estimate: Estimate) -> str:
    """Return the page as HTML text, from the table and the pictures of a mending."""
    noisy = cases[cases["evidence"] != "corrected"]
    worst, gone = _draw_cases(audit, noisy.head(WORST))
    typical, _ = _draw_cases(audit, _pick(noisy.iloc[len(noisy) // 4 :], TYPICAL))
    return render_page(
        "mend.html",
        name=audit.folder.resolve().name,
        headline=estimate.sentence(),
        story=_story(estimate),
        numbers=_numbers(estimate),
        charts=[_draw_ways(estimate), *_draw_expected(noisy)],
        worst=worst,
        gone=gone,
        typical=typical,
        pairs=_draw_pairs(audit, estimate),
        next_to=audit.folder.resolve().name,
        commands=_commands(audit),
    )


def _commands(audit: Audit) -> list[tuple[str, str]]:
    """Return what to do next, and the commands, which hold wherever the folder lies: they name it alone."""
    here, method = Path(audit.folder.resolve().name), method_for_mended(audit.patch)
    return [
        ("Go through the masks, worst first, and accept, correct or reject each", review_command(here)),
        ("Train on the mended masks", train_command(here, audit.classes, audit.ignore_label, method=method, patch=audit.patch)),
    ]


def _story(estimate: Estimate) -> str:
    words = (
        "The numbers are Dice: how much the masks agree with what an expert would draw, 1 at best. They are measured on "
        f"{count(estimate.pairs, 'pair')}, each judged by networks that have not seen it, and carried over to the other masks. That holds "
        "as far as the pairs are like them: drawn at random, not picked for being bad. "
    ) + _MENDERS[estimate.menders]
    words += f"{estimate.doubt()}. " * bool(estimate.beyond)
    if estimate.way == "given":
        return words + "No way to change the masks was surely better than to leave them, so all stay as they are."
    kept = estimate.cases - estimate.changed
    stay = f"; {kept:,} stay as they are, since a change is not expected to help them" if kept else ""
    apart = " Parts that do not touch the given mask are left out: on the pairs that makes masks no worse." if estimate.drops_apart else ""
    return words + f"{estimate.changed:,} of {count(estimate.cases, 'mask')} are changed, to {_WORDS[estimate.way]}{stay}.{apart}"


def _numbers(estimate: Estimate) -> list[Number]:
    expected, low, more = estimate.expected, estimate.below, estimate.more
    given = expected if estimate.way == "given" else estimate.ways["given"]
    numbers = [
        Number(what="Dice as given", value=short(given.dice), interval=f"{short(given.low)} to {short(given.high)}"),
        Number(what="Dice once mended", value=short(expected.dice), interval=f"{short(expected.low)} to {short(expected.high)}, expected"),
        Number(what="Changed", value=f"{estimate.changed:,}", interval=f"of {count(estimate.cases, 'mask')}"),
        Number(
            what=f"Below {short(low['dice'])}",
            value=f"{int(low['cases']):,}",
            interval="masks, about" + ": look at these first" * bool(low["cases"]),
        ),
    ]
    if more:
        gain = f"about +{short(more['gain'])}" if more["gain"] >= 0.005 else "less than +.01"
        numbers.append(Number(what=f"{int(more['pairs'])} more pairs", value=gain, interval="Dice, by the estimates so far"))
    return numbers


def _draw_ways(estimate: Estimate) -> Chart:
    """Draw the Dice of every way on the pairs with its interval."""
    figure, (axes,) = new_panels(1)
    words = []
    for row, (way, quality) in enumerate(estimate.ways.items()):
        chosen = way == estimate.way
        colour = ink("pixel") if chosen else ink("ink")
        axes.plot([quality.low, quality.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(quality.dice, row, marker="D", markersize=5, color=colour)
        axes.text(0.0, row - 0.3, f"{_SHORT[way]}  {quality.dice:.3f}", transform=axes.get_yaxis_transform(), color=colour)
        words.append(f"{_WORDS[way]}: {quality.dice:.3f}, 95 % interval {quality.low:.3f} to {quality.high:.3f}")
    axes.set(ylim=(len(estimate.ways) - 0.6, -0.6), yticks=[], xlabel="mean Dice on the pairs")
    axes.spines["left"].set_visible(False)
    return Chart(title="What can be done with a mask, measured on the pairs", svg=to_svg(figure), text="; ".join(words))


def _draw_expected(noisy: pd.DataFrame) -> list[Chart]:
    """Draw how the expected Dice is spread over the masks, as they are and once they are mended."""
    if noisy.empty:
        return []
    before, after = (noisy[name].to_numpy(float) for name in ("expected_given", "expected"))
    figure, (axes,) = new_panels(1)
    for values, colour, label in ((before, ink("faint"), "as given"), (after, ink("pixel"), "once mended")):
        axes.hist(values, bins=np.linspace(0, 1, 41).tolist(), color=colour, alpha=0.75, label=label)
    axes.set(xlabel="expected Dice", ylabel="masks", xlim=(0, 1))
    axes.legend(loc="upper left", frameon=False)
    text = f"half of the masks are expected at {np.median(before):.2f} or more as given, at {np.median(after):.2f} or more once mended"
    return [Chart(title="All masks", svg=to_svg(figure), text=text)]


def _draw_cases(audit: Audit, rows: pd.DataFrame) -> tuple[list[GalleryCase], str]:
    pictures, unreadable = [], []
    for row in rows.to_dict("records"):
        try:
            note = f"expected Dice {short(row['expected'])}, as given {short(row['expected_given'])}"
            pictures.append(audited_case(audit, row, note=note))
        except PixeltrustError:
            unreadable.append(row["id"])
    return pictures, f"The files of {', '.join(unreadable)} cannot be read any more (moved or deleted?)." if unreadable else ""


def _draw_pairs(audit: Audit, estimate: Estimate) -> list[GalleryCase]:
    """Draw pairs from the worst to the best, as menders that have not seen them mend them."""
    way = estimate.way if estimate.way != "given" else "mender" if "mender" in estimate.ways else "network"
    table = read_table(audit.folder / "pairs.csv")
    dice = pd.to_numeric(table[f"dice_{way}"], errors="coerce")
    table = table.assign(dice=dice).sort_values("dice", kind="stable")
    pictures = []
    for row in _pick(table, PAIRS).to_dict("records"):
        try:
            given, clean = (_foreground(audit, Path(row[name])) for name in ("given", "clean"))
            mended = read_labels(audit.folder / "pairs" / map_name(row["id"], audit.axes)) > 0
            image, (given, clean, mended) = read_shown(Path(row["image"]), [given, clean, mended], (given != clean) | (mended != clean))
        except PixeltrustError:
            continue
        panels = [
            draw_outlines("image", f"the image of {row['id']}", image),
            draw_outlines("given mask", f"the given mask of {row['id']}", image, noisy=given),
            draw_outlines("mended", f"the mended mask of {row['id']}", image, predicted=mended),
            draw_outlines("clean mask", f"the clean mask of {row['id']}", image, true=clean),
        ]
        shown = f"Dice as given {short(float(row['dice_given'] or 'nan'))}, mended {short(row['dice'])}"
        pictures.append(GalleryCase(title=row["id"], panels=panels, note=shown))
    return pictures


def _pick(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return rows that are evenly spread over all, in their order."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]


def _foreground(audit: Audit, file: Path) -> np.ndarray:
    labels, _ = decode_labels(file, classes=audit.classes, ignore_label=audit.ignore_label)
    return is_foreground(labels)
