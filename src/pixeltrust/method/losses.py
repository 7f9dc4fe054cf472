"""Losses of pixels, not reduced: the reduction is the caller's line.

B images   K classes   *S spatial axes, (H, W) or (D, H, W)
logits  (B, K, *S)   K = 1 is binary, its one logit is the foreground's
masks   (B, *S)      labels 0 … max(K, 2) − 1; 255 is ignored
weights (B, *S)      ≥ 0, 0 where ignored
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks

PixelLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
WeightedLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of logits, masks and weights that returns a scalar."""
DICE_SMOOTH = 1e-5  # ε, in pixels of average weight


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel, (B, *S) in float32 or better; 0 and without gradient where ignored.

    It is computed as softplus(m) with m = log Σ_{k≠y} exp z_k − z_y, the margin by which the other classes lead. For K = 1 that
    is m = z on background and −z on foreground. This is the usual cross-entropy, but its derivative σ(m) stays precise for pixels
    that the network is sure of, where σ(z) − y rounds to exactly 0.

    Args:
        logits: (B, K, *S).
        masks: (B, *S), labels 0 … max(K, 2) − 1 of any real dtype; 255 is ignored.

    Raises:
        ValueError: a label is not one of the classes.

    Example:
        losses = pixel_cross_entropy(logits, masks)  # logits (4, 1, 96, 96), masks and losses (4, 96, 96)
    """
    return cross_entropy_of_labels(logits, _check_labels(logits, masks))


def cross_entropy_of_labels(logits: Tensor, masks: Tensor) -> Tensor:
    """Return `pixel_cross_entropy` without a check of the labels, which would wait for the device.

    Args:
        masks: (B, *S), labels 0 … max(K, 2) − 1 of a whole-number dtype; 255 is ignored.
    """
    labels = masks.long()
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scores.shape[1] == 1:
        margin = torch.where(labels == 1, -scores[:, 0], scores[:, 0])
    else:
        own = labels.masked_fill(labels == IGNORE, 0).unsqueeze(1)  # (B, 1, *S)
        others = scores.scatter(1, own, -torch.inf)
        margin = others.logsumexp(1) - scores.gather(1, own).squeeze(1)
    return torch.where(labels == IGNORE, 0.0, -logsigmoid(-margin))


def mean_over_counted(losses: Tensor, masks: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Return the mean of (B, *S) losses over the pixels of the joined batch that are not ignored; 0 where all are."""
    counted = masks != IGNORE
    return ranks.all_reduce_sum(torch.where(counted, losses, 0.0).sum()) / ranks.all_reduce_sum(counted.sum()).clamp(min=1)


def weighted_dice_cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted cross-entropy plus the weighted soft Dice loss of the classes but 0, a scalar; 0 where all weights are 0.

    With w̄ the mean weight of the counted pixels of the batch, and sums over the pixels of one image:

        cross-entropy  Σ w ℓ / Σ w over the whole batch
        Dice           1 − (2 Σ w p y + ε w̄) / (Σ w p + Σ w y + ε w̄), ε = 10⁻⁵; the mean over the classes, then over the images in
                       proportion to their share of the weights

    Neither changes when all weights are multiplied by a number. With equal weights this is the usual Dice loss of each image (as MONAI's
    DiceLoss) plus the mean cross-entropy. For K = 1 the one class is the foreground.

    Args:
        logits: (B, K, *S).
        masks: (B, *S), labels of any real dtype; 255 is ignored, whatever its weight.
        weights: (B, *S), ≥ 0; constants.

    Raises:
        ValueError: a label is not one of the classes.

    Example:
        step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, loss=weighted_dice_cross_entropy)
    """
    return weighted_dice_cross_entropy_of_labels(logits, _check_labels(logits, masks), weights)


def weighted_dice_cross_entropy_of_labels(logits: Tensor, masks: Tensor, weights: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Return `weighted_dice_cross_entropy` without a check of the labels, which would wait for the device.

    With several ranks it is that of the joined batch, and its gradient this rank's part.

    Args:
        masks: (B, *S), labels of a whole-number dtype; 255 is ignored.
    """
    labels = masks.long()
    counted = labels != IGNORE
    scale = ranks.all_reduce_sum(weights.sum()) / ranks.all_reduce_sum(counted.sum()).clamp(min=1)  # the mean weight
    relative = torch.where(counted, weights, 0.0) / scale.clamp(min=torch.finfo(weights.dtype).tiny)
    axes = tuple(range(2, logits.ndim))
    predicted, truth = foreground(logits, labels)
    spread = relative.unsqueeze(1)
    both, either = (spread * predicted * truth).sum(axes), (spread * (predicted + truth)).sum(axes)
    dice = (1 - (2 * both + DICE_SMOOTH) / (either + DICE_SMOOTH)).mean(1)  # (B,)
    of_image = relative.flatten(1).sum(1)
    total = ranks.all_reduce_sum(of_image.sum()).clamp(min=torch.finfo(weights.dtype).tiny)
    return ranks.all_reduce_sum((relative * cross_entropy_of_labels(logits, labels)).sum() / total + (of_image * dice).sum() / total)


@dataclass(frozen=True)
class JointLoss:
    """A weighted loss of the joined batch of several ranks: a function that takes `ranks=`, and these ranks."""

    function: Callable[..., Tensor]
    ranks: Ranks

    def __call__(self, logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        return self.function(logits, masks, weights, ranks=self.ranks)


def probabilities(logits: Tensor) -> Tensor:
    """Return the probability of every class, (B, K, *S), in float32 or better; for K = 1 of the foreground."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)


def foreground(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return probability and truth (0 or 1) of the classes from 1 on, (B, max(K, 2) − 1, *S) both; both 0 where ignored."""
    predicted = probabilities(logits)
    predicted = predicted if predicted.shape[1] == 1 else predicted[:, 1:]
    classes = torch.arange(1, predicted.shape[1] + 1, device=masks.device).view(-1, *(1,) * (masks.ndim - 1))
    labels = masks.long().unsqueeze(1)
    return torch.where(labels == IGNORE, 0.0, predicted), (labels == classes).to(predicted.dtype)


def _check_labels(logits: Tensor, masks: Tensor) -> Tensor:
    if logits.ndim < 3 or masks.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"logits (B, K, *S) and masks (B, *S) do not agree: logits {tuple(logits.shape)}, masks {tuple(masks.shape)}")
    highest = max(logits.shape[1], 2) - 1
    labels = masks.long()  # first: some dtypes cannot be compared, and in int8 a −1 equals 255
    unknown = (labels != IGNORE) & ((labels < 0) | (labels > highest))
    if masks.is_floating_point():
        unknown |= masks != labels
    if unknown.any():
        values = masks[unknown].unique()[:5].tolist()
        raise ValueError(
            f"masks {tuple(masks.shape)} hold values that no class has: {values}; labels are 0 … {highest}, {IGNORE} is ignored "
            f"(images and masks swapped? the logits are {tuple(logits.shape)})"
        )
    return labels
