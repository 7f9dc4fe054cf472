"""A made-up audit: a data folder, and what `pixeltrust audit` would say of it."""

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from pixeltrust.auditing.folder import AuditRecord
from pixeltrust.data.cases import read_cases
from pixeltrust.data.images import read_header, read_labels, write_labels
from pixeltrust.data.masks import decode_labels


def audit_of(data, folder, propose, *, classes=1, ignore_label=None):
    """An audit of a data folder; returns it.

    Args:
        propose: (id, given labels) -> proposed labels; confidence is lowest where they differ.
    """
    for name in ("confidence", "mended", "changed"):
        (folder / name).mkdir(parents=True)
    cases, regions = [], []
    for case in read_cases(data, show_progress=False).of("noisy"):
        given, _ = decode_labels(case.mask, classes=classes, ignore_label=ignore_label)
        proposed = propose(case.id, given).astype(np.uint8)
        wrong = given != proposed
        confidence = 255 * (1 - 0.9 * ndimage.gaussian_filter(wrong.astype(float), max(given.shape) / 80))
        Image.fromarray(confidence.round().astype(np.uint8)).save(folder / "confidence" / f"{case.id}.png")
        Image.fromarray(as_in_the_file(case.mask, given, proposed, classes)).save(folder / "mended" / f"{case.id}.png")
        found = regions_of(case.id, given, proposed)
        regions += found
        union = ((given > 0) | (proposed > 0)).sum()
        cases.append(
            {
                "id": case.id,
                "image": str(case.image.absolute()),
                "mask": str(case.mask.absolute()),
                "agreement": 1 - wrong.sum() / max(union, 1),
                "doubtful_pixels": int(wrong.sum()),
                "doubtful_share": wrong.sum() / max(union, 1),
                "changed_pixels": int(wrong.sum()),
                "added_pixels": int((wrong & (proposed > 0)).sum()),
                "removed_pixels": int((wrong & (proposed == 0)).sum()),
                "regions": len(found),
                "height": given.shape[0],
                "width": given.shape[1],
                "evidence": "network",
            }
        )
    table = pd.DataFrame(cases).sort_values("agreement", kind="stable").reset_index(drop=True)
    table.insert(0, "rank", table.index + 1)
    table.to_csv(folder / "cases.csv", index=False)
    names = ["id", "region", "kind", "area", "share", "top", "left", "bottom", "right", "row", "column", "doubt", "mended"]
    pd.DataFrame(regions, columns=names).to_csv(folder / "regions.csv", index=False)
    record = AuditRecord(
        data=str(data.absolute()),
        run="",
        weights="last",
        classes=classes,
        ignore_label=ignore_label,
        channels=3,
        tilt=(0.0,) * max(classes, 2),
        seconds=1.0,
    )
    (folder / "audit.json").write_text(record.text())
    return folder


def as_in_the_file(mask, given, proposed, classes):
    """Labels as the values that the given mask's file has for them."""
    kept, written = read_labels(mask), proposed.copy()
    for label in (1, 255) if classes == 1 else (255,):
        found = kept[given == label]
        written[proposed == label] = found[0] if found.size else 255
    return written


def regions_of(identity, given, proposed):
    """The connected parts of the difference, largest first."""
    rows = []
    for kind, where in (("missing", (proposed > 0) & (given == 0)), ("too much", (given > 0) & (proposed == 0))):
        labelled, _ = ndimage.label(where)
        for number, (vertical, horizontal) in enumerate(ndimage.find_objects(labelled), 1):
            area = int((labelled == number).sum())
            if area < 12:
                continue
            box = (vertical.start, horizontal.start, vertical.stop, horizontal.stop)
            share = area / max((given > 0).sum(), 1)
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            rows.append([identity, 0, kind, area, share, *box, *centre, min(0.99, 0.5 + area / 4000), area > 20])
    rows.sort(key=lambda row: -row[3])
    return [[row[0], place, *row[2:]] for place, row in enumerate(rows, 1)]


def discs(folder, *, ids=("a", "b", "c"), size=(48, 64), clean=("k",), test=("t",), foreground=255, classes=1):
    """A data folder of discs on noise; the noisy masks are shifted. Returns it."""
    draws = np.random.default_rng(0)
    rows, columns = np.indices(size)
    for name in ("images", "noisy", "clean", "test"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for role, names in (("noisy", ids), ("clean", clean), ("test", test)):
        for place, identity in enumerate(names):
            true = disc(size, place)
            picture = 60 + 120 * true[..., None] + draws.normal(0, 12, (*size, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{identity}.png")
            mask = np.roll(true, 6, axis=1) if role == "noisy" else true
            mask = mask * np.uint8(foreground if classes == 1 else 1)
            if classes > 2:
                mask[(rows < size[0] // 4) & (columns < size[1] // 4)] = 2
            Image.fromarray(mask.astype(np.uint8)).save(folder / role / f"{identity}.png")
    return folder


def disc(size, place):
    """Where the true disc of a case is, uint8 (H, W)."""
    rows, columns = np.indices(size)
    return (((rows - size[0] / 2) ** 2 + (columns - size[1] / 2 + place % 5) ** 2) < (min(size) / 4) ** 2).astype(np.uint8)


def shifted_back(identity, given):
    """A proposal: the given mask without its shift."""
    return np.where(given == 255, given, np.roll(given, -6, axis=1))


def audit_of_volumes(data, folder, propose, *, classes=3):
    """An audit of a data folder of volumes, likewise; the files are NIfTI, and the tables have the columns of volumes."""
    for name in ("confidence", "mended", "changed"):
        (folder / name).mkdir(parents=True)
    cases, regions = [], []
    for case in read_cases(data, may_be_volumes=True, show_progress=False).of("noisy"):
        given, _ = decode_labels(case.mask, classes=classes, ignore_label=None)
        proposed = propose(case.id, given).astype(np.uint8)
        wrong = given != proposed
        confidence = (255 * (1 - 0.9 * ndimage.gaussian_filter(wrong.astype(float), 0.7))).round().astype(np.uint8)
        maps = {"confidence": confidence, "mended": proposed, "changed": 255 * wrong.astype(np.uint8)}
        for name, values in maps.items():
            write_labels(folder / name / f"{case.id}.nii.gz", values, like=case.mask)
        mm3 = float(np.prod(read_header(case.mask).spacing_mm))
        found = _regions_of_volume(case.id, given, proposed, mm3)
        regions += found
        union = max(int(((given > 0) | (proposed > 0)).sum()), 1)
        numbers = {"doubtful_pixels": wrong.sum(), "changed_pixels": wrong.sum(), "added_pixels": (wrong & (given == 0)).sum()}
        numbers |= {"removed_pixels": (wrong & (proposed == 0)).sum(), "regions": len(found)}
        sides = dict(zip(("depth", "height", "width"), given.shape, strict=True))
        shares = {"agreement": 1 - wrong.sum() / union, "doubtful_share": wrong.sum() / union, "evidence": "network"}
        cases.append({"id": case.id, "image": case.image.absolute(), "mask": case.mask.absolute(), **numbers, **sides, **shares})
    table = pd.DataFrame(cases).sort_values(["agreement", "id"], kind="stable").reset_index(drop=True)
    table.insert(0, "rank", table.index + 1)
    table.to_csv(folder / "cases.csv", index=False)
    pd.DataFrame(regions).to_csv(folder / "regions.csv", index=False)
    about = {"run": "", "weights": "last", "channels": 1, "axes": 3, "tilt": (0.0,) * max(classes, 2), "seconds": 1.0}
    record = AuditRecord(data=str(data.absolute()), classes=classes, ignore_label=None, **about)
    (folder / "audit.json").write_text(record.text())
    return folder


def _regions_of_volume(identity, given, proposed, mm3):
    rows = []
    kinds = {"missing": (given == 0) & (proposed > 0), "too much": (given > 0) & (proposed == 0)}
    for kind, where in (kinds | {"other class": (given > 0) & (proposed > 0) & (given != proposed)}).items():
        labelled, _ = ndimage.label(where, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(labelled), 1):
            inside = labelled[box] == number
            area, place = int(inside.sum()), {"slice": box[0].start + int(inside.sum((1, 2)).argmax())}
            for axis, (low, high) in enumerate((("first", "last"), ("top", "bottom"), ("left", "right"))):
                place |= {low: box[axis].start, high: box[axis].stop}
            of_region = {"share": area / max((given > 0).sum(), 1), "row": 0.0, "column": 0.0, "doubt": 0.9, "mended": True}
            rows.append({"id": identity, "kind": kind, "area": area, "mm3": area * mm3, **place, **of_region})
    rows.sort(key=lambda row: -row["area"])
    return [{**row, "region": number} for number, row in enumerate(rows, 1)]
