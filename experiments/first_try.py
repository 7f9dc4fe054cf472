"""A first try on real skin, as a newcomer makes it: python experiments/first_try.py SOURCE WORK

SOURCE is ISIC 2017 (images/, masks/, split.csv). Its first 120 training images get a triangle for a mask, named `<id>_segmentation.png`,
and ten of them are corrected. The masks are mended by the command of the README with two settings for a quick look. What came out, what
it took, and what the true masks say of it goes to results/first-try/first-try.json.
"""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pixeltrust.data.images import read_labels
from pixeltrust.mending.ways import dice_between
from pixeltrust.noise.simulate import simulate

CASES, PAIRS, SETTINGS = 120, 10, {"image_size": 64, "epochs": 2}
OUT = Path(__file__).parents[1] / "results/first-try/first-try.json"


def make_folder(source: Path, work: Path) -> Path:
    """Lay out a folder with the names that people have."""
    split = pd.read_csv(source / "split.csv", dtype=str)
    ids, folder = split.loc[split["split"] == "train", "id"].head(CASES), work / "skin"
    for part, ending in (("images", "jpg"), ("masks", "png")):
        (work / "source" / part).mkdir(parents=True)
        for one in ids:
            shutil.copy(source / part / f"{one}.{ending}", work / "source" / part)
    simulate(work / "source", work / "simulated", noise="triangle", clean=PAIRS, show_progress=False)
    shutil.copytree(work / "simulated/images", folder / "images")
    for part, name in (("noisy", "masks"), ("clean", "corrected")):
        (folder / name).mkdir()
        for mask in (work / "simulated" / part).iterdir():
            shutil.copy(mask, folder / name / f"{mask.stem}_segmentation.png")
    return folder


def outcome(work: Path) -> dict[str, float]:
    """Return what mending expects, and what is true."""
    told = json.loads((work / "mended/estimate.json").read_text(encoding="utf-8"))
    scores = {"given": [], "mended": []}
    for file in sorted((work / "mended/mended").iterdir()):
        true = read_labels(work / "source/masks" / file.name) > 0
        for name, path in {"given": work / "skin/masks" / f"{file.stem}_segmentation.png", "mended": file}.items():
            scores[name].append(dice_between((read_labels(path) > 0).astype("uint8"), true.astype("uint8"), 1))
    table = pd.DataFrame(scores)
    expected = {f"expected_{key}": round(told["expected"][key], 4) for key in ("dice", "low", "high")}
    true = {name: round(float(table[name].mean()), 4) for name in table}
    return {"masks": len(table), "pairs": told["pairs"], **expected, **true, "better": int((table["mended"] > table["given"]).sum())}


def main(source: Path, work: Path) -> None:
    folder = make_folder(source, work)
    names = ["--noisy", "masks", "--clean", "corrected", "--mask-suffix", "_segmentation"]
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(["pixeltrust", "mend", folder, "--out", work / "mended", *names, *settings], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"processor_seconds": round(used.ru_utime + used.ru_stime, 1), "peak_mib": round(used.ru_maxrss / 1024)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**outcome(work), **SETTINGS, **cost}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
