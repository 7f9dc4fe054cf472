"""How often the interval of `pixeltrust mend` holds the truth: many draws of cases, pairs and noise, mended where the truth is known.

    python experiments/estimate_coverage.py SOURCE --out results/coverage/triangle.csv --noise triangle --draws 20 [--set key=value]…

A draw takes some training cases of SOURCE (a folder with images/, masks/, split.csv) by its seed, some of them as pairs, and mends the
others. A row per draw: its pairs, the Dice of the masks as given and mended (by the truth), and the expected one with its interval. Called
again it goes on with the draws that are missing.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

import pixeltrust
from pixeltrust.data.images import read_labels
from pixeltrust.data.known_truth import SourceCase, read_source
from pixeltrust.data.masks import read_binary
from pixeltrust.mending.settings import read_mender_config
from pixeltrust.metrics import confusion, dice
from pixeltrust.plumbing.files import link_or_copy
from pixeltrust.plumbing.seeds import generator

QUICK = ("image_size=48", "epochs=4", "updates_per_epoch=50", "stronger_below=0")
"""Settings of the menders: much quicker than the defaults, which changes how good they are, not how well they know it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", default="triangle")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    cases = [case for case in read_source(asked.source, show_progress=False) if case.trains]
    rows = pd.read_csv(asked.out).to_dict("records") if asked.out.is_file() else []
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.draws):
        if seed in {row["seed"] for row in rows}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"seed": seed, **mend_one(Path(folder), cases, asked, seed)})
        pd.DataFrame(rows).to_csv(asked.out, index=False)
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    inside = (table["low"] <= table["mended"]) & (table["mended"] <= table["high"])
    print(
        f"{inside.sum()} of {len(table)} intervals hold the truth; expected minus true {(table['expected'] - table['mended']).mean():+.4f}"
    )


def draw_data(folder: Path, cases: list[SourceCase], *, noise: str, clean: int, seed: int) -> dict[str, Path]:
    """Make FOLDER/data of these cases; return their true masks by id."""
    for case in cases:
        for part, file in (("images", case.image), ("masks", case.mask)):
            (folder / "source" / part).mkdir(parents=True, exist_ok=True)
            link_or_copy(file, folder / "source" / part / file.name)
    pixeltrust.simulate(folder / "source", folder / "data", noise=noise, clean=clean, seed=seed, show_progress=False)
    return {case.id: case.mask for case in cases}


def mend_one(folder: Path, cases: list, asked: argparse.Namespace, seed: int) -> dict[str, float]:
    """Mend one draw; return its row."""
    chosen = [cases[place] for place in generator(seed, "coverage").permutation(len(cases))[: asked.cases]]
    truth = draw_data(folder, chosen, noise=asked.noise, clean=asked.pairs, seed=seed)
    config = read_mender_config(settings=(*QUICK, f"seed={seed}", *asked.settings))
    done = pixeltrust.mend(folder / "data", out=folder / "mended", config=config, show_progress=False)
    real = {
        name: [dice(confusion(predicted=read_labels(file(row)) > 0, truth=read_binary(truth[row.id]))) for row in done.cases.itertuples()]
        for name, file in (("given", lambda row: Path(row.mask)), ("mended", lambda row: folder / "mended" / "mended" / f"{row.id}.png"))
    }
    expected = done.estimate.expected
    return {
        "noise": asked.noise, "pairs": asked.pairs, "way": done.estimate.way, "changed": done.estimate.changed,
        "given": round(sum(real["given"]) / len(real["given"]), 5), "mended": round(sum(real["mended"]) / len(real["mended"]), 5),
        "expected": round(expected.dice, 5), "low": round(expected.low, 5), "high": round(expected.high, 5),
        "below": sum(value < 0.7 for value in real["mended"]), "expected_below": int(done.estimate.below["cases"]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
