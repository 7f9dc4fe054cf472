"""How good a single mender is with other settings than those of `pixeltrust mend`: trained on three quarters of the pairs of a benchmark's
cell, held against the truth of other masks, with the given mask and by the image alone.

    python experiments/single_mender.py SOURCE WORK --out results/menders/stronger.csv --noise human --set model=unet-small --set epochs=18

The cell is drawn as `pixeltrust benchmark` draws it, with the settings of the grid; noisy masks and run folders go to WORK. A call adds a
row to the table. It is for choosing settings, so it never looks at test cases.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from pixeltrust.benchmarking.cell_masks import SourceMasks
from pixeltrust.benchmarking.grid import read_grid
from pixeltrust.config import Config, read_config, to_values
from pixeltrust.data.cases import Cases, read_cases, table_of
from pixeltrust.data.fitting import settle
from pixeltrust.data.masks import read_mask
from pixeltrust.mending.menders import choose_crop, enlarge, look, noisy_mask
from pixeltrust.mending.ways import dice_between, drop_parts_apart, propose
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.prediction.network import Network, choose_device, read_network
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train

SETTINGS = ("model", "epochs", "updates_per_epoch", "coarse_share", "given_dropped", "flips")  # columns of the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", type=Path, default=Path(__file__).parent / "grids" / "mended.toml")
    parser.add_argument("--noise", default="triangle")
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=6, help="measure every N-th noisy mask")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    cases, truth, config = draw(asked)
    run = asked.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    pairs = len(cases.of("clean")) * 3 // 4
    table = asked.work / "pairs.csv"
    write_csv(table_of(cases.of("clean")[np.arange(pairs)], pairs=True).drop(columns="held_out"), table)
    started = time.process_time()
    train(table, out=run, config=config, show_progress=False)
    seconds = time.process_time() - started
    row = {"noise": asked.noise, "pairs": pairs, "seed": asked.seed} | {name: getattr(config, name) for name in SETTINGS}
    row |= measure(run, cases, truth, asked.every) | {"training_processor_seconds": round(seconds)}
    print(row, flush=True)
    rows = pd.read_csv(asked.out).to_dict("records") if asked.out.is_file() else []
    pd.DataFrame([*rows, row]).to_csv(asked.out, index=False)


def draw(asked: argparse.Namespace) -> tuple[Cases, dict[str, Path], Config]:
    """Return the cases of the cell, its true masks by id, and the settings of a mender of it."""
    axes = ['methods=["mended"]', f'noise=["{asked.noise}"]', f"clean=[{asked.clean}]", f"seeds=[{asked.seed}]"]
    grid = read_grid(asked.grid, axes)
    asked.work.mkdir(parents=True, exist_ok=True)
    masks = SourceMasks(asked.source, asked.work, classes=grid.settings.get("classes", 1))
    grid = masks.complete(grid)
    cell = grid.cells()[0]
    masks.prepare(cell)
    listed = masks.table(cell)
    listed[listed["role"] != "test"].to_csv(asked.work / "cases.csv", index=False)
    cases = read_cases(asked.work / "cases.csv", may_be_volumes=True, show_progress=False)
    usual = to_values(grid.mender_config(grid.config(cell), asked.clean))
    config = settle(read_config(None, asked.settings, usual), cases)
    truth = {row["id"]: Path(row["mask"]) for row in masks.table(cell, true=True).to_dict("records")}
    return cases, truth, choose_crop(config, cases)


def measure(run: Path, cases: Cases, truth: dict[str, Path], every: int) -> dict[str, float]:
    """Return the mean Dice of masks as the mender makes them, and as it sees them in the image alone."""
    config, model, _ = read_network(Run(run), "last")
    network = Network(choose_device(config)[0], model, config)
    noisy = cases.of("noisy")[np.arange(0, len(cases.of("noisy")), every)]

    found: dict[str, float] = {"masks": len(noisy)}
    for name, known in (("mender", True), ("network", False)):
        dice = []
        for looked in look([network], noisy, turns=[network.turns], known=known, text=name, show_progress=False):
            case = noisy[looked.place]
            given = read_mask(noisy_mask(case), config)
            probabilities = enlarge(looked.probabilities, case, given, config, known=known)
            if known:
                drop_parts_apart(probabilities, given)
            mask = propose("mender", given, probabilities, np.zeros(len(probabilities)))
            dice.append(dice_between(mask, read_mask(truth[case.id], config), config.classes))
        found[name] = round(float(np.nanmean(dice)), 4)
    return found


if __name__ == "__main__":
    main()
