"""What a big volume costs the review: processor seconds of the server for each thing that a page asks for.

    python benchmarks/review_volumes.py --out results/review

The volume is drawn: a CT of 512x512x400 voxels of .8 x .8 x 1 mm, noise on two values, compressed as NIfTI; the mask is an ellipsoid, the
proposal another one. Processor seconds rather than those of a clock, as other work on the machine does not change them; with
nobody else on the machine they are what one waits.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import AuditRecord
from review_speed import Client, ended, started

SPACING = np.array([1.0, 0.8, 0.8])


def ellipsoid(shape: tuple[int, ...], middle: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, extent) for extent in shape)]
    parts = [((axis - at * extent) / (radius * extent)) ** 2 for axis, at, radius, extent in zip(axes, middle, radii, shape, strict=True)]
    return (parts[0] + parts[1] + parts[2] < 1).astype(np.uint8)


def save(file: Path, values: np.ndarray) -> None:
    import nibabel

    affine = np.diag([*(-SPACING[2:0:-1]), SPACING[0], 1])
    image = nibabel.Nifti1Image(values.transpose(), affine)
    image.header.set_sform(affine, 1)
    image.header.set_qform(affine, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(image.to_bytes(), 1))


def made_up(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Make an audit of one volume; return its folder."""
    draws, audit = np.random.default_rng(0), folder / "audit"
    body = ellipsoid(shape, (0.5, 0.5, 0.5), (2, 0.4, 0.43))
    values = np.where(body, np.int16(40), np.int16(-1000)) + draws.integers(-30, 30, shape, dtype=np.int16)
    given, proposed = ellipsoid(shape, (0.5, 0.45, 0.6), (0.2, 0.08, 0.1)), ellipsoid(shape, (0.5, 0.47, 0.6), (0.2, 0.09, 0.1))
    image, mask = folder / "data/images/ct.nii.gz", folder / "data/noisy/ct.nii.gz"
    save(image, values)
    save(mask, given)
    save(audit / "mended/ct.nii.gz", proposed)
    save(audit / "confidence/ct.nii.gz", 255 - 200 * (given != proposed).astype(np.uint8))
    row = {"rank": 1, "id": "ct", "image": image, "mask": mask, "agreement": 0.8, "doubtful_pixels": 9, "doubtful_share": 0.2}
    row |= {"changed_pixels": 9, "added_pixels": 5, "removed_pixels": 4, "regions": 1, "evidence": "network"}
    pd.DataFrame([row | dict(zip(("depth", "height", "width"), shape, strict=True))]).to_csv(audit / "cases.csv", index=False)
    where = np.argwhere(proposed > given)
    (first, top, left), (last, bottom, right) = where.min(0), where.max(0) + 1
    region = {
        "id": "ct",
        "region": 1,
        "kind": "missing",
        "area": len(where),
        "share": 0.1,
        "doubt": 0.9,
        "mended": True,
        "row": 0,
        "column": 0,
    }
    region |= {"top": top, "left": left, "bottom": bottom, "right": right, "first": first, "last": last, "slice": shape[0] // 2, "mm3": 1}
    pd.DataFrame([region]).to_csv(audit / "regions.csv", index=False)
    about = {"weights": "last", "classes": 1, "ignore_label": None, "channels": 1, "axes": 3, "tilt": (0.0, 0.0), "seconds": 1.0}
    (audit / "audit.json").write_text(AuditRecord(data=str(folder / "data"), run="", **about).text())
    return audit


def processor_seconds(process: int) -> float:
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def measured(process: int, client: Client, shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the processor seconds of each kind of request, the median of several where it is not the first of its kind."""
    seconds: dict[str, float] = {}

    def spend(kind: str, paths: list[str], body: bytes | None = None) -> None:
        taken = []
        for path in paths:
            before = processor_seconds(process)
            client.seconds(path, body=body)
            taken.append(processor_seconds(process) - before)
        seconds[kind] = float(np.mean(taken))

    depth, height, width = shape
    about = "id=ct&who=hand&start=proposed"
    spend("page", ["/case?id=ct"])
    spend("image decoded, once", ["/volume/scale?id=ct"])
    spend("masks decoded, once", [f"/volume/slice?id=ct&axis=0&at={depth // 2}"])
    for axis, name, extent in ((0, "axial", depth), (1, "coronal", height), (2, "sagittal", width)):
        spend(f"slice, {name}", [f"/volume/slice?id=ct&axis={axis}&at={at}" for at in range(extent // 4, 3 * extent // 4, 9)])
    box = f"axis=0&at={depth // 2}&top=200&left=200&bottom=260&right=260"
    spend("first stroke (the draft is made)", [f"/volume/paint?{about}&{box}"], b"\1" * 3600)
    spend("stroke in a plane", [f"/volume/paint?{about}&{box.replace(f'at={depth // 2}', f'at={at}')}" for at in range(8)], b"\1" * 3600)
    path = json.dumps([[200 + step, 300] for step in range(60)]).encode()
    spend("stroke of a ball of 20 mm", [f"/volume/ball?{about}&axis=0&at={at}&size=20&label=1" for at in range(100, 108)], path)
    spend("region taken or left", [f"/volume/change?{about}&region=0"] * 3, b"")
    spend("undo", [f"/volume/turn?{about}&what=undo"] * 4, b"")
    spend("mask saved", ["/decide?id=ct&what=mended&who=hand&seen=0"], b"")
    return seconds


def table(record: dict) -> str:
    rows = [f"| {kind} | {taken:.2f} |" for kind, taken in record["seconds"].items()]
    size = "x".join(map(str, reversed(record["shape"])))
    return "\n".join([f"| a CT of {size} voxels | processor seconds |", "|---|---|", *rows]) + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(400, 512, 512), help="D H W")
    parser.add_argument("--out", type=Path, help="a folder for volume.json and volume.md")
    asked = parser.parse_args(words)
    shape = tuple(asked.shape)
    with tempfile.TemporaryDirectory() as folder:
        process, address, _ = started(made_up(Path(folder), shape))
        try:
            with closing(Client(address)) as client:
                seconds = measured(process.pid, client, shape)
        finally:
            ended(process)
    record = {"shape": shape, "seconds": seconds}
    print(table(record), file=sys.stdout)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "volume.json").write_text(json.dumps(record, indent=2) + "\n")
        (asked.out / "volume.md").write_text(table(record))


if __name__ == "__main__":
    main()
