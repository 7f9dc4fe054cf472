"""Inputs made by chance, by the thousand: whatever a file holds, it is read, or refused in one line that names it.

    python tests/reliability/fuzz.py --minutes 30 --out results/reliability  hypothesis, target by target in turns
    python tests/reliability/fuzz.py --minutes 10 --engine atheris --out …   guided by coverage (pip install atheris), our own parsers

OUT/fuzz.json gathers minutes, inputs and what was found over all sittings; OUT/found/ has the inputs of what was found. The tests run
every target for a moment.
"""

import argparse
import csv
import faulthandler
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from odd_files import HANGS, IMAGES, MASKS, NIFTI, limit_memory
from odd_making import HEADER, LABELS, ROWS, data, parquet, run, saved
from pixeltrust.auditing.folder import Audit, AuditRecord, read_audit_cases, read_audit_record, read_audit_regions
from pixeltrust.benchmarking.grid import read_grid
from pixeltrust.config import read_config, setting
from pixeltrust.data.cases import read_cases
from pixeltrust.data.image_files import image_suffix
from pixeltrust.data.images import read_image, read_labels, read_size
from pixeltrust.data.masks import decode_labels
from pixeltrust.datasets.zips import files_in, open_zip
from pixeltrust.formats import brushes, polygons, rle
from pixeltrust.formats.convert import convert
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.plumbing.files import write_file
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.masks import labels_of_runs, most_bytes
from pixeltrust.training.checkpoints import State
from pixeltrust.training.helped_maps import read_helped_map
from pixeltrust.training.run_folder import Run
from pixeltrust.training.run_writer import RunWriter, describe_environment

ROUND = 60  # inputs of a target, then it is the next one's turn
OWN = ("annotations", "coco runs", "brush", "runs", "polygon", "painted", "settings", "table")
"""Targets whose parsers are our own, which atheris follows."""


@dataclass(frozen=True)
class Target:
    """What is read, and what it is given."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any, Path], None]
    """Raises unless the input is read or refused well; may write to the folder."""


def refused_well(read: Callable[[], Any], name: str | None = None) -> Any:
    """Return what was read, or None if it was refused, which must be in lines of a bearable length that have the name."""
    try:
        return read()
    except PixeltrustError as error:
        lines, text = getattr(error, "faults", None) or [str(error)], str(error)
    assert all("\n" not in line and "\0" not in line and len(line) < 2000 for line in lines), f"no line to read: {lines!r:.600}"
    assert name is None or name in text, f"without its name: {text:.300}"
    return None


# --- inputs -------------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Bytes of a sound file with some of them changed, left out, doubled or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        # The start of a file is what decides how it is read.
        place = place % 400 if draw(st.booleans()) else place
        how = draw(st.integers(0, 6))
        if how <= 1:
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 2:
            number, order = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(("big", "little")))
            size = draw(st.sampled_from((2, 4)))
            content[place : place + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
        elif how == 3:
            del content[place : place + draw(st.integers(1, 40))]
        elif how == 4:
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        elif how == 5:
            content[place:place] = draw(st.binary(max_size=8))
        else:
            del content[place:]
    return bytes(content)


_KEYS = st.sampled_from(["id", "counts", "size", "type", "value", "rle", "mask", "_cls"])
JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**31, 2**63, 10**40, -1, 1.5, float("nan"), float("inf"), 1e300])
    | st.text(max_size=8)
    | st.lists(st.integers(-2, 300), max_size=4)
    | st.lists(st.lists(st.floats(allow_nan=True), max_size=6), max_size=2)
    | st.dictionaries(_KEYS, st.integers(-1, 9) | st.text(max_size=3), max_size=2)
)


@st.composite
def spoiled(draw: st.DrawFn, documents: tuple[Any, ...]) -> Any:
    """Draw a sound document in which some values are changed, missing, or there twice."""
    document = json.loads(json.dumps(draw(st.sampled_from(documents))))
    for _ in range(draw(st.integers(1, 4))):
        holder, key = document, None
        while isinstance(holder, dict | list) and holder:
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            at = draw(st.sampled_from(list(keys)))
            if not isinstance(holder[at], dict | list) or draw(st.integers(0, 3)) == 0:
                key = at
                break
            holder = holder[at]
        if key is None:
            continue
        how = draw(st.integers(0, 4))
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = draw(JUNK)
    return document


@st.composite
def repacked(draw: st.DrawFn, archives: tuple[bytes, ...]) -> bytes:
    """Draw a zip file with one of its members changed, or the bytes of the file itself."""
    content = draw(st.sampled_from(archives))
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated((content,)))
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(packed, "w") as after:
        names = before.namelist()
        changed = draw(st.sampled_from([*names, *(name for name in names for _ in range(5) if name.endswith(("pkl", ".npy")))]))
        for name in names:
            member = before.read(name)
            after.writestr(name, draw(mutated((member,))) if name == changed else member)
    return packed.getvalue()


def made(make: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder)).read_bytes()


def seeds_of(odd: tuple[Any, ...], most: int = 20_000) -> dict[str, tuple[bytes, ...]]:
    """Files of the corpus that can be read, by their ending."""
    found: dict[str, list[bytes]] = {}
    for one in odd:
        if one.gives is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = one.make(Path(folder))
                if path.stat().st_size < most:
                    found.setdefault(image_suffix(path) or "", []).append(path.read_bytes())
    return {ending: tuple(contents) for ending, contents in found.items()}


# --- pictures and masks -------------------------------------------------------------------------------------------


@st.composite
def pictures(draw: st.DrawFn, seeds: dict[str, tuple[bytes, ...]]) -> tuple[str, bytes, int]:
    ending = draw(st.sampled_from(sorted(seeds)))
    return ending, draw(mutated(seeds[ending])), draw(st.sampled_from((1, 3)))


def check_picture(given: tuple[str, bytes, int], folder: Path) -> None:
    ending, content, classes = given
    path = folder / f"a{ending}"
    path.write_bytes(content)
    size = refused_well(partial(read_size, path), path.name)
    pixels = refused_well(partial(read_image, path), path.name)
    labels = refused_well(partial(decode_labels, path, classes=classes, ignore_label=None), path.name)
    shapes = {read.shape[:2] for read in (pixels, labels and labels[0]) if read is not None}
    assert shapes <= {size}, f"the header says {size}, what is read is {shapes}"


# --- tables and settings ------------------------------------------------------------------------------------------

_USUAL = ("n1", "c1", "t1", "images/n1.png", "noisy/n1.png", "clean/c1.png", "test/t1.png", "noisy", "clean", "test", "", "p")
CELLS = st.sampled_from(_USUAL) | st.text(st.characters(exclude_categories=()), max_size=6)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(mutated(("\n".join([HEADER, *ROWS]).encode(), "\r\n".join([f"\ufeff{HEADER}", *ROWS, ""]).encode())))
    file = io.StringIO()
    rows = [row.split(",") for row in ROWS] + draw(st.lists(st.lists(CELLS, max_size=6), max_size=4))
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        if row:
            row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
    csv.writer(file, lineterminator=draw(st.sampled_from(["\n", "\r\n"])), escapechar="\\").writerows([HEADER.split(","), *rows])
    return file.getvalue().encode(errors="surrogatepass")


def check_table(content: bytes, folder: Path, name: str = "cases.csv") -> None:
    there = folder / "data"
    if not there.is_dir():
        there.mkdir()
        data()(there)
    write_file(there / name, content)
    found = refused_well(partial(read_cases, there / name, show_progress=False), "data")
    if found is not None:
        assert len(set(found.cases.texts("id"))) == len(found.cases)
        assert all(case.image.is_file() and case.mask.is_file() for case in found.cases)


SETTINGS = (
    b'method = "pixel"\nmodel = "unet-small"\nclasses = 1\nimage_size = [64, 96]\nlearning_rate = 1e-3\nepochs = 50\nseed = 7\n',
    b"# said\nval_fraction = 0.2\nignore_label = 255\ncache_gib = 4.0\n",
    b'methods = ["plain"]\nnoise = ["triangle"]\nclean = [10]\nseeds = [0]\nepochs = 2\n[variants.x]\nmethod = "trust"\nepochs = 3\n',
)


def check_settings(content: bytes, folder: Path) -> None:
    path = folder / "config.toml"
    path.write_bytes(content)
    refused_well(partial(read_config, path), path.name)
    refused_well(partial(read_grid, path))
    refused_well(partial(setting, content.decode(errors="replace")[:200]))


# --- run folders --------------------------------------------------------------------------------------------------


def small_run(folder: Path) -> Path:
    there = folder / "run"
    if not there.is_dir():
        run(settings='model = "fuzz:network"\nimage_size = 16\n')(folder)
        RunWriter(there).write_state("model.pt", {"model": network(in_channels=3, out_channels=1).state_dict()})
    return there


def network(*, in_channels: int, out_channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(in_channels, 2, 3, padding=1), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, out_channels, 1))


def state() -> State:
    model = network(in_channels=3, out_channels=1)
    optimizer = torch.optim.Adam(model.parameters())
    return State(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3))


def saved_state(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def check_weights(content: bytes, folder: Path) -> None:
    there = small_run(folder)
    (there / "model.pt").write_bytes(content)
    model = refused_well(lambda: Run(there).model(), "model.pt")
    assert model is None or model(torch.zeros(1, 3, 8, 8)).shape == (1, 1, 8, 8)


def check_checkpoint(content: bytes, folder: Path) -> None:
    there = small_run(folder)
    (there / "checkpoint.pt").write_bytes(content)
    packed = refused_well(lambda: Run(there).read_state("checkpoint.pt"), "checkpoint.pt")
    if packed is not None:
        refused_well(lambda: state().unpack(packed, Run(there)), "checkpoint.pt")


def arrays(**values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)  # type: ignore[arg-type]
    return file.getvalue()


def check_weight_maps(content: bytes, folder: Path) -> None:
    there = small_run(folder)
    (there / "weight_maps.npz").write_bytes(content)
    refused_well(lambda: Run(there).weight_maps(), "weight_maps.npz")


def run_texts() -> st.SearchStrategy[tuple[str, bytes]]:
    contents = {
        "environment.json": mutated((b'{"format": 1}',)),
        "config.toml": mutated(SETTINGS[:2]),
        "cases.csv": tables(),
        "history.csv": mutated((b"epoch,loss\n1,0.5\n2,nan\n",)),
    }
    return st.one_of(st.tuples(st.just(name), content) for name, content in contents.items())


def check_run_texts(given: tuple[str, bytes], folder: Path) -> None:
    name, content = given
    there = small_run(folder)
    before = (there / name).read_bytes() if (there / name).is_file() else None
    (there / name).write_bytes(content)
    refused_well(lambda: Run(there).config())
    for table in ("cases.csv", "history.csv"):
        if (there / table).is_file():
            refused_well(partial(Run(there).read_table, table), table)
    (there / name).unlink() if before is None else (there / name).write_bytes(before)


def check_helped_map(content: bytes, folder: Path) -> None:
    there = small_run(folder)
    (there / "helped").mkdir(exist_ok=True)
    (there / "helped" / "a.png").write_bytes(content)
    refused_well(lambda: read_helped_map(Run(there), "a", LABELS), "a.png")


# --- audits -------------------------------------------------------------------------------------------------------

RECORD = AuditRecord(data="d", run="r", weights="last", classes=1, ignore_label=None, channels=3, tilt=(0.0, 0.0), seconds=1.0)
AUDITED = (
    b"rank,id,image,mask,agreement,doubtful_pixels,doubtful_share,changed_pixels,added_pixels,removed_pixels,regions,height,width,evidence\n"
    b"1,n1,/i/n1.png,/m/n1.png,0.5,9,0.1,9,4,5,1,12,20,network\n2,007,/i/7.png,/m/7.png,,0,,0,0,0,0,12,20,network\n"
)
REGIONS = b"rank,id,region,kind,area,share,top,left,bottom,right,row,column,doubt,mended\n1,n1,1,missing,9,0.1,1,2,4,5,2.5,3.5,0.9,True\n"


@cache
def decided() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        audit_folder(Path(folder))
        with closing(Decisions(Audit.read(Path(folder)))) as decisions:
            decisions.decide("n1", "mended", who="ann", seen=0, given=LABELS, decided=1 - LABELS)
        return (Path(folder) / "review.sqlite").read_bytes()


def audit_folder(folder: Path) -> None:
    for name, content in (("audit.json", RECORD.text().encode()), ("cases.csv", AUDITED), ("regions.csv", REGIONS)):
        (folder / name).write_bytes(content)


def audit_files() -> st.SearchStrategy[tuple[str, bytes]]:
    record = RECORD.text().encode()
    contents = {
        "audit.json": mutated((record,)) | spoiled((json.loads(record),)).map(lambda one: json.dumps(one).encode()),
        "cases.csv": mutated((AUDITED,)),
        "regions.csv": mutated((REGIONS,)),
        "review.sqlite": mutated((decided(),)),
    }
    return st.one_of(st.tuples(st.just(name), content) for name, content in contents.items())


def check_audit(given: tuple[str, bytes], folder: Path) -> None:
    there = folder / "audit"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    audit_folder(there)
    (there / given[0]).write_bytes(given[1])
    refused_well(partial(read_audit_record, there), "audit")
    refused_well(partial(read_audit_cases, there), "cases.csv")
    refused_well(partial(read_audit_regions, there), "regions.csv")

    def review() -> None:
        with closing(Decisions(Audit.read(there))) as decisions:
            for decision in decisions.all_in_force().values():
                if decision.after:
                    decisions.mask(decision.after)

    refused_well(review, "audit")


# --- annotations --------------------------------------------------------------------------------------------------


@cache
def annotation_files() -> dict[str, bytes]:
    """Return a sound file of each format, by its name there."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        (there / "data").mkdir()
        data()(there / "data")
        names = {"coco": "a.json", "coco-polygons": "b.json", "label-studio": "c.json", "cvat": "d.xml", "fiftyone": "samples"}
        for form, name in names.items():
            convert(there / "data" / "noisy", there / name, to=form, show_progress=False)
        files = {name: (there / name).read_bytes() for name in names.values() if name != "samples"}
        return files | {"samples.json": (there / "samples" / "samples.json").read_bytes()}


@cache
def label_studio_shapes() -> Any:
    values = {
        "polygon": {"points": [[10.0, 10.0], [90.0, 10.0], [50.0, 90.0]], "closed": True},
        "rectangle": {"x": 10.0, "y": 10.0, "width": 50.0, "height": 30.0, "rotation": 20.0},
        "ellipse": {"x": 50.0, "y": 50.0, "radiusX": 20.0, "radiusY": 30.0, "rotation": 20.0},
    }
    whole = {"to_name": "image", "item_index": 0, "original_width": 20, "original_height": 12, "image_rotation": 0}
    results = [
        whole | {"id": kind, "type": f"{kind}labels", "value": value | {f"{kind}labels": ["lesion"]}} for kind, value in values.items()
    ]
    annotation = {"completed_by": {"id": 1, "email": "a@b"}, "updated_at": "2026-01-01", "was_cancelled": False, "result": results}
    return [{"id": 1, "data": {"image": "/data/a.png"}, "annotations": [annotation], "predictions": []}]


@st.composite
def annotations(draw: st.DrawFn) -> tuple[str, bytes]:
    files = annotation_files()
    name = draw(st.sampled_from([*files, "e.json"]))
    if name == "d.xml" or draw(st.integers(0, 3)) == 0:
        return name, draw(mutated((files.get(name, b"[]"),)))
    document = label_studio_shapes() if name == "e.json" else json.loads(files[name])
    return name, json.dumps(draw(spoiled((document,)))).encode()


def check_annotations(given: tuple[str, bytes], folder: Path) -> None:
    name, content = given
    there, out = folder / "annotations", folder / "masks"
    there.mkdir(exist_ok=True)
    (there / name).write_bytes(content)
    source = there if name == "samples.json" else there / name
    refused_well(partial(convert, source, out, to="png", show_progress=False))
    for path in out.glob("*") if out.is_dir() else []:
        read_labels(path)
    assert not list(folder.glob(".masks*")), "half a folder is left"
    shutil.rmtree(out, ignore_errors=True)
    (there / name).unlink()


def check_coco_runs(given: tuple[str, int], _folder: Path) -> None:
    text, pixels = given
    counts = refused_well(lambda: rle.checked_runs(rle.parse_compressed(text), pixels))
    assert counts is None or len(rle.decode_runs(counts)) == pixels


def check_runs(given: tuple[Any, int], _folder: Path) -> None:
    counts = refused_well(partial(rle.checked_runs, *given))
    assert counts is None or len(rle.decode_runs(counts)) == given[1]


def check_brush(given: tuple[bool, bytes], _folder: Path) -> None:
    sound, packed = given
    if sound:
        packed = bytes(brushes.pack(LABELS > 0))[:6] + packed
    values = refused_well(partial(brushes.unpack, list(packed), 4 * LABELS.size))
    assert values is None or values.shape == (4 * LABELS.size,)


def check_polygon(ring: Any, _folder: Path) -> None:
    found: Any = polygons.Tally()
    points = refused_well(partial(polygons.checked_ring, ring, (12, 20), found))
    if points is not None:
        assert polygons.fill([points], (12, 20)).shape == (12, 20)


def check_painted(given: tuple[list[tuple[int, int]], bytes], _folder: Path) -> None:
    """Check a mask that a page sends."""
    runs, more = given
    body = b"".join((length << 8 | label).to_bytes(4, "little") for length, label in runs) + more
    try:
        labels = labels_of_runs(body, (12, 20), (0, 1, 255))
    except ValueError:
        return
    assert labels.shape == (12, 20)
    assert set(np.unique(labels)) <= {0, 1, 255}
    assert len(body) <= most_bytes((12, 20))


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name.replace("__", "/"), member)
    return file.getvalue()


def check_zip(content: bytes, folder: Path) -> None:
    """Check an archive that was fetched."""
    path, out = folder / "a.zip", folder / "member"
    path.write_bytes(content)
    archive = refused_well(partial(open_zip, path), "a.zip")
    if archive is not None:
        with archive:
            for member in files_in(archive):
                refused_well(partial(member.save, out), "a.zip")
    assert {one.name for one in folder.iterdir()} <= {"a.zip", "member"}, "something lies where nothing should"
    out.unlink(missing_ok=True)


@cache
def targets() -> tuple[Target, ...]:
    """Return all targets; the seeds of their inputs are made here."""
    model = network(in_channels=3, out_channels=1)
    png = made(saved("a.png", LABELS))
    maps = arrays(ids=np.array(["a"]), epochs=np.arange(2), maps=np.zeros((2, 1, 4, 4)))
    counts = st.lists(st.integers(-1, 300), max_size=6) | JUNK
    pixels = st.sampled_from([0, 12, 240])
    signs = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)
    floats = st.floats(-50, 80) | st.floats(allow_nan=True)
    lengths, labels = st.integers(0, 240) | st.integers(0, 2**24 - 1), st.sampled_from([0, 1, 2, 255])
    return (
        Target("picture", pictures(seeds_of((*IMAGES, *NIFTI, *MASKS))), check_picture),
        Target("table", tables(), check_table),
        Target("parquet", mutated((made(parquet()),)), partial(check_table, name="cases.parquet")),
        Target("settings", mutated(SETTINGS), check_settings),
        Target("weights", repacked((saved_state({"model": model.state_dict()}),)), check_weights),
        Target("checkpoint", repacked((saved_state(state().pack()),)), check_checkpoint),
        Target("weight maps", repacked((maps,)), check_weight_maps),
        Target("run texts", run_texts(), check_run_texts),
        Target("helped map", mutated((png,)), check_helped_map),
        Target("audit", audit_files(), check_audit),
        Target("annotations", annotations(), check_annotations),
        Target("coco runs", st.tuples(signs, pixels), check_coco_runs),
        Target("runs", st.tuples(counts, pixels), check_runs),
        Target("brush", st.tuples(st.booleans(), st.binary(max_size=60)), check_brush),
        Target("polygon", st.lists(floats, max_size=12) | st.lists(st.lists(floats, min_size=2, max_size=2)) | JUNK, check_polygon),
        Target("painted", st.tuples(st.lists(st.tuples(lengths, labels), max_size=5), st.binary(max_size=4)), check_painted),
        Target("archive", repacked((zipped(a__1=png, a__2=png, b=b"id,split\n"),)), check_zip),
    )


def run_of(target: Target, folder: Path, told: Callable[[Any], None] | None = None, **how: Any) -> Callable[[], None]:
    """Tries inputs of a target by hypothesis; `told` is called with each before it is tried."""

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **how)
    @given(target.inputs)
    def run(given: Any) -> None:
        if told is not None:
            told(given)
        with warnings.catch_warnings(action="ignore"):  # of pandas, Pillow and nibabel, about what they then give up
            target.check(given, folder)

    return run


# --- sittings -----------------------------------------------------------------------------------------------------


@dataclass
class Sitting:
    """What has been tried so far, by target, and what was found."""

    engine: str
    began: float
    inputs: dict[str, int]
    found: dict[str, str]

    def keep(self, out: Path, earlier: list[Any]) -> None:
        minutes = round((time.monotonic() - self.began) / 60, 1)
        machine = {name: value for name, value in describe_environment().items() if name != "command"}
        now = {"engine": self.engine, "minutes": minutes, "inputs": self.inputs, "found": self.found, "environment": machine}
        write_file(out / "fuzz.json", json.dumps({"sittings": [*earlier, now]}, indent=1) + "\n")


def by_chance(target: Target, folder: Path, sitting: Sitting, out: Path) -> None:
    """Try some inputs of a target by hypothesis; keep what is found, once for each place in the code."""
    last: list[Any] = [None]

    def told(given: Any) -> None:
        faulthandler.dump_traceback_later(HANGS, exit=True)
        sitting.inputs[target.name] = sitting.inputs.get(target.name, 0) + 1
        last[0] = given
        (folder.parent / "last").write_text(f"{target.name}: {given!r}", encoding="utf-8", errors="backslashreplace")

    trying = run_of(target, folder, told, max_examples=ROUND, report_multiple_bugs=False, phases=[Phase.generate, Phase.shrink])
    try:
        seeded(random.getrandbits(64))(trying)()
    except Exception as error:  # whatever it is, it is what is looked for
        keep_found(target, error, last[0], sitting, out)
    finally:
        faulthandler.cancel_dump_traceback_later()


def keep_found(target: Target, error: Exception, given: Any, sitting: Sitting, out: Path) -> None:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    key = f"{target.name}: {type(error).__name__} at {place}"
    if key not in sitting.found:
        sitting.found[key] = f"{error!s:.300}"
        print(f"found: {key}: {error!s:.300}", flush=True)
        (out / "found").mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "-" for letter in key)
        (out / "found" / f"{name}.txt").write_text(f"{error}\n\n{given!r}\n", encoding="utf-8", errors="backslashreplace")


def in_turns(minutes: float, out: Path, names: list[str], earlier: list[Any]) -> Sitting:
    """Target by target by hypothesis, until the time is over."""
    limit_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sitting = Sitting("hypothesis", time.monotonic(), {}, {})
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while time.monotonic() - sitting.began < 60 * minutes:
            for target in targets():
                if target.name in names:
                    there = Path(folder) / target.name
                    there.mkdir(exist_ok=True)
                    by_chance(target, there, sitting, out)
            sitting.keep(out, earlier)
    return sitting


def guided(name: str, seconds: int, out: str) -> None:
    """Run a target by atheris; this ends the process."""
    import atheris

    (target,) = (target for target in targets() if target.name == name)
    with tempfile.TemporaryDirectory() as folder:
        trying: Any = run_of(target, Path(folder))
        words = [f"-max_total_time={seconds}", "-print_final_stats=1", "-timeout=60", "-rss_limit_mb=4096", "-max_len=4096"]
        atheris.Setup([sys.argv[0], *words, f"-artifact_prefix={out}/"], trying.hypothesis.fuzz_one_input)
        atheris.Fuzz()


_GUIDED = """
import atheris
OURS = ("formats", "reviewing.masks", "config", "data.cases", "plumbing.tables")
with atheris.instrument_imports(include=["pixeltrust." + name for name in OURS]):
    import fuzz
fuzz.guided({!r}, {}, {!r})
"""


def by_coverage(minutes: float, out: Path, names: list[str], earlier: list[Any]) -> Sitting:
    """Run the targets of our own parsers by atheris, an equal time for each, in processes of their own."""
    sitting = Sitting("atheris", time.monotonic(), {}, {})
    found = out / "found"
    found.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in OWN if name in names]
    for name in chosen:
        code = _GUIDED.format(name, int(60 * minutes / len(chosen)), str(found.absolute()))
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", env={**os.environ, "PYTHONPATH": path}
        )
        said = dict(line.removeprefix("stat::").split(":", 1) for line in ended.stderr.splitlines() if line.startswith("stat::"))
        sitting.inputs[name] = int(said.get("number_of_executed_units", 0))
        if ended.returncode:
            sitting.found[name] = " ".join(ended.stderr[-600:].split())
            print(f"found: {name}: {ended.stderr[-3000:]}", flush=True)
        sitting.keep(out, earlier)
    return sitting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("results/reliability"))
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--targets", nargs="+", default=[target.name for target in targets()], metavar="NAME")
    asked = parser.parse_args()
    kept = asked.out / "fuzz.json"
    earlier = json.loads(kept.read_text(encoding="utf-8"))["sittings"] if kept.is_file() else []
    asked.out.mkdir(parents=True, exist_ok=True)
    sitting = (by_coverage if asked.engine == "atheris" else in_turns)(asked.minutes, asked.out, asked.targets, earlier)
    print(f"{sum(sitting.inputs.values()):,} inputs of {len(sitting.inputs)} targets, {len(sitting.found)} found; in {kept}")


if __name__ == "__main__":
    main()
