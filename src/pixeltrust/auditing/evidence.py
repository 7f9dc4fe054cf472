"""What the clean set says of masks that training has not seen: the share of clean batches for which each pixel's loss gradient helps.

For a mask that was trained on, the helped map of the run holds the share of visits in which a pixel helped. Of another, the same is asked
of the finished network, by several batches of the run's clean cases; it says less, as the network has been fitted to them by then.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.batches import CaseCache, endless_order, split_in_pieces
from pixeltrust.data.cases import Case, CaseList
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.method.module_state import buffers_kept
from pixeltrust.method.weights import Batch, clean_gradient, gains_along
from pixeltrust.plumbing.errors import GainsWarning, PixeltrustError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.training.models import parameters_along
from pixeltrust.training.run_folder import Run

ASKED = 6  # clean batches


class CleanSet:
    """The gradients of batches of the clean cases that a run was trained on, by its finished network, `along` as in training.

    Raises:
        PixeltrustError: files of them cannot be read any more, or there are none.
        ValueError: a batch has ignored pixels only.
    """

    def __init__(self, run: Run, config: Config, model: nn.Module, device: torch.device) -> None:
        table = run.read_table("cases.csv")
        rows = table[(table["role"] == "clean") & (table["held_out"].astype(str) != "True")]
        cases = CaseList.of(Case(row["id"], Path(row["image"]), Path(row["mask"]), "clean") for row in rows.to_dict("records"))
        if not cases:
            raise PixeltrustError(f"{run.folder}: has no clean cases")
        order = np.arange(len(cases))
        numbers = range(min(ASKED, -(-len(cases) // config.clean_batch_size)))
        batches = [endless_order(order, config.clean_batch_size, number, config.seed, "audit") for number in numbers]
        asked, places = np.unique(np.concatenate(batches), return_inverse=True)
        pixels = CaseCache(cases[asked], replace(config, cache_gib=math.inf), run.folder)  # few: no file of them in the run folder
        cleans = (pixels.batch(piece, device) for piece in split_in_pieces(places, config.clean_batch_size))
        along = parameters_along(model, config.along)
        with buffers_kept(model):
            self._directions = [clean_gradient(model, clean, pixel_loss=cross_entropy_of_labels, along=along)[1] for clean in cleans]
        self._model, self._gains = model, config.gains

    def helped(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        """Shares float32 (B, h, w), 0 … 1, of images (B, C, h, w) with labels uint8 (B, h, w).

        ½ where every gain is 0, as of ignored pixels.

        Raises:
            ValueError: the network has no gains that are right.
        """
        noisy = Batch(images, torch.from_numpy(labels).to(images.device), ignore_label=IGNORE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GainsWarning)  # how the gains are computed was said by the training
            gains = torch.stack([
                gains_along(direction, self._model, noisy=noisy, pixel_loss=cross_entropy_of_labels, gains=self._gains)
                for direction in self._directions
            ])  # fmt: skip
        said = (gains != 0).sum(0)
        return torch.where(said > 0, (gains > 0).sum(0) / said.clamp(min=1), 0.5).cpu().numpy()
