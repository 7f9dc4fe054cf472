"""How good a network is on the held-out clean cases while it is trained."""

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.data import PIECE, Streams, pieces
from pixeltrust.losses import IGNORE, mean_over_counted, pixel_cross_entropy
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
        pairs = zip(labels_of(logits).cpu().numpy(), batch.masks.cpu().numpy(), strict=True)
        scores += [_mean_dice(found, mask, config.classes) for found, mask in pairs]
    parts = ranks.gathered((losses, scores))
    losses, scores = ([value for part in parts for value in part[which]] for which in (0, 1))
    return mean_of_defined(losses), mean_of_defined(scores)


def one_label(model: nn.Module, streams: Streams, *, device: torch.device) -> int | None:
    """The label that the network gives every pixel of some clean cases, held-out ones where there are any, whose masks have others too.

    None where it gives several, as it should.
    """
    model.eval()
    predicted: set[int] = set()
    true: set[int] = set()
    for piece in pieces((streams.held if len(streams.held) else streams.clean)[:PIECE], streams.config.batch_size):
        batch = streams.pixels.batch(piece, device)
        with torch.no_grad():
            predicted |= set(labels_of(model(batch.images)).unique().tolist())
        true |= set(batch.masks.unique().tolist()) - {IGNORE}
        if len(predicted) > 1:
            return None
    return predicted.pop() if len(true) > 1 else None


def labels_of(logits: Tensor) -> Tensor:
    """The most probable label of every pixel, (B, H, W), of logits (B, K, H, W)."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def _mean_dice(predicted: np.ndarray, mask: np.ndarray, classes: int) -> float:
    return mean_of_defined([dice(confusion(predicted=predicted, truth=mask, label=label)) for label in range(1, max(classes, 2))])
