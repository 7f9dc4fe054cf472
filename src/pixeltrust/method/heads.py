"""Training losses with a weight for every pixel, of networks with one head or with several (deep supervision).

The gains are those of the finest head. The others learn from the same masks and weights at their own size: of every block of pixels they
get the label at its middle, and the sum of its weights, so that the weights of a batch add up to the same at every head.

Source: Lee et al., "Deeply-Supervised Nets", AISTATS 2015; halved shares from head to head as in nnU-Net.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn.functional import interpolate

from pixeltrust.method.batch import Batch, at_least_float32, pixel_losses
from pixeltrust.method.losses import JointLoss, PixelLoss, WeightedLoss, pixel_cross_entropy
from pixeltrust.method.tangents import Pick, require_logits
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks

PickHeads: TypeAlias = Callable[[Any], Tensor | Sequence[Tensor]]
"""A function that picks the logits (B, K, *S) from what a network returns, or those of its heads, the finest first."""


def pick_finest(pick: PickHeads, coarser: list[Tensor]) -> Pick:
    """Return the function that picks the logits of the finest head, and leaves those of the others in `coarser`."""

    @wraps(pick)
    def finest(answer: Any) -> Tensor:
        picked = pick(answer)
        if isinstance(picked, Tensor) or isinstance(answer, Tensor):  # of a network that has one head, now or always
            coarser.clear()
            return picked if isinstance(picked, Tensor) else answer
        first, *coarser[:] = picked
        return require_logits(first)

    return finest


@dataclass(frozen=True)
class Objective:
    """The training loss of a batch.

    Args:
        pixel_loss: (logits, masks) to losses (B, *S).
        loss: (logits, masks, weights) to a scalar, in place of Σ w ℓ.
        shares: what each head counts; 1, ½, ¼ … if not given. They are divided by their sum.
        ranks: with several, Σ w ℓ and a `JointLoss` are over the joined batch; any other loss is the mean of those of the ranks' parts,
            by their images.
    """

    pixel_loss: PixelLoss = pixel_cross_entropy
    loss: WeightedLoss | None = None
    shares: Sequence[float] | None = None
    ranks: Ranks = field(default=ALONE, kw_only=True)

    @property
    def joins_ranks(self) -> bool:
        """Whether `loss` sums over the ranks itself, so that a part without images has its share in it too."""
        return isinstance(self.loss, JointLoss)

    @property
    def scope(self) -> Ranks:
        """The ranks over which weights are normalised."""
        return self.ranks if self.loss is None or self.joins_ranks else ALONE

    def average(self, heads: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss with equal weights of all pixels that are not ignored; 0 where all are."""
        counted = (batch.masks != IGNORE).to(at_least_float32(heads[0]).dtype)
        return self.weigh(heads, batch, counted / self.scope.all_reduce_sum(counted.sum()).clamp(min=1))

    def weigh(self, heads: Sequence[Tensor], batch: Batch, weights: Tensor) -> Tensor:
        """Return the loss with these weights (B, *S), whose gradient is this rank's part.

        Args:
            heads: logits, the finest first.

        Raises:
            ValueError: masks do not fit (see `Batch`), the loss is not a scalar, or there are not as many shares as heads.
        """
        losses = pixel_losses(self.pixel_loss, heads[0], batch)  # which checks masks and shapes
        shares = [0.5**place for place in range(len(heads))] if self.shares is None else list(self.shares)
        if len(shares) != len(heads):
            raise ValueError(f"{len(shares)} head_weights for a network with {len(heads)} heads")
        total = shares[0] * ((weights * losses).sum() if self.loss is None else self._scalar(heads[0], batch.masks, weights))
        for share, logits in zip(shares[1:], heads[1:], strict=True):
            masks, pooled = pool(batch.masks, weights, logits.shape[2:])
            if self.loss is None:
                total = total + share * (pooled * self.pixel_loss(at_least_float32(logits), masks)).sum()
            else:
                total = total + share * self._scalar(logits, masks, pooled)
        if self.joins_ranks:
            return total / sum(shares)
        return self.ranks.all_reduce_sum(total / sum(shares) * self._share(len(batch.images)))

    def _scalar(self, logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        assert self.loss is not None
        if not len(logits) and not self.joins_ranks:
            return logits.sum()
        value = self.loss(at_least_float32(logits), masks, weights)
        if not isinstance(value, Tensor) or value.shape:
            kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"loss(logits, masks, weights) must return a tensor without axes, not {kind}; a loss of pixels is pixel_loss=")
        return value

    def _share(self, images: int) -> float:
        """Return the factor of this rank's part: its share of the images where each part has a loss of its own."""
        (joined,) = self.ranks.sum_counts(images) if self.loss is not None else (images,)
        return images / max(joined, 1) if self.loss is not None else 1.0


def pool(masks: Tensor, weights: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return masks and weights (B, *S) for a coarser head: the label in the middle, and the sum of the weights, of every block."""
    if tuple(size) == tuple(masks.shape[1:]):
        return masks, weights
    labels = interpolate(masks[:, None].float(), list(size), mode="nearest-exact")[:, 0].to(masks.dtype)
    sums = interpolate(weights[:, None], list(size), mode="area")[:, 0] * (weights[:1].numel() / labels[:1].numel())
    return labels, sums
