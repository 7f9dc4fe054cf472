"""From given masks to a network on mended ones, by the documented commands alone, each stage measured against the truth.

    python experiments/whole_way.py SOURCE OUT [--noise triangle] [--clean 100] [--seed 0] [--set key=value …] [--results walk.csv]

The commands are printed as they run; what is in OUT already is not made again, so a walk that was stopped goes on:

    lesions/                   simulate SOURCE, with noise
    trust/ audit/              trust on the given masks, and its audit, which mends them
    plain-again/               plain on the mended masks
    trust-again/ audit-again/  trust on the mended masks, and its audit of them, which mends them once more

The table has a row per case and stage (stage, id, Dice): the noisy masks as they were given, mended and mended twice, and the test cases as
each network predicts them. Printed are the means with their intervals, by the bootstrap over cases.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.cli import app
from pixeltrust.data.images import read_labels
from pixeltrust.data.known_truth import read_source
from pixeltrust.data.masks import read_binary
from pixeltrust.metrics import bootstrap_interval, confusion, dice
from pixeltrust.plumbing.tables import read_table
from pixeltrust.training.run_folder import Run

STAGES = {
    "given masks": "lesions",
    "trust": "trust",
    "mended masks": "audit",
    "plain on the mended masks": "plain-again",
    "trust on the mended masks": "trust-again",
    "masks mended twice": "audit-again",
}


def pixeltrust(*words: str | Path) -> None:
    """Run a command of the command line in this process; its messages are shown."""
    print("pixeltrust", *words, flush=True)
    app([*map(str, words)], standalone_mode=False)


def walk(source: Path, out: Path, noise: list[str], settings: list[str]) -> None:
    """Run every command whose result is not there yet."""
    lesions = out / "lesions"
    if not (lesions / "simulation.json").is_file():
        pixeltrust("simulate", source, lesions, *noise)
    trained(lesions, out / "trust", lesions, settings)
    audited(out / "trust", lesions, out / "audit")
    mended = out / "audit" / "mended.csv"
    trained(mended, out / "plain-again", lesions, [*settings, "--set", "method=plain"])
    trained(mended, out / "trust-again", lesions, settings)
    audited(out / "trust-again", mended, out / "audit-again")


def trained(data: Path, out: Path, lesions: Path, settings: list[str]) -> None:
    """Train, predict the test cases and measure them: OUT/run, OUT/predicted, OUT/test.csv."""
    if not Run(out / "run").finished():
        pixeltrust("train", data, *into(out / "run"), *settings)
    if not (out / "test.csv").is_file():
        pixeltrust("predict", out / "run", lesions / "images", *into(out / "predicted"))
        pixeltrust("evaluate", out / "predicted", lesions / "test", "--out", out / "test.csv")


def audited(run: Path, data: Path, out: Path) -> None:
    if not (out / "audit.json").is_file():
        pixeltrust("audit", run / "run", data, *into(out))


def into(out: Path) -> list[str | Path]:
    """Return the arguments that say where to write; what was begun there is resumed."""
    return ["--out", out, *(["--resume"] if out.is_dir() else [])]


def measured(source: Path, out: Path) -> pd.DataFrame:
    """Stage, id and Dice of every noisy mask and of every test case."""
    truths = {case.id: case for case in read_source(source, show_progress=False)}

    def of_masks(folder: Path) -> pd.DataFrame:
        clean = {file.stem for file in (folder.parent / "clean").glob("*.png")}  # their noisy masks are those of pairs
        found = {file.stem: read_labels(file) > 0 for file in sorted(folder.glob("*.png")) if file.stem not in clean}
        scores = [dice(confusion(predicted=mask.astype(np.uint8), truth=read_binary(truths[one].mask))) for one, mask in found.items()]
        return pd.DataFrame({"id": list(found), "dice": scores})

    def of(folder: Path) -> pd.DataFrame:
        if (folder / "test.csv").is_file():
            return read_table(folder / "test.csv")[["id", "dice"]].astype({"dice": float})
        return of_masks(folder / ("mended" if (folder / "mended").is_dir() else "noisy"))

    return pd.concat([of(out / folder).assign(stage=stage) for stage, folder in STAGES.items()], ignore_index=True)[["stage", "id", "dice"]]


def summary(table: pd.DataFrame) -> str:
    """Return the mean of every stage, with its interval and the number of cases."""
    rows = []
    for stage, scores in table.groupby("stage", sort=False)["dice"]:
        low, high = bootstrap_interval(scores.to_numpy())
        rows.append(f"{stage:28} {scores.mean():.4f} ({low:.4f} to {high:.4f}), {len(scores):,} cases")
    return "\n".join(rows)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", default="triangle")
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", nargs="+", default=["model=unet-small", "image_size=64", "epochs=10", "val_fraction=0.2"])
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args(words)
    noise = ["--noise", asked.noise, "--clean", str(asked.clean), "--seed", str(asked.seed)]
    settings = [word for one in [*asked.settings, f"seed={asked.seed}"] for word in ("--set", one)]
    walk(asked.source, asked.out, noise, settings)
    table = measured(asked.source, asked.out)
    print(summary(table))
    if asked.results:
        table.round(4).to_csv(asked.results, index=False)


if __name__ == "__main__":
    main()
