"""The page of an audit: how many masks are doubtful, the worst of them in pictures, and the surest regions."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import SURE, AuditRecord, read_audit_cases, read_audit_regions, read_record
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.masks import decode_labels
from pixeltrust.pages.charts import doubt_heat, histogram
from pixeltrust.pages.pieces import GalleryCase, Number, Panel, data_uri, draw_outlines, embed_charts, render_page
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.text import count

WORST = 24  # cases in pictures
SUREST = 40  # regions in the table


def read_audit_page(folder: Path) -> str:
    """The page of an audit folder, as HTML text.

    Raises:
        RunError: the folder is no audit.
        DataError: its tables have faults.
    """
    return audit_page(folder, read_record(folder), read_audit_cases(folder), read_audit_regions(folder))


def audit_page(folder: Path, record: AuditRecord, cases: pd.DataFrame, regions: pd.DataFrame) -> str:
    """The page as HTML text, from the tables of an audit and the pictures in its folder."""
    agreement = cases["agreement"].to_numpy(float)
    text = f"half of the masks agree to {np.median(agreement):.2f} or more, a tenth to less than {np.quantile(agreement, 0.1):.2f}"
    spread = histogram(agreement, title="Agreement of the masks with what the network sees", axis="agreement (Dice)", text=text)
    shown, gone = _worst(folder, record, cases)
    surest = regions[regions["mended"].astype(str) == "True"].sort_values("area", ascending=False).head(SUREST)
    return render_page(
        "audit.html",
        name=folder.resolve().name,
        headline=_headline(cases),
        story=_story(record, cases),
        numbers=_numbers(cases, regions),
        charts=embed_charts([spread]),
        cases=shown,
        gone=gone,
        regions=[_region(row) for row in surest.to_dict("records")],
        surest=SUREST,
    )


def _headline(cases: pd.DataFrame) -> str:
    doubtful = int((cases["changed_pixels"] > 0).sum())
    return f"{doubtful:,} of {count(len(cases), 'mask')} would be mended"


def _story(record: AuditRecord, cases: pd.DataFrame) -> str:
    by = ", ".join(f"{number:,} by {evidence}" for evidence, number in cases["evidence"].value_counts().items())
    return (
        f"The noisy masks of {Path(record.data).name} were judged by the run {Path(record.run).name}: {by}. Worst first. "
        "A pixel is doubtful where it is likelier wrong than right, and mended where the network sees something else there; "
        "trusted pixels are never changed, and no mask is emptied."
    )


def _numbers(cases: pd.DataFrame, regions: pd.DataFrame) -> list[Number]:
    pixels, doubtful = int((cases["height"] * cases["width"]).sum()), int(cases["doubtful_pixels"].sum())
    return [
        Number(what="Masks", value=f"{len(cases):,}", interval="noisy ones, each with a trust map and a proposed mask"),
        Number(what="Doubtful pixels", value=f"{doubtful / max(pixels, 1):.1%}", interval=f"{doubtful:,} of {pixels:,}"),
        Number(
            what="Regions",
            value=f"{len(regions):,}",
            interval=", ".join(f"{number:,} {kind}" for kind, number in regions["kind"].value_counts().items()) or "none",
        ),
        Number(
            what="Median agreement",
            value=f"{cases['agreement'].median():.2f}",
            interval="Dice of the given masks and what the network sees",
        ),
    ]


def _worst(folder: Path, record: AuditRecord, cases: pd.DataFrame) -> tuple[list[GalleryCase], str]:
    shown, gone = [], []
    for row in cases.head(WORST).to_dict("records"):
        try:
            shown.append(audited_case(folder, record, row))
        except PixeltrustError:
            gone.append(row["id"])
    return shown, f"The files of {', '.join(gone)} cannot be read any more (moved or deleted?)." if gone else ""


def audited_case(folder: Path, record: AuditRecord, row: dict[Hashable, Any]) -> GalleryCase:
    """A row of cases.csv in pictures: the image, the given mask, the trust in it, the proposed mask.

    Raises:
        DataError: a file is gone or broken.
    """
    one, image = row["id"], read_image(Path(row["image"]))
    labels, _ = decode_labels(Path(row["mask"]), classes=record.classes, ignore_label=record.ignore_label)
    counted = labels != IGNORE
    given, mended = (labels > 0) & counted, (read_labels(folder / "mended" / f"{one}.png") > 0) & counted
    trust = read_labels(folder / "trust" / f"{one}.png") / 255
    doubtful = float((trust < SURE / 255).mean())
    heat = Panel(
        title="trust",
        text=f"the trust in the mask of {one}: {doubtful:.0%} of its pixels are doubtful",
        source=data_uri(doubt_heat(trust, given, under=image), "image/png"),
        note=f"{doubtful:.0%} doubtful",
    )
    panels = [
        draw_outlines("image", f"the image of {one}", image),
        draw_outlines("given mask", f"the given mask of {one}", image, noisy=given),
        heat,
        draw_outlines("proposed mask", f"the proposed mask of {one}", image, predicted=mended),
    ]
    return GalleryCase(title=one, panels=panels, note=f"agreement {row['agreement']:.2f}")


def _region(row: dict[Hashable, Any]) -> tuple[str, ...]:
    place = f"{row['row']:.0f}, {row['column']:.0f}"
    return row["id"], row["kind"], f"{row['area']:,}", _share(row["share"]), place, f"{row['confidence']:.2f}"


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0%}"
