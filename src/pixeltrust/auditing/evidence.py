"""What the clean set says of masks that training has not seen: for each pixel, the share of clean batches for which learning it helps.

For a mask that was trained on, the helped map of the run holds the share of visits in which a pixel helped. For another mask the finished
network is asked the same, with several batches of the run's clean cases. It says less: by then the network has been fitted to them.
"""

import itertools
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.batches import CaseCache, cut_of, endless_order, split_in_pieces
from pixeltrust.data.cases import Case, CaseList
from pixeltrust.data.fitting import channels_of
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.weights import clean_gradient, gains_along
from pixeltrust.plumbing.errors import GainsWarning, PixeltrustError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.prediction.network import Network
from pixeltrust.training.models import parameters_along
from pixeltrust.training.run_folder import Run

ASKED = 6  # clean batches


class CleanSet:
    """The gradients of batches of the clean cases that a run was trained on, for its finished network, `along` as in training.

    Raises:
        PixeltrustError: there are no clean cases, or their files cannot be read any more.
        ValueError: a batch has ignored pixels only.
    """

    def __init__(self, run: Run, config: Config, model: nn.Module, device: torch.device) -> None:
        table = run.read_table("cases.csv")
        rows = table[(table["role"] == "clean") & (table["held_out"].astype(str) != "True")]
        cases = CaseList.of(
            Case(row["id"], Path(row["image"]), Path(row["mask"]), "clean", channels=channels_of(config)) for row in rows.to_dict("records")
        )
        if not cases:
            raise PixeltrustError(f"{run.folder}: has no clean cases")
        order = np.arange(len(cases))
        numbers = range(min(ASKED, -(-len(cases) // config.clean_batch_size)))
        batches = [endless_order(order, config.clean_batch_size, number, config.seed, "audit") for number in numbers]
        asked, places = np.unique(np.concatenate(batches), return_inverse=True)
        pixels = CaseCache(cases[asked], replace(config, cache_gib=math.inf), run.folder)  # few: no file of them in the run folder
        pieces = split_in_pieces(places, config.clean_batch_size)
        cleans = (pixels.batch(piece, device, corners=pixels.middles(piece)) for piece in pieces)
        along = parameters_along(model, config.along)
        with keep_buffers(model):
            self._directions = [clean_gradient(model, clean, pixel_loss=cross_entropy_of_labels, along=along)[1] for clean in cleans]
        self._model, self._gains, self._size, self._device = model, config.gains, config.size, device

    def helped(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        """Return the shares float32 (B, *S), 0 … 1, for images (B, C, *S) with labels uint8 (B, *S); of volumes patch by patch.

        They are ½ where every gain is 0, as it is for ignored pixels.

        Raises:
            ValueError: the gains of the network cannot be computed.
        """
        shares = np.empty(labels.shape, np.float32)
        firsts = [[*range(0, whole - side, side), whole - side] for whole, side in zip(labels.shape[1:], self._size, strict=True)]
        for corner in itertools.product(*firsts):
            patch = cut_of(corner, self._size)
            shares[patch] = self._helped(images[patch].to(self._device), labels[patch])
        return shares

    def _helped(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        noisy = Batch(images, torch.from_numpy(labels).to(images.device), ignore_label=IGNORE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GainsWarning)  # training has said how the gains are computed
            gains = torch.stack([
                gains_along(direction, self._model, noisy=noisy, pixel_loss=cross_entropy_of_labels, gains=self._gains)
                for direction in self._directions
            ])  # fmt: skip
        votes = (gains != 0).sum(0)
        return torch.where(votes > 0, (gains > 0).sum(0) / votes.clamp(min=1), 0.5).cpu().numpy()


def clean_set_of(run: Run, network: Network) -> tuple[CleanSet | None, list[str]]:
    """Return the clean set and no notes; or None and a note that says why the network cannot be asked for gains."""
    try:
        clean = CleanSet(run, network.config, network.module, network.device)
        size = (1, network.config.channels, *network.config.size)
        clean.helped(torch.zeros(size), np.zeros((1, *network.config.size), np.uint8))
    except (PixeltrustError, ValueError) as error:
        return None, [f"the clean set was not used for masks that training has not seen: {' '.join(str(error).split())}"]
    return clean, []
