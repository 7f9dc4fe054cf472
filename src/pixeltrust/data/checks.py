"""The faults of cases that are found by comparing them: repeated ids, sizes and orientations, groups on both sides.

Everything here reads names and image headers; no pixel is decoded. What is asked of all cases is asked of whole columns.
"""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pixeltrust.data.images import FIRST_SWAPPED, Header, read_header
from pixeltrust.data.volumes import Grid, in_order
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.text import count, some

if TYPE_CHECKING:
    from pixeltrust.data.cases import CaseList

FEW_CLEAN = 10  # clean masks; with fewer the method has too little to go by
MIN_HELD_OUT = 10  # with fewer, the choice of the best weights is mostly luck
_ONE_GRID = "resample it to that grid (labels by the nearest neighbour), or, where its voxels are right, give it that header"
_REMOVE_ORIENTATION = "take the orientation out of the image (exiftool -Orientation= FILE)"


@dataclass
class Findings:
    """Faults and notes, collected while a data folder is read."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faulty_files: set[Path] = field(default_factory=set)
    """Files whose headers have a fault: their pixels are not reported as well."""
    volumes: bool = False
    """Whether there are any."""
    unpaired_roles: set[str] = field(default_factory=set)
    """Roles with masks that have no image, each of which is a fault."""

    def raise_faults(self, data: Path) -> None:
        """Raise DataError if there are faults."""
        faults = list(dict.fromkeys(self.faults))  # a broken mask may be that of many rows
        if faults:
            raise DataError(f"{data}: {count(len(faults), 'fault')}", faults)


def drop_repeated_ids(cases: "CaseList", findings: Findings) -> "CaseList":
    """Return one case per id: clean and noisy become a pair. Repeated roles, other images or groups, and tests that train are faults."""
    ids = cases.texts("id")
    clean, noisy = _find_pairs(cases)
    given = np.full(len(cases), -1, np.int32)
    given[clean] = cases.numbers("mask")[noisy]
    dropped: list[int] = noisy.tolist()
    repeated: dict[str, list[int]] = defaultdict(list)
    for place in np.setdiff1d(np.flatnonzero(ids.duplicated(keep=False)), np.concatenate([clean, noisy])).tolist():
        repeated[ids[place]].append(place)
    for identity, places in repeated.items():
        same = [cases[place] for place in places]
        roles = {case.role: case for case in same}
        if len(roles) < len(same):
            wrong = f"{identity}: {len(same)} rows of one id: {some([case.mask for case in same])}"
            findings.faults.append(Fault(wrong, kind="ids of more than one row"))
        if len({(case.image, case.group) for case in same}) > 1:
            named = [f"{case.image} (group {case.group})" for case in same]
            wrong = f"{identity}: rows of one id that differ in image or group: {some(named)}"
            findings.faults.append(Fault(wrong, kind="ids whose rows differ in image or group"))
        if "test" in roles and len(roles) > 1:
            trained = roles["clean" if "clean" in roles else "noisy"]
            wrong = f"{roles['test'].mask}: a test case that also trains: {trained.mask}"
            findings.faults.append(Fault(wrong, kind="test cases that also train", repair="take one of the two masks away"))
        chosen = same.index(roles.get("clean") or roles.get("noisy") or roles["test"])
        dropped += places[:chosen] + places[chosen + 1 :]
    twins = ids[ids.str.casefold().duplicated(keep=False) & ~ids.duplicated(keep=False)]
    if len(twins):
        findings.notes.append(f"ids that differ in case alone: {some(sorted(twins))}; on macOS and Windows their files are one")
    if len(clean):
        both = f"{count(len(clean), 'pair')}: cases with a clean and a noisy mask"
        findings.notes.append(f"{both}; they are trained as clean, and `pixeltrust mend` learns from them")
    kept = np.delete(np.arange(len(cases)), dropped)
    return cases[kept].with_given(given[kept]) if dropped else cases


def _find_pairs(cases: "CaseList") -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the clean and of the noisy rows of pairs: ids of these two rows alone, of one image and group."""
    ids = cases.texts("id")
    columns = {"id": ids, "image": cases.numbers("image"), "group": cases.texts("group"), "place": np.arange(len(cases))}
    repeated = pd.DataFrame(columns)[ids.duplicated(keep=False)]
    twice = repeated[repeated.groupby("id")["place"].transform("size") == 2]
    clean, noisy = (twice[cases.has_role(role)[twice["place"]]] for role in ("clean", "noisy"))
    both = clean.merge(noisy, on=["id", "image", "group"])
    return both["place_x"].to_numpy(), both["place_y"].to_numpy()


def compare_headers(cases: "CaseList", findings: Findings, show_progress: bool) -> None:
    """Check that every mask agrees with its image in size, orientation and grid, and that all cases have as many axes."""
    cases = cases.one_per_mask()
    images, masks = cases.numbers("image"), cases.numbers("mask")
    numbers = pd.unique(np.stack([images, masks], axis=1).ravel())
    sizes = np.full((numbers.max(initial=-1) + 1, 3), -1)  # (0, H, W) of a picture; stays −1 where a file cannot be read
    stated = np.zeros(len(sizes), np.int8)  # 1 for a file that states its orientation, −1 for a NIfTI file that does not
    turns = np.ones(len(sizes), np.int8)  # EXIF orientations
    two_colours = np.zeros(len(sizes), bool)
    grids: dict[int, Grid] = {}  # of volumes
    headers = attempt_in_threads(read_header, cases.files(numbers), text="reading headers", shown=show_progress)
    for number, (path, header) in zip(numbers, headers, strict=True):
        if isinstance(header, Header):
            sizes[number] = (0,) * (3 - len(header.size)) + header.size
            turns[number], two_colours[number] = header.exif_orientation, header.two_colours
            stated[number] = 0 if header.states_orientation is None else 1 if header.states_orientation else -1
            if header.grid:
                grids[number] = header.grid
        else:
            findings.faults.append(header.fault)
            findings.faulty_files.add(path)
    readable = sizes.min(axis=1) >= 0
    differ = readable[images] & readable[masks] & (sizes[images] != sizes[masks]).any(axis=1)
    for place in np.flatnonzero(differ).tolist():
        case, size, mask_size = cases[place], sizes[images[place]], sizes[masks[place]]
        findings.faulty_files.add(case.mask)
        wrong = f"{case.mask}: {_extents(mask_size)}, its image {case.image} has {_extents(size, of=mask_size)}"
        if (size[1:] == mask_size[:0:-1]).all() and turns[images[place]] >= FIRST_SWAPPED > turns[masks[place]]:
            kind = "masks in the orientation that their image had before EXIF turned it"
            repair = f"turn these masks as well, or {_REMOVE_ORIENTATION}"
        else:
            kind = "masks of another size than their image"
            repair = (
                "resample each to the grid of its image, labels by the nearest neighbour"
                if size[0]
                else "save each at the size of its image, scaled without smoothing"
            )
        findings.faults.append(Fault(wrong, kind=kind, repair=repair))
    one_stated = stated[images] * stated[masks] < 0
    for place in np.flatnonzero(one_stated).tolist():
        case = cases[place]
        wrong = f"{case.mask}: only one of this file and its image {case.image} states its orientation"
        kind = "NIfTI masks and images of which only one states its orientation"
        findings.faults.append(Fault(wrong, kind=kind, repair="save both with one affine"))
    for place in np.flatnonzero((cases.numbers("channels") > 1) & (sizes[images, 0] == 0)).tolist():
        wrong = f"{cases[place].image}: a picture in {count(cases[place].channels, 'file')}, one for each channel"
        findings.faults.append(Fault(wrong, kind="pictures in several files", repair="save each picture as one file"))
    if grids:
        _compare_grids(cases, grids, differ | one_stated, findings, show_progress)
        _note_orientations([grids[number] for number in np.unique(images).tolist() if number in grids and stated[number] > 0], findings)
    mixed = cases.texts("id")[(stated[images] != 0) != (stated[masks] != 0)].nunique()
    if mixed:
        cases_of = f"{count(mixed, 'case')} of a NIfTI file and one of another format"
        findings.notes.append(f"{cases_of}: do they have the same orientation? See docs/reference/data.md")
    _note_turned(cases, turns[images], turns[masks], sizes[images, 1:], differ, findings)
    coloured = np.flatnonzero(two_colours[masks])
    if len(coloured):
        palettes = f"{count(len(coloured), 'mask')} with a palette of two colours (such as {cases[int(coloured[0])].mask})"
        findings.notes.append(f"{palettes}: the brighter colour is the foreground, whatever its index")


def _extents(size: np.ndarray, of: np.ndarray | None = None) -> str:
    """Return a size as people name it, without the noun where the other size has the same."""
    unit = "voxels" if size[0] else "pixels"
    return "x".join(str(extent) for extent in size[::-1] if extent) + (f" {unit}" if of is None or bool(of[0]) != bool(size[0]) else "")


def _compare_grids(cases: "CaseList", grids: dict[int, Grid], differ: np.ndarray, findings: Findings, show_progress: bool) -> None:
    """Check that the masks and channels of volumes lie on their image's grid, and that all cases are volumes; note their sizes."""
    images, masks, channels = (cases.numbers(name) for name in ("image", "mask", "channels"))
    findings.volumes = True
    readable = [place for place, (image, mask) in enumerate(zip(images, masks, strict=True)) if image in grids and mask in grids]
    for place in [place for place in readable if not differ[place]]:
        case, off = cases[place], grids[masks[place]].difference(grids[images[place]])
        if off:
            findings.faulty_files.add(case.mask)
            wrong, kind = f"{case.mask}: not on the grid of its image {case.image}: {off}", "masks that are not on the grid of their image"
            findings.faults.append(Fault(wrong, kind=kind, repair=_ONE_GRID))
    if pictures := [place for place, image in enumerate(images) if image not in grids and cases[place].image not in findings.faulty_files]:
        volume, picture = cases[int(np.flatnonzero(np.isin(images, list(grids)))[0])] if readable else cases[0], cases[pictures[0]]
        wrong = f"pictures and volumes together: {volume.image} is a volume, {picture.image} a picture"
        findings.faults.append(Fault(wrong, repair="put them in folders of their own"))
    usual = int(np.median(channels))
    for place in np.flatnonzero(channels != usual).tolist():
        wrong = f"{cases[place].image}: {count(int(channels[place]), 'channel')}, where most cases have {usual}"
        findings.faults.append(Fault(wrong, kind="images with another number of channels"))
    _, firsts = np.unique(images, return_index=True)
    further = [(int(images[place]), file) for place in firsts[channels[firsts] > 1].tolist() for file in cases[place].image_files[1:]]
    headers = attempt_in_threads(lambda each: read_header(each[1]), further, text="reading headers", shown=show_progress)
    for (number, file), header in headers:
        if not isinstance(header, Header):
            findings.faults.append(header.fault)
            findings.faulty_files.add(file)
        elif number in grids and (off := _apart(header.grid, grids[number])):
            wrong, kind = f"{file}: not on the grid of its first channel: {off}", "channels that are not on the grid of the first"
            findings.faults.append(Fault(wrong, kind=kind, repair=_ONE_GRID))
    of_images = [grids[number] for number in np.unique(images).tolist() if number in grids]
    sizes, spacings = _range([grid.shape for grid in of_images], "voxels"), _range([grid.spacing for grid in of_images], "mm")
    several = f", {usual} channels" if usual > 1 else ""
    findings.notes.append(f"{count(len(of_images), 'volume')}{several}: {sizes}, spacing {spacings}")


def _note_orientations(of_images: list[Grid], findings: Findings) -> None:
    """Note that volumes point different ways, of those that state where they do."""
    turned = Counter(grid.orientation for grid in of_images)
    if len(turned) > 1:
        each = ", ".join(f"{number:,} {letters}" for letters, number in turned.most_common())
        findings.notes.append(f"warning: axes of volumes point different ways ({each}), and none is turned; bring all to one orientation")


def _apart(grid: Grid | None, other: Grid) -> str:
    if grid is None or grid.shape != other.shape:
        return f"{in_order(grid.shape) if grid else 'a plane'}, not {in_order(other.shape)} voxels"
    return grid.difference(other)


def _range(extents: list[tuple[float, ...]], unit: str) -> str:
    """Return the median of extents along (D, H, W), and their range where they differ."""
    kind = type(extents[0][0])
    low, median, high = (in_order([kind(value) for value in values]) for values in np.percentile(extents, (0, 50, 100), axis=0))
    return f"{median} {unit} in all" if low == high else f"{median} {unit} in the median ({low} to {high})"


def _note_turned(
    cases: "CaseList", of_images: np.ndarray, of_masks: np.ndarray, sizes: np.ndarray, differ: np.ndarray, findings: Findings
) -> None:
    """Note images that EXIF turns in another way than their masks, unless the sizes show that the mask was drawn on the turned one."""
    drawn_as_shown = (of_images >= FIRST_SWAPPED) & (of_masks == 1) & (sizes[:, 0] != sizes[:, 1])
    apart = np.flatnonzero((of_images != of_masks) & ~drawn_as_shown & ~differ)
    if len(apart):
        place = int(apart[0])
        case = cases[place]
        such = f"{case.image} has orientation {of_images[place]}, {case.mask} {of_masks[place]}"
        turned = count(cases.texts("id")[apart].nunique(), "image")
        findings.notes.append(
            f"warning: {turned} turned by EXIF in another way than the mask ({such}): each file is turned as it says. "
            f"That is right where the mask was drawn on the picture as viewers show it; else turn the mask, or {_REMOVE_ORIENTATION}"
        )


def compare_sides(cases: "CaseList", findings: Findings) -> None:
    """Check that no group, and no image file, is on both sides of training and test."""
    images, numbers = pd.factorize(cases.numbers("image"))
    real, paths = pd.factorize(np.array(list(map(os.path.realpath, cases.files(numbers))), object))
    tests = cases.has_role("test")
    for name, (keys, values) in (("group", pd.factorize(cases.texts("group"))), ("image", (real[images], paths))):
        both = np.intersect1d(keys[tests], keys[~tests])
        places = np.flatnonzero(np.isin(keys, [key for key in both if values[key]])).tolist()
        tested, trained = ({keys[place]: cases[place].id for place in places if tests[place] == side} for side in (True, False))
        findings.faults += [
            Fault(
                f"{name} {values[key]} is on both sides: case {tested[key]} tests, case {identity} trains",
                kind=f"{name}s on both sides of training and test",
            )
            for key, identity in trained.items()
        ]


def clean_warnings(clean: int, *, val_fraction: float = 0.0) -> list[str]:
    """Return what to expect of so few clean masks, if they are few.

    Args:
        clean: the number of clean masks.
        val_fraction: the share of them to hold out, as in `Config`.
    """
    if clean < FEW_CLEAN:
        return [
            f"warning: {count(clean, 'clean mask')}: what is learned of the noisy masks follows them, and so few are easily one-sided; "
            f"have {FEW_CLEAN} or more, best 50 to 100"
        ]
    if not val_fraction or round(val_fraction * clean) >= MIN_HELD_OUT:
        return []
    enough = -(-100 * MIN_HELD_OUT // clean) / 100
    way = f"; set val_fraction = {enough} to hold {MIN_HELD_OUT} out" if clean >= 2 * MIN_HELD_OUT else ""
    return [
        f"warning: val_fraction = {val_fraction:g} of {clean} clean masks is fewer than {MIN_HELD_OUT}, which choose by luck: none is held "
        f"out to choose the best weights by, the last ones count{way}"
    ]
