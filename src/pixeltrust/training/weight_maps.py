"""Weight maps: the weights of a few noisy cases over training, for the page of the run.

N cases   E epochs   (H, W) the size that is trained on   maps (E, N, H, W), multiples of the average weight

Of a volume that is the middle slice of a patch about the middle of its foreground; `corners` (N, 3) are the first voxels of the patches.
"""

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.data.batches import Streams, cut_of, split_in_pieces
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.weights import clean_gradient, gains_along, normalise_gains
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.training.methods import StepFunction
from pixeltrust.training.models import parameters_along
from pixeltrust.training.run_writer import RunWriter

MAP_EPOCHS = 12  # the most epochs after which weight maps are kept, spread evenly
MAP_CLEAN = 64  # the most clean cases that those weights are taken from


def map_epochs(epochs: int) -> set[int]:
    """Return the epochs (from 1) after which weight maps are kept: the first, the last, and evenly between."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(MAP_EPOCHS, epochs)).round()}


def keep_weight_maps(run: RunWriter, model: nn.Module, step: StepFunction, streams: Streams, device: torch.device, *, epoch: int) -> None:
    """Add the weights of a few noisy cases after this epoch to the run's weight maps, in place of later ones."""
    cases = streams.map_cases()
    if not len(cases):
        return
    own, size = getattr(step, "weights_of", None), streams.config.size
    ids, corners = [streams.pixels.cases[index].id for index in cases], streams.pixels.middles(cases)
    if own is None:
        weights = weights_from_clean(model, streams, cases, device)
    elif corners is None:
        weights = torch.stack(list(own(ids, streams.config)))
    else:
        weights = torch.stack([whole[cut_of(corner, size)] for whole, corner in zip(own(ids, streams.config), corners, strict=True)])
    weights = weights if corners is None else weights[:, size[0] // 2]
    maps = weights.clamp(max=torch.finfo(torch.half).max).half().cpu().numpy()[None]
    epochs = np.array([epoch])
    written = run.weight_maps()
    if written is not None:
        earlier = written["epochs"] < epoch
        maps = np.concatenate([written["maps"][earlier], maps])
        epochs = np.append(written["epochs"][earlier], epochs)
    places = {} if corners is None else {"corners": np.array(corners)}
    run.write_arrays("weight_maps.npz", ids=np.array(ids), epochs=epochs, maps=maps, **places)


def weights_from_clean(model: nn.Module, streams: Streams, noisy: np.ndarray, device: torch.device) -> Tensor:
    """Return the weights (N, *S) that many clean cases give noisy ones, or patches of them, in multiples of the average."""
    config, pixels = streams.config, streams.pixels
    model.eval()
    along = parameters_along(model, config.along)
    noisy_batches = [pixels.batch(piece, device, corners=pixels.middles(piece)) for piece in split_in_pieces(noisy, config.batch_size)]
    total = torch.zeros(len(noisy), *config.size, device=device)  # the gains by the sum of the clean losses
    for piece in split_in_pieces(streams.clean[:MAP_CLEAN], config.clean_batch_size):
        batch = pixels.batch(piece, device, corners=pixels.middles(piece))
        counted = (batch.masks != IGNORE).sum()
        if counted:
            with keep_buffers(model):
                _, direction = clean_gradient(model, batch, along=along)
            gains = [gains_along(direction, model, noisy=noisy_batch, gains=config.gains) for noisy_batch in noisy_batches]
            total += counted * torch.cat(gains)
    return normalise_gains(total) * total.numel()
