"""Draw which pixels training trusts and distrusts wrongly, where the truth is known: a row for each of some noisy cases.

    python docs/make/wrong_trust.py CELL AUDIT OUT.png [--cases 5]

CELL is a cell of `pixeltrust benchmark` on simulated noise whose method has gains, AUDIT an audit of its run. The cases are spread evenly
over the Dice of their given masks. A pixel is trusted by training where it helped in more than half of its visits, and by the audit where
it is likelier right than wrong. Orange: wrong, but trusted. Blue: right, but distrusted. Grey: wrong, and distrusted. How much of either
there is in all noisy masks is printed.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

from audit_quality import Truth
from pixeltrust.benchmarking.outcome.examples import evenly_spread
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.resizing import resize_labels, resize_plane
from pixeltrust.training.helped_maps import read_helped_map

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

KINDS = {
    "wrong, but trusted": (0.84, 0.37, 0.0),
    "right, but distrusted": (0.0, 0.45, 0.7),
    "wrong, and distrusted": (0.45, 0.45, 0.45),
    "right, and trusted": (0.95, 0.95, 0.93),
}


def by_training(truth: Truth, place: int) -> np.ndarray:
    """Shares of visits (H, W) at which each pixel helped."""
    given = truth.given[place].astype(np.uint8)
    shares = read_helped_map(truth.run, truth.cases[place].id, resize_labels(given, truth.config.size))
    assert shares is not None, f"{truth.run.folder} has learned nothing of {truth.cases[place].id}"
    return resize_plane(shares, given.shape)


def coloured(trusted: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the colour of each kind of pixel, (H, W, 3)."""
    kinds = [trusted & wrong, ~trusted & ~wrong, ~trusted & wrong]
    *colours, rest = (np.array(colour) for colour in KINDS.values())
    return np.select([kind[..., None] for kind in kinds], colours, rest)


def add_legend(figure: plt.Figure) -> None:
    """Say at the foot what the colours of the last two columns mean."""
    patches = [Patch(facecolor=colour, edgecolor="0.5", label=name) for name, colour in KINDS.items()]
    figure.legend(handles=patches, ncols=len(patches), loc="lower center", fontsize=9, frameon=False)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", type=Path)
    parser.add_argument("audit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=5)
    asked = parser.parse_args(words)
    truth = Truth(asked.cell)
    ids = truth.cases.texts("id")
    chosen = [list(ids).index(one) for one in evenly_spread(pd.Series(truth.dice, index=ids), asked.cases)]
    columns = ["given (line) and true (broken)", "share of visits that helped", "training trusts wrongly", "the audit trusts wrongly"]
    figure, axes = plt.subplots(len(chosen), len(columns), figsize=(2.6 * len(columns), 2.1 * len(chosen) + 0.3), squeeze=False)
    for row, place in zip(axes, chosen, strict=True):
        case, given, true = truth.cases[place], truth.given[place], truth.true[place]
        row[0].imshow(read_image(case.image, 3))
        for mask, style in ((given, "solid"), (true, "dashed")):
            if mask.any() and not mask.all():
                row[0].contour(mask, [0.5], colors="yellow", linestyles=style, linewidths=1)
        shares = by_training(truth, place)
        row[1].imshow(shares, vmin=0, vmax=1, cmap="cividis")
        row[2].imshow(coloured(shares > 0.5, given != true))
        row[3].imshow(coloured(read_labels(asked.audit / "confidence" / f"{case.id}.png") >= 128, given != true))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="auto")
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.4, rect=(0, 0.03, 1, 1))
    add_legend(figure)
    figure.savefig(asked.out, dpi=80)
    counts = np.zeros((2, 2, 2))  # witness, wrong, trusted
    for place, (given, true) in enumerate(zip(truth.given, truth.true, strict=True)):
        wrong = (given != true).ravel()
        audited = read_labels(asked.audit / "confidence" / f"{truth.cases[place].id}.png") >= 128
        for witness, trusted in enumerate((by_training(truth, place) > 0.5, audited)):
            counts[witness] += np.bincount(2 * wrong + trusted.ravel(), minlength=4).reshape(2, 2)
    shares_of = counts[..., 1] / counts.sum(-1)
    told = {
        name: {"wrong pixels trusted": round(float(wrong), 4), "right pixels distrusted": round(float(1 - right), 4)}
        for name, (right, wrong) in zip(("training", "audit"), shares_of, strict=True)
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
