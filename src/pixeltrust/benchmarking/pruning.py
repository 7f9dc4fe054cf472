"""Cross-validated pruning, a rival: pixels whose mask contradicts networks that never saw it are left out of training.

The noisy cases are cut in two halves; a `plain` network that learns from one half and the clean cases gives probabilities for the other.
cleanlab's confident learning (C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021; V. Lad, J. Mueller, "Estimating label quality and errors in semantic segmentation data via any model", arXiv 2307.05080) then names
the wrong pixels, which become ignored. The two networks make as many updates together as one on all cases.

    CELL/halves/<0, 1>/  a run each    CELL/pruned/<id>.png  labels 0 … K − 1, and 255 for ignored    CELL/pruned.csv
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixeltrust.config import Config
from pixeltrust.data.batches import CaseCache, split_in_pieces
from pixeltrust.data.cases import Case, CaseList, Cases, read_cases, table_of
from pixeltrust.data.masks import read_mask
from pixeltrust.data.pictures import write_png
from pixeltrust.data.resizing import resize_labels
from pixeltrust.plumbing.errors import ConfigError
from pixeltrust.plumbing.files import make_folder
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.seeds import generator
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train

HALVES = (0, 1)


def prune(folder: Path, config: Config) -> tuple[Path, Config]:
    """Make the table of a cell's cases with pruned masks, once; return it and the settings to train on it.

    Args:
        folder: of the cell, with its cases.csv.

    Raises:
        ConfigError: cleanlab is not installed.
    """
    table = folder / "pruned.csv"
    if not table.is_file():
        if find_spec("cleanlab") is None:
            raise ConfigError("methods: 'pruned' needs cleanlab: install the extra, pip install 'pixeltrust[rivals]'")
        cases = read_cases(folder / "cases.csv", show_progress=False)
        noisy = cases.of("noisy")
        halves = _halves(noisy, config)
        for half in HALVES:
            _train_on(noisy[np.flatnonzero(halves == half)], cases, folder / "halves" / str(half), config)
        issues = _issues(*predict_unseen_halves(noisy, folder, config))
        _write_masks(cases, issues, folder / "pruned", config)
        rows = table_of([replace(case, mask=folder / "pruned" / f"{case.id}.png") for case in cases.cases if case.role != "test"])
        write_csv(rows.drop(columns="held_out"), table)
    return table, replace(config, ignore_label=IGNORE)


def seconds_of_halves(folder: Path) -> float:
    """Return the seconds of the two extra trainings of a cell; 0 where there were none."""
    runs = [folder / "halves" / str(half) / "run" for half in HALVES]
    return sum(float(Run(run).read_table("history.csv")["seconds"].iloc[-1]) for run in runs if run.is_dir())


def predict_unseen_halves(noisy: CaseList, folder: Path, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels uint8 (N, H, W) of a cell's noisy cases at the size of training, and their probabilities float32 (N, K, H, W),
    K ≥ 2, by the network of the half that a case is not in.

    Args:
        folder: of the cell, after `prune`.
    """
    pixels, halves = CaseCache(noisy, replace(config, cache_gib=float("inf")), folder), _halves(noisy, config)
    labels = np.empty((len(noisy), *config.size), np.uint8)
    probabilities = np.empty((len(noisy), max(config.classes, 2), *config.size), np.float32)
    for half in HALVES:
        model = Run(folder / "halves" / str(half) / "run").model()
        for piece in split_in_pieces(np.flatnonzero(halves != half), config.batch_size):
            batch = pixels.batch(piece)
            labels[piece] = batch.masks
            with torch.no_grad():
                probabilities[piece] = _probabilities(model(batch.images))
    return labels, probabilities


def _halves(noisy: CaseList, config: Config) -> np.ndarray:
    """Return the half that every noisy case is in, (N,)."""
    return generator(config.seed, "halves").permutation(len(noisy)) % len(HALVES)


def _train_on(noisy: CaseList, cases: Cases, out: Path, config: Config) -> None:
    """Train a `plain` run on some of the noisy cases and all clean ones."""
    make_folder(out)
    rows = table_of(noisy + cases.of("clean")).drop(columns="held_out")
    write_csv(rows, out / "cases.csv")
    train(out / "cases.csv", out=out / "run", config=config, resume=True, show_progress=False)


def _issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return where noisy masks are wrong, bool (N, H, W) at the size of training."""
    from cleanlab.segmentation.filter import find_label_issues

    ignored = labels == IGNORE
    labels[ignored] = probabilities.argmax(1)[ignored]  # then nothing contradicts them
    return find_label_issues(labels, probabilities, n_jobs=1, verbose=False) & ~ignored


def _probabilities(logits: Tensor) -> Tensor:
    """Return the probabilities (B, K, H, W) of every class, with the background as a class where there is one logit."""
    scores = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    return torch.softmax(scores, 1)


def _write_masks(cases: Cases, issues: np.ndarray, out: Path, config: Config) -> None:
    """Write the masks of all cases that train, as labels with 255 where pixels are ignored or pruned."""
    make_folder(out)
    wrong = dict(zip(cases.of("noisy").texts("id"), issues, strict=True))

    def write(case: Case) -> None:
        labels = read_mask(case.mask, config)
        if case.id in wrong:
            labels[resize_labels(wrong[case.id].astype(np.uint8), labels.shape) > 0] = IGNORE
        write_png(out / f"{case.id}.png", labels)

    training = [case for case in cases.cases if case.role != "test"]
    map_in_threads(write, training, text="pruned masks", complaint="These masks cannot be pruned:", shown=False)
