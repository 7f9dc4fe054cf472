"""How good a network is on the held-out clean cases while it is trained."""

import numpy as np
import torch
from torch import nn

from pixeltrust.data import Streams, pieces
from pixeltrust.losses import mean_over_counted, pixel_cross_entropy
from pixeltrust.metrics import confusion, dice, mean_of_defined


def validate(model: nn.Module, streams: Streams, *, device: torch.device) -> tuple[float, float]:
    """Mean loss and mean Dice of the held-out cases, at the size of training; NaN where there are none. Every rank looks at its part."""
    config, ranks = streams.config, streams.ranks
    losses, scores = [], []
    model.eval()
    for piece in pieces(ranks.part(streams.held), config.batch_size):
        batch = streams.pixels.batch(piece, device)
        with torch.no_grad():
            logits = model(batch.images)
        cross_entropy = pixel_cross_entropy(logits, batch.masks)
        losses += [float(mean_over_counted(loss, mask)) for loss, mask in zip(cross_entropy, batch.masks, strict=True)]
        predicted = (logits[:, 0] > 0).long() if config.classes == 1 else logits.argmax(1)
        pairs = zip(predicted.cpu().numpy(), batch.masks.cpu().numpy(), strict=True)
        scores += [_mean_dice(found, mask, config.classes) for found, mask in pairs]
    parts = ranks.gathered((losses, scores))
    losses, scores = ([value for part in parts for value in part[which]] for which in (0, 1))
    return mean_of_defined(losses), mean_of_defined(scores)


def _mean_dice(predicted: np.ndarray, mask: np.ndarray, classes: int) -> float:
    return mean_of_defined([dice(confusion(predicted=predicted, truth=mask, label=label)) for label in range(1, max(classes, 2))])
