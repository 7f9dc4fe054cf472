"""How well an audit finds wrong pixels and bad masks, and how good its proposals are, beside what else could be done with the same network.

    python benchmarks/audit_quality.py CELL AUDIT OUT.csv [--halves PRUNED_CELL]

CELL is a cell of `pixeltrust benchmark` on simulated noise (its cases.csv, and truth.csv with the true masks); AUDIT is made from its run
if it is not there yet. Each way is a row of OUT.csv:

    audit          trust of each pixel, agreement of each mask, the mended masks
    disagreement   probability of the given label by the network's last weights, one pass; Dice of mask and prediction; the prediction
    loss           cross-entropy of the given label; its mean over a mask; no proposal (pixels rank as by disagreement, by construction)
    cleanlab       cleanlab.segmentation on the probabilities of two halves that never saw the mask (PRUNED_CELL/halves): its scores of
                   pixels and of images; the pixels that it names replaced by what those networks see

auroc, precision: of wrong pixels ranked by the way's doubt (average precision), on every fourth row and column; spearman: of the way's
rank of a mask with its true Dice; worst: how many of the tenth of the masks that the way ranks lowest are among the truly worst tenth;
dice: of the proposed masks to the truth, mean over the cases, with that of the given ones beside it.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cleanlab.segmentation.filter import find_label_issues
from cleanlab.segmentation.rank import get_label_quality_scores
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from pixeltrust.audit import audit
from pixeltrust.benchmark.pruning import seen_by_others
from pixeltrust.cases import CaseList, read_cases
from pixeltrust.data import Pixels, pieces
from pixeltrust.images import read_labels, resize_labels
from pixeltrust.inference import resized_plane
from pixeltrust.labels import foreground
from pixeltrust.metrics import bootstrap_interval, confusion, dice
from pixeltrust.runs import Run
from pixeltrust.tables import read_table

STEP = 4  # rows and columns of which one counts for the ranking of pixels


class Truth:
    """Given and true masks of the noisy cases of a cell, bool (H, W) each."""

    def __init__(self, cell: Path) -> None:
        self.run = Run(cell / "run")
        self.config = self.run.config()
        self.cases: CaseList = read_cases(cell / "cases.csv", show_progress=False).of("noisy")
        paths = read_table(cell / "truth.csv").set_index("id")["mask"]
        self.given = [foreground(case.mask, self.config) for case in self.cases]
        self.true = [foreground(Path(paths[case.id]), self.config) for case in self.cases]
        self.dice = np.array([_dice(given, true) for given, true in zip(self.given, self.true, strict=True)])

    def row(self, way: str, doubt: list[np.ndarray], ranks: np.ndarray, proposed: list[np.ndarray] | None) -> dict[str, Any]:
        """The measures of a way: doubt (H, W) of every case, larger is worse; ranks (N,), smaller is worse; proposals bool (H, W)."""
        wrong = np.concatenate([(g != t)[::STEP, ::STEP].ravel() for g, t in zip(self.given, self.true, strict=True)])
        scores = np.concatenate([one[::STEP, ::STEP].ravel() for one in doubt])
        tenth = len(ranks) // 10
        found, worst = (set(np.argsort(values, kind="stable")[:tenth]) for values in (ranks, self.dice))
        row = {
            "way": way,
            "wrong": wrong.mean(),
            "auroc": roc_auc_score(wrong, scores),
            "precision": average_precision_score(wrong, scores),
            "spearman": spearmanr(ranks, self.dice, nan_policy="omit").statistic,
            "worst": len(found & worst) / tenth,
            "given_dice": np.nanmean(self.dice),
        }
        if proposed is not None:
            each = np.array([_dice(one, true) for one, true in zip(proposed, self.true, strict=True)])
            low, high = bootstrap_interval(each)
            row |= {"dice": np.nanmean(each), "dice_low": low, "dice_high": high}
        return row


def audited(truth: Truth, folder: Path) -> dict[str, Any]:
    agreement = pd.read_csv(folder / "cases.csv", dtype={"id": str}).set_index("id")["agreement"]
    doubt = [1 - read_labels(folder / "trust" / f"{case.id}.png") / 255 for case in truth.cases]
    mended = [read_labels(folder / "mended" / f"{case.id}.png") > 0 for case in truth.cases]
    return truth.row("audit", doubt, agreement.loc[truth.cases.texts("id")].to_numpy(), mended)


def disagreeing(truth: Truth, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Ways by the network's own probabilities (N, h, w), one pass each."""
    of_case = [resized_plane(plane, given.shape) for plane, given in zip(probabilities, truth.given, strict=True)]
    doubt = [np.where(given, 1 - plane, plane) for plane, given in zip(of_case, truth.given, strict=True)]
    seen = [plane > 0.5 for plane in of_case]
    ranks = np.array([_dice(given, one) for given, one in zip(truth.given, seen, strict=True)])
    losses = np.array([np.log(1 - one.clip(0, 1 - 1e-6)).mean() for one in doubt])
    return [truth.row("disagreement", doubt, np.nan_to_num(ranks, nan=1.0), seen), truth.row("loss", doubt, losses, None)]


def confident(truth: Truth, halves: Path) -> dict[str, Any]:
    """cleanlab's way, with the probabilities of the two networks that `pruned` trains."""
    labels, both = seen_by_others(truth.cases, halves, truth.config)
    issues = find_label_issues(labels, both, n_jobs=1, verbose=False)
    image_scores, pixel_scores = get_label_quality_scores(labels, both, verbose=False)
    doubt = [resized_plane((1 - scores).astype(np.float32), given.shape) for scores, given in zip(pixel_scores, truth.given, strict=True)]
    proposed = []
    for issue, plane, given in zip(issues, both[:, 1], truth.given, strict=True):
        named = resize_labels(issue.astype(np.uint8), given.shape) > 0
        proposed.append(np.where(named, resized_plane(plane, given.shape) > 0.5, given))
    return truth.row("cleanlab", doubt, image_scores, proposed)


def predicted(run: Run, cases: CaseList) -> np.ndarray:
    """Probabilities float32 (N, h, w) of a run's last weights, one pass."""
    config, model = run.config(), run.model()
    pixels = Pixels(cases, config, run.folder)
    with torch.no_grad():
        every = [torch.sigmoid(model(pixels.batch(piece).images))[:, 0] for piece in pieces(np.arange(len(cases)), config.batch_size)]
    return torch.cat(every).numpy()


def _dice(found: np.ndarray, true: np.ndarray) -> float:
    return dice(confusion(predicted=found.astype(np.uint8), truth=true.astype(np.uint8)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cell", type=Path)
    arguments.add_argument("audit", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--halves", type=Path)
    given = arguments.parse_args()
    if not (given.audit / "audit.json").is_file():
        print(audit(given.cell / "run", given.cell / "cases.csv", out=given.audit, resume=True))
    truth = Truth(given.cell)
    rows = [audited(truth, given.audit), *disagreeing(truth, predicted(truth.run, truth.cases))]
    if given.halves:
        rows.append(confident(truth, given.halves))
    table = pd.DataFrame([{"cell": given.cell.name} | row for row in rows])
    print(table.round(4).to_string(index=False))
    earlier = [pd.read_csv(given.out)] if given.out.exists() else []
    pd.concat([*earlier, table]).round(5).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
