"""A first try on volumes: python experiments/first_try_volumes.py SOURCE WORK

SOURCE has hippocampus volumes of the Medical Segmentation Decathlon (images/, masks/, split.csv). The masks of its first 40 training cases,
two structures, are eroded to a mean Dice of .738; 20 of them are pairs. What mending the others gives goes to
results/first-try/volumes.json; the picture is drawn by docs/make/mended_volume.py.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

import pixeltrust
from pixeltrust.data.images import read_labels
from pixeltrust.mending.ways import dice_between

CASES, PAIRS, CLASSES, TARGET = 40, 20, 3, 0.738
SETTINGS = {"classes": CLASSES, "image_size": [40, 56, 40], "epochs": 10, "updates_per_epoch": 40}
OUT = Path(__file__).parents[1] / "results/first-try/volumes.json"


def make_data(source: Path, work: Path) -> Path:
    """Erode the masks of the first cases."""
    split = pd.read_csv(source / "split.csv", dtype=str)
    for part in ("images", "masks"):
        (work / "source" / part).mkdir(parents=True)
        for one in split.loc[split["split"] == "train", "id"].head(CASES):
            shutil.copy(source / part / f"{one}.nii.gz", work / "source" / part)
    pixeltrust.simulate(work / "source", work / "data", noise="erode", classes=CLASSES, clean=PAIRS, target_dice=TARGET)
    return work / "data"


def outcome(work: Path) -> dict[str, float]:
    """Return what mending expects, and what is true."""
    told = json.loads((work / "mended/estimate.json").read_text(encoding="utf-8"))
    rows = []
    for file in sorted((work / "mended/mended").iterdir()):
        true = read_labels(work / "source/masks" / file.name)
        rows.append([dice_between(read_labels(mask), true, CLASSES) for mask in (work / "data/noisy" / file.name, file)])
    table = pd.DataFrame(rows, columns=["given", "mended"])
    expected = {f"expected_{key}": round(told["expected"][key], 4) for key in ("dice", "low", "high")}
    true = {name: round(float(table[name].mean()), 4) for name in table}
    return {"masks": len(table), "pairs": told["pairs"], **expected, **true, "better": int((table["mended"] > table["given"]).sum())}


def main(source: Path, work: Path) -> None:
    data, began = make_data(source, work), time.process_time()
    pixeltrust.mend(data, out=work / "mended", config=SETTINGS)
    cost = {"processor_seconds": round(time.process_time() - began)}
    OUT.write_text(json.dumps({**outcome(work), **SETTINGS, **cost}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
