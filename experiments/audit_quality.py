"""How well an audit finds wrong pixels and bad masks, and how good its proposals are, beside what else could be done with the same network.

    python experiments/audit_quality.py CELL WORK OUT.csv [--ways audit disagreement loss cleanlab]

CELL is a cell of `pixeltrust benchmark` on simulated noise (its cases.csv, and truth.csv with the true masks). What is made from it stays
in WORK, where the next call finds it: WORK/audit and, for cleanlab, WORK/halves. Each way is a row of OUT.csv, in place of the one that it
has of the same cell; cleanlab, which is not asked unless it is named, needs nothing that the cell has trained:

    audit          confidence of each pixel, agreement of each mask, the mended masks
    disagreement   probability of the given label by the network's last weights, one pass; Dice of mask and prediction; the prediction
    loss           cross-entropy of the given label; its mean over a mask; no proposal (pixels rank as by disagreement, by construction)
    cleanlab       cleanlab.segmentation on the probabilities of two networks that never saw the mask, trained plainly on one half of the
                   noisy masks each (see `pixeltrust.benchmarking.pruning`): its scores of pixels and of images; the pixels that it names
                   replaced by what those networks see

auroc, precision: of wrong pixels ranked by the way's doubt (average precision), on every fourth row and column; spearman: of the way's
rank of a mask with its true Dice; worst: how many of the tenth of the masks that the way ranks lowest are among the truly worst tenth;
dice: of the proposed masks to the truth, mean over the cases, with that of the given ones beside it.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cleanlab.segmentation.filter import find_label_issues
from cleanlab.segmentation.rank import get_label_quality_scores
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from pixeltrust.auditing.run import audit
from pixeltrust.benchmarking.outcome.reading import read_json_record
from pixeltrust.benchmarking.pruning import predict_unseen_halves, prune
from pixeltrust.config import config_from
from pixeltrust.data.batches import CaseCache, split_in_pieces
from pixeltrust.data.cases import CaseList, read_cases
from pixeltrust.data.images import read_labels
from pixeltrust.data.masks import foreground
from pixeltrust.data.resizing import resize_labels, resize_plane
from pixeltrust.metrics import bootstrap_interval, confusion, dice
from pixeltrust.plumbing.files import make_folder
from pixeltrust.plumbing.tables import read_table
from pixeltrust.training.run_folder import Run

KEY = ["noise", "clean", "seed", "jitter", "way"]
WAYS = ("audit", "disagreement", "loss", "cleanlab")
STEP = 4  # rows and columns of which one counts for the ranking of pixels


class Truth:
    """Given and true masks of the noisy cases of a cell, bool (H, W) each."""

    def __init__(self, cell: Path) -> None:
        self.cell, self.run = cell, Run(cell / "run")
        spec = read_json_record(cell / "spec.json")
        self.config = config_from(spec["config"])
        self.of = {name: spec["cell"][name] for name in ("noise", "clean", "seed")} | {"jitter": self.config.jitter}
        self.cases: CaseList = read_cases(cell / "cases.csv", show_progress=False).of("noisy")
        paths = read_table(cell / "truth.csv").set_index("id")["mask"]
        self.given = [foreground(case.mask, self.config) for case in self.cases]
        self.true = [foreground(Path(paths[case.id]), self.config) for case in self.cases]
        self.dice = np.array([_dice(given, true) for given, true in zip(self.given, self.true, strict=True)])

    def row(self, way: str, doubt: list[np.ndarray], ranks: np.ndarray, proposed: list[np.ndarray] | None) -> dict[str, Any]:
        """Measure a way. Its doubt (H, W) of every case: larger is worse; ranks (N,): smaller is worse; proposals bool (H, W)."""
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
    """Return what the audit found; make the audit first if it is not there."""
    if not (folder / "audit.json").is_file():
        make_folder(folder.parent)
        print(audit(truth.run.folder, truth.cell / "cases.csv", out=folder, resume=True))
    agreement = pd.read_csv(folder / "cases.csv", dtype={"id": str}).set_index("id")["agreement"]
    doubt = [1 - read_labels(folder / "confidence" / f"{case.id}.png") / 255 for case in truth.cases]
    mended = [read_labels(folder / "mended" / f"{case.id}.png") > 0 for case in truth.cases]
    return truth.row("audit", doubt, agreement.loc[truth.cases.texts("id")].to_numpy(), mended)


def disagreeing(truth: Truth, seen: list[np.ndarray]) -> dict[str, Any]:
    """Judge by the network's own opinion: its probabilities of every case, float32 (H, W)."""
    masks = [plane > 0.5 for plane in seen]
    ranks = np.array([_dice(given, mask) for given, mask in zip(truth.given, masks, strict=True)])
    return truth.row("disagreement", _doubt(truth, seen), np.nan_to_num(ranks, nan=1.0), masks)


def losing(truth: Truth, seen: list[np.ndarray]) -> dict[str, Any]:
    """Judge by the cross-entropy of the given labels under the same probabilities."""
    doubt = _doubt(truth, seen)
    return truth.row("loss", doubt, np.array([np.log(1 - one.clip(0, 1 - 1e-6)).mean() for one in doubt]), None)


def _doubt(truth: Truth, seen: list[np.ndarray]) -> list[np.ndarray]:
    return [np.where(given, 1 - plane, plane) for plane, given in zip(seen, truth.given, strict=True)]


def confident(truth: Truth, work: Path) -> dict[str, Any]:
    """Judge by cleanlab, with the probabilities of networks that never saw the mask."""
    make_folder(work)
    shutil.copy(truth.cell / "cases.csv", work / "cases.csv")
    config = replace(truth.config, method="plain")
    prune(work, config)
    labels, both = predict_unseen_halves(truth.cases, work, config)
    issues = find_label_issues(labels, both, n_jobs=1, verbose=False)
    image_scores, pixel_scores = get_label_quality_scores(labels, both, verbose=False)
    doubt = [resize_plane((1 - scores).astype(np.float32), given.shape) for scores, given in zip(pixel_scores, truth.given, strict=True)]
    proposed = []
    for issue, plane, given in zip(issues, both[:, 1], truth.given, strict=True):
        named = resize_labels(issue.astype(np.uint8), given.shape) > 0
        proposed.append(np.where(named, resize_plane(plane, given.shape) > 0.5, given))
    return truth.row("cleanlab", doubt, image_scores, proposed)


def predicted(truth: Truth) -> list[np.ndarray]:
    """Probabilities float32 (H, W) of every case by the run's last weights, one pass."""
    model, pixels = truth.run.model(), CaseCache(truth.cases, truth.config, truth.run.folder)
    with torch.no_grad():
        of_all = split_in_pieces(np.arange(len(truth.cases)), truth.config.batch_size)
        planes = np.concatenate([torch.sigmoid(model(pixels.batch(piece).images))[:, 0].numpy() for piece in of_all])
    return [resize_plane(plane, given.shape) for plane, given in zip(planes, truth.given, strict=True)]


def _dice(found: np.ndarray, true: np.ndarray) -> float:
    return dice(confusion(predicted=found.astype(np.uint8), truth=true.astype(np.uint8)))


def kept(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Add the rows that the file has of other cells and ways, in the order in which they came."""
    both = pd.concat([*([pd.read_csv(file)] if file.exists() else []), table], ignore_index=True)
    return both.drop_duplicates(KEY, keep="last", ignore_index=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:3])
    asked = parser.parse_args(words)
    truth = Truth(asked.cell)
    seen = predicted(truth) if {"disagreement", "loss"} & set(asked.ways) else []
    way_of = {
        "audit": lambda: audited(truth, asked.work / "audit"),
        "disagreement": lambda: disagreeing(truth, seen),
        "loss": lambda: losing(truth, seen),
        "cleanlab": lambda: confident(truth, asked.work),
    }
    rows = [way_of[way]() for way in WAYS if way in asked.ways]
    table = pd.DataFrame([truth.of | row for row in rows]).round(5)
    print(table.to_string(index=False))
    kept(table, asked.out).to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
