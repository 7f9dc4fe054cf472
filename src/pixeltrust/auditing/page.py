"""The page of an audit: how many masks are doubtful, the worst of them in pictures, and the surest regions."""

from collections.abc import Hashable
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import (
    DOUBTFUL_BELOW,
    FAIR,
    NOTHING_YET,
    Audit,
    read_audit_cases,
    read_audit_regions,
    review_command,
    train_command,
)
from pixeltrust.data.images import read_labels, read_shown
from pixeltrust.data.masks import decode_labels
from pixeltrust.pages.charts import draw_histogram
from pixeltrust.pages.pictures import draw_doubt, png_source
from pixeltrust.pages.pieces import GalleryCase, Number, Panel, draw_outlines, render_page
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.text import count

WORST = 24  # cases in pictures
SUREST = 40  # regions in the table
BAD = 0.6  # a mask that agrees less with what the network sees is likely bad
FIRST = 10


def read_audit_page(folder: Path) -> str:
    """Return the page of an audit folder as HTML text.

    Raises:
        RunError: the folder is not an audit.
        DataError: its tables have faults.
    """
    return audit_page(Audit.read(folder), read_audit_cases(folder), read_audit_regions(folder))


def audit_page(audit: Audit, cases: pd.DataFrame, regions: pd.DataFrame) -> str:
    """Return the page as HTML text, from the tables of an audit and the pictures in its folder."""
    agreement = cases["agreement"].to_numpy(float)
    text = f"half of the masks agree to {np.median(agreement):.2f} or more, a tenth to less than {np.quantile(agreement, 0.1):.2f}"
    spread = draw_histogram(agreement, title="Agreement of the masks with what the network sees", axis="agreement (Dice)", text=text)
    worst, gone = _worst_cases(audit, cases)
    surest = regions[regions["mended"].astype(str) == "True"].sort_values("area", ascending=False).head(SUREST)
    return render_page(
        "audit.html",
        expected=_expected(audit, cases),
        name=audit.folder.resolve().name,
        headline=_headline(cases),
        story=_story(audit, cases),
        numbers=[*_gain(audit), *_numbers(cases, regions)],
        charts=[spread],
        cases=worst,
        gone=gone,
        next_to=audit.folder.resolve().name,
        commands=_commands(audit),
        regions=[_region(row) for row in surest.to_dict("records")],
        surest=SUREST,
    )


def _headline(cases: pd.DataFrame) -> str:
    """Return what to look at first."""
    if (cases["evidence"] == NOTHING_YET).all():
        return f"{count(len(cases), 'mask')} to look at"
    bad = int((cases["agreement"] < BAD).sum())
    if bad:
        return f"{count(bad, 'mask is', 'masks are')} likely bad: look at {'it' if bad == 1 else 'them'} first"
    if (changed := int((cases["changed_pixels"] > 0).sum())) == 0:
        return f"No mask of {len(cases):,} is likely bad"
    return f"No mask of {len(cases):,} is likely bad; begin with the {min(changed, FIRST):,} that agree least"


def _commands(audit: Audit) -> list[tuple[str, str]]:
    """Return what to do next, and the commands, which hold wherever the folder lies: they name it alone."""
    here = Path(audit.folder.resolve().name)
    return [
        ("Go through the masks, worst first, and accept, correct or reject each", review_command(here)),
        (
            "From five corrected masks on, mend all others by what these show",
            f"pixeltrust mend --again {quote(str(here))}",
        ),
        ("Train on the proposed masks as they are", train_command(here, audit.classes, audit.ignore_label, patch=audit.patch)),
    ]


def _expected(audit: Audit, cases: pd.DataFrame) -> str:
    """Return what would be changed, and what tells whether that helps."""
    changed = f"{count(int((cases['changed_pixels'] > 0).sum()), 'mask has', 'masks have')} pixels that would be changed. "
    if audit.gain.pairs:
        return changed + "Some masks get worse: look at a dozen. `mend --again` measures each way to treat a mask, and takes the best."
    return (
        changed + "Some masks get worse. How good they are is measured on corrected masks: correct five or more in the review, drawn at "
        "random, then `mend --again` says by cross-fitting how good given and mended masks are, and changes only where that is expected "
        "to help."
    )


def _gain(audit: Audit) -> list[Number]:
    """Return the expected gain as a number, where it is known."""
    gain = audit.gain
    if not gain.pairs:
        return []
    words = f"{gain.low:+.2f} to {gain.high:+.2f}, expected, from {count(gain.pairs, 'pair')}"
    return [Number(what="Dice, by mending", value=f"{gain.mended - gain.given:+.2f}", interval=words)]


def _story(audit: Audit, cases: pd.DataFrame) -> str:
    if (cases["evidence"] == NOTHING_YET).all():
        return f"Nothing is known yet of the noisy masks of {audit.data.name}. They come as a random sample that is spread over all."
    by = ", ".join(f"{number:,} by {evidence}" for evidence, number in cases["evidence"].value_counts().items())
    return (
        f"{_measured(audit)} The masks were judged by {audit.judge}: {by}. The worst come first. "
        "A pixel is doubtful where its label is more likely wrong than right, and mended where the network also sees another label there. "
        "Pixels that are not doubtful are never changed, and no mask is emptied." + audit.is_by_files * f" {FAIR[0].upper()}{FAIR[1:]}."
    )


def _measured(audit: Audit) -> str:
    """Return how much better mended masks are expected to be and how far that holds, or why it is not known."""
    text = audit.gain.sentence()
    if not audit.gain.pairs:
        return text
    like = "holds as far as they are like the other masks: drawn at random, not picked for being bad."
    measured = f"{text[0].upper()}{text[1:]} That is measured on pairs"
    if audit.is_by_files:
        return f"{measured}, and {like}"
    unseen = "whose corrected masks the network had not seen"
    return f"{measured} {unseen}, and {like} It has trained on the given masks of the others, and may follow them more."


def _numbers(cases: pd.DataFrame, regions: pd.DataFrame) -> list[Number]:
    sizes = cases["height"] * cases["width"] * (cases["depth"].astype(int) if "depth" in cases else 1)
    pixels, doubtful = int(sizes.sum()), int(cases["doubtful_pixels"].sum())
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in regions["kind"].value_counts().items())
    agreement = f"{cases['agreement'].median():.2f}"
    return [
        Number(what="Masks", value=f"{len(cases):,}", interval="noisy ones, each with a map of its doubt and a proposed mask"),
        Number(what="Doubtful pixels", value=f"{doubtful / max(pixels, 1):.1%}", interval=f"{doubtful:,} of {pixels:,}"),
        Number(what="Regions", value=f"{len(regions):,}", interval=kinds or "none"),
        Number(what="Median agreement", value=agreement, interval="Dice of the given masks and what the network sees"),
    ]


def _worst_cases(audit: Audit, cases: pd.DataFrame) -> tuple[list[GalleryCase], str]:
    pictures, unreadable = [], []
    for row in cases.head(WORST).to_dict("records"):
        try:
            pictures.append(audited_case(audit, row))
        except PixeltrustError:
            unreadable.append(row["id"])
    return pictures, f"The files of {', '.join(unreadable)} cannot be read any more (moved or deleted?)." if unreadable else ""


def audited_case(audit: Audit, row: dict[Hashable, Any], *, note: str | None = None) -> GalleryCase:
    """Draw a row of cases.csv: the image, the given mask, the doubt in it, the proposed mask; of a volume the slice that changes most.

    Raises:
        DataError: a file is gone or broken.
    """
    identity = row["id"]
    labels, _ = decode_labels(Path(row["mask"]), classes=audit.classes, ignore_label=audit.ignore_label)
    counted = labels != IGNORE
    given, mended = (labels > 0) & counted, (read_labels(audit.proposed_file(identity)) > 0) & counted
    confidence = read_labels(audit.confidence_file(identity))
    doubtful = float((confidence < DOUBTFUL_BELOW).mean())
    interest = given != mended if (given != mended).any() else given
    image, (given, mended, confidence) = read_shown(Path(row["image"]), [given, mended, confidence], interest)
    heat = Panel(
        title="doubt",
        text=f"the doubt in the mask of {identity}: {doubtful:.0%} of its pixels are doubtful",
        source=png_source(draw_doubt(1 - confidence / 255, given, under=image)),
        note=f"{doubtful:.0%} doubtful",
    )
    panels = [
        draw_outlines("image", f"the image of {identity}", image),
        draw_outlines("given mask", f"the given mask of {identity}", image, noisy=given),
        heat,
        draw_outlines("proposed mask", f"the proposed mask of {identity}", image, predicted=mended),
    ]
    return GalleryCase(title=identity, panels=panels, note=f"agreement {row['agreement']:.2f}" if note is None else note)


def _region(row: dict[Hashable, Any]) -> tuple[str, ...]:
    share = "–" if np.isnan(row["share"]) else f"{row['share']:.0%}" if row["share"] <= 1 else "more than all"
    place = f"slice {int(row['slice'])}, " if "slice" in row else ""
    place += f"{row['row']:.0f}, {row['column']:.0f}"
    return row["id"], row["kind"], f"{row['area']:,}", share, place, f"{row['doubt']:.2f}"
