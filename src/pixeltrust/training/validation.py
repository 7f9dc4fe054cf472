"""Measuring a network on the held-out clean cases while it is trained."""

from math import nan

import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.data.batches import PIECE, Streams
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import mean_over_counted, pixel_cross_entropy
from pixeltrust.metrics import confusion, dice, mean_of_defined
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.training.windows import apply_by_windows


def validate(model: nn.Module, streams: Streams, *, device: torch.device) -> dict[str, float]:
    """Measure the network on the held-out cases, on the grid of training, volumes by windows; every rank measures its part.

    Returns:
        `val_loss` and `val_dice`: the means over the cases; NaN where none are held out.
        `one_label`: the label that the network gives all their pixels, though their masks have others too; NaN where it gives several,
            as it should. Where no cases are held out, some clean cases that are trained on take their place; of volumes, a patch of each.
    """
    model.eval()
    pixels, config = streams.pixels, streams.config
    cases, corners = (streams.held, None) if len(streams.held) else (streams.clean[:PIECE], pixels.middles)
    pieces = pixels.pieces(streams.ranks.part(cases), config.batch_size)
    batches = (streams.upright(piece, device, corners=corners and corners(piece)) for piece in pieces)
    measured = streams.ranks.all_gather_objects([_measure(model, batch, config, device) for batch in batches])
    losses, scores, labels, true = ([value for part in measured for batch in part for value in batch[which]] for which in range(4))
    uniform = len(set(labels)) == 1 and len(set(true)) > 1
    return {
        "val_loss": mean_of_defined(losses) if len(streams.held) else nan,
        "val_dice": mean_of_defined(scores) if len(streams.held) else nan,
        "one_label": float(labels[0]) if uniform else nan,
    }


def _measure(model: nn.Module, batch: Batch, config: Config, device: torch.device) -> tuple[list[float], list[float], list[int], list[int]]:
    """Return the loss and the Dice of every case, the labels that are predicted, and those that the masks have."""
    with torch.no_grad():
        logits = apply_by_windows(model, batch.images, config, batch_size=config.batch_size, device=device)
    predicted, foreground = predicted_labels(logits), range(1, max(config.classes, 2))
    losses = zip(pixel_cross_entropy(logits, batch.masks), batch.masks, strict=True)
    pairs = zip(predicted.cpu().numpy(), batch.masks.cpu().numpy(), strict=True)
    scores = [[dice(confusion(predicted=labels, truth=mask, label=label)) for label in foreground] for labels, mask in pairs]
    return (
        [float(mean_over_counted(loss, mask)) for loss, mask in losses],
        [mean_of_defined(values) for values in scores],
        predicted.unique().tolist(),
        batch.masks[batch.masks != IGNORE].unique().tolist(),
    )


def predicted_labels(logits: Tensor) -> Tensor:
    """Return the most probable label of every pixel, (B, *S), from logits (B, K, *S)."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
