"""How each compared method makes its step: every one adds its gradient to .grad, for the same network and optimiser.

A method is any function (model, feed, config) → Outcome; the loop does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from pixeltrust.config import Config
from pixeltrust.data import Feed
from pixeltrust.losses import mean_over_counted, pixel_cross_entropy
from pixeltrust.weights import Batch, reweighted_step


@dataclass(frozen=True)
class Outcome:
    """What a step reports; NaN where the method has no such thing."""

    loss: float
    clean_loss: float = float("nan")
    zero_share: float = float("nan")
    effective_pixels: float = float("nan")
    all_zero: bool = False


Method: TypeAlias = Callable[[nn.Module, Feed, Config], Outcome]


def plain(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """Every mask counts alike, whoever made it: mean cross-entropy on a batch of the pool."""
    return Outcome(loss=_backward_mean(model, feed.pool()))


def clean(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """The clean masks alone."""
    loss = _backward_mean(model, feed.clean())
    return Outcome(loss=loss, clean_loss=loss)


def joint(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """A noisy and a clean batch in every step, the mean of their losses."""
    noisy_loss = _backward_mean(model, feed.noisy(), share=0.5)
    clean_loss = _backward_mean(model, feed.clean(), share=0.5)
    return Outcome(loss=(noisy_loss + clean_loss) / 2, clean_loss=clean_loss)


def pixel(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """The paper: Σ w ℓ on the noisy batch, weights from the clean batch, plus λ times the clean loss."""
    step = reweighted_step(model, noisy=feed.noisy(), clean=feed.clean(), clean_weight=config.clean_weight, gains=config.gains)
    return Outcome(
        loss=float(step.loss),
        clean_loss=float(step.clean_loss),
        zero_share=step.zero_share,
        effective_pixels=step.effective_pixels,
        all_zero=step.all_zero,
    )


METHODS: dict[str, Method] = {"plain": plain, "clean": clean, "joint": joint, "pixel": pixel}


def _backward_mean(model: nn.Module, batch: Batch, share: float = 1.0) -> float:
    loss = mean_over_counted(pixel_cross_entropy(model(batch.images), batch.masks), batch.masks)
    (share * loss).backward()
    return float(loss.detach())
