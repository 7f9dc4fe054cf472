"""Weights of a few noisy cases over training, for the report.

N cases   E epochs   (H, W) the size that is trained on   maps (E, N, H, W), multiples of the average weight
"""

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.data.batches import CaseCache, Streams, split_in_pieces
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.weights import clean_gradient, gains_along, normalise_gains
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.training.models import parameters_along
from pixeltrust.training.run_folder import Run

MAP_EPOCHS = 12  # weight maps are kept after at most so many epochs, evenly spread
MAP_CLEAN = 64  # clean cases that those weights are taken from, at most


def map_epochs(epochs: int) -> set[int]:
    """The epochs (from 1) after which weight maps are kept: the first, the last, and evenly between."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(MAP_EPOCHS, epochs)).round()}


def keep_weight_maps(run: Run, ids: list[str], weights: Tensor, *, epoch: int) -> None:
    """Add the weights (N, H, W) of this epoch, multiples of the average weight, to the run's, in place of later ones."""
    maps = weights.clamp(max=torch.finfo(torch.half).max).half().cpu().numpy()[None]
    earlier = run.weight_maps()
    if earlier is not None:
        kept = earlier["epochs"] < epoch
        maps = np.concatenate([earlier["maps"][kept], maps])
        epochs = np.append(earlier["epochs"][kept], epoch)
    else:
        epochs = np.array([epoch])
    run.write_arrays("weight_maps.npz", ids=np.array(ids), epochs=epochs, maps=maps)


def weights_by_many(model: nn.Module, streams: Streams, noisy: np.ndarray, device: torch.device) -> Tensor:
    """Weights (N, H, W) of noisy cases by the gains that many clean ones give them, multiples of the average."""
    weights = normalise_gains(_gains_by_many(model, streams.pixels, noisy, streams.clean[:MAP_CLEAN], device))
    return weights * weights.numel()


def _gains_by_many(model: nn.Module, pixels: CaseCache, noisy: np.ndarray, clean: np.ndarray, device: torch.device) -> Tensor:
    """Gains (N, H, W) of noisy cases by the sum of clean losses (the sum of their gains), in batches no larger than those of a step."""
    config = pixels.config
    model.eval()
    along = parameters_along(model, config.along)
    noisy_batches = [pixels.batch(piece, device) for piece in split_in_pieces(noisy, config.batch_size)]
    total = torch.zeros(len(noisy), *config.size, device=device)
    for piece in split_in_pieces(clean, config.clean_batch_size):
        batch = pixels.batch(piece, device)
        counted = (batch.masks != IGNORE).sum()
        if counted:
            with keep_buffers(model):
                _, direction = clean_gradient(model, batch, along=along)
            gains = [gains_along(direction, model, noisy=noisy_batch, gains=config.gains) for noisy_batch in noisy_batches]
            total += counted * torch.cat(gains)
    return total
