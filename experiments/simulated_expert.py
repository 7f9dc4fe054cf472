"""An expert corrects masks one by one, where the truth is known: how good all masks are after so many, by what is shown first.

    python experiments/simulated_expert.py SOURCE --out results/expert/triangle.csv --noise triangle [--seconds 20] [--set key=value]…

Some training cases of SOURCE (a folder with images/, masks/, split.csv) get noisy masks. The expert corrects a first sample; after every
round menders learn from all pairs so far and mend the rest. The next round is `random` (further cases of the sample), `worst` (by the
expected Dice, the lowest first) or `mixed` (half of each). A row per choice and round: corrections, the expert's minutes at so many
seconds each, the mean Dice of the masks that are left (mended), that of all (a corrected one has 1), and the estimate with its interval.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import pixeltrust
from estimate_coverage import QUICK, draw_data
from pixeltrust.auditing.blank import make_blank_audit
from pixeltrust.data.cases import COLUMNS
from pixeltrust.data.images import read_labels
from pixeltrust.data.known_truth import read_source
from pixeltrust.data.masks import read_binary
from pixeltrust.mending.settings import read_mender_config
from pixeltrust.metrics import confusion, dice
from pixeltrust.plumbing.seeds import generator

ROUNDS = (10, 20, 40, 80)  # corrections after each
CHOICES = ("random", "worst", "mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", default="triangle")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    trained = [case for case in read_source(asked.source, show_progress=False) if case.trains]
    rows = pd.read_csv(asked.out).to_dict("records") if asked.out.is_file() else []
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = generator(seed, "expert").permutation(len(trained))[: asked.cases]
            truth = draw_data(folder, [trained[place] for place in places], noise=asked.noise, clean=0, seed=seed)
            order = make_blank_audit(folder / "data", out=folder / "blank", seed=seed, show_progress=False)["id"].tolist()
            for choice in CHOICES:
                done = {(row["seed"], row["choice"]) for row in rows}
                if (seed, choice) not in done:
                    rows += [{"seed": seed, "choice": choice, **row} for row in correct(folder, truth, order, choice, asked, seed)]
                    pd.DataFrame(rows).to_csv(asked.out, index=False)
                    print(pd.DataFrame(rows).tail(len(ROUNDS)).to_string(header=False), flush=True)


def correct(folder: Path, truth: dict[str, Path], order: list[str], choice: str, asked: argparse.Namespace, seed: int) -> list[dict]:
    """Correct masks in rounds by a choice; return a row for each round."""
    images = {file.stem: file for file in (folder / "data" / "images").iterdir()}
    corrected: list[str] = []
    ranked: list[str] = []
    rows = []
    for number in ROUNDS:
        sample, worst = ([identity for identity in ids if identity not in corrected] for ids in (order, ranked))
        wanted = number - len(corrected)
        from_worst = {"random": 0, "worst": wanted, "mixed": wanted // 2}[choice] if ranked else 0
        chosen = worst[:from_worst]
        corrected += chosen + [identity for identity in sample if identity not in chosen][: wanted - from_worst]
        given = {identity: folder / "data" / "noisy" / f"{identity}.png" for identity in truth}
        table = [(identity, images[identity], given[identity], "noisy") for identity in truth]
        table += [(identity, images[identity], truth[identity], "clean") for identity in corrected]
        file = folder / f"{choice}-{number}.csv"
        pd.DataFrame(table, columns=list(COLUMNS)).to_csv(file, index=False)
        config = read_mender_config(settings=(*QUICK, f"seed={seed}", *asked.settings))
        done = pixeltrust.mend(file, out=folder / f"{choice}-{number}", config=config, show_progress=False)
        ranked = done.cases["id"].tolist()
        left = np.array([
            dice(confusion(predicted=read_labels(done.out / "mended" / f"{identity}.png") > 0, truth=read_binary(truth[identity])))
            for identity in ranked
        ])  # fmt: skip
        expected = done.estimate.expected
        rows.append({
            "noise": asked.noise, "corrections": number, "minutes": round(number * asked.seconds / 60, 1), "left": round(left.mean(), 5),
            "all": round((left.sum() + number) / len(truth), 5), "expected": round(expected.dice, 5), "low": round(expected.low, 5),
            "high": round(expected.high, 5),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
