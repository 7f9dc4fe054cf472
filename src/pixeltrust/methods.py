"""How each compared method makes its step: every one adds its gradient to .grad, for the same network and optimiser.

A method is any function (model, feed, config) → Outcome; the loop does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.feeds import Feed
from pixeltrust.losses import cross_entropy_of_labels, mean_over_counted
from pixeltrust.models import parameters_along
from pixeltrust.weights import Batch, reweighted_step


@dataclass(frozen=True)
class Outcome:
    """What a step reports; NaN where the method has no such thing.

    A tensor without axes will do for a number: it is looked at later, so that the step does not wait for the device.
    """

    loss: float | Tensor
    clean_loss: float | Tensor = float("nan")
    zero_share: float | Tensor = float("nan")
    effective_pixels: float | Tensor = float("nan")
    all_zero: bool | Tensor = False


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
    step = reweighted_step(
        model,
        noisy=feed.noisy(),
        clean=feed.clean(),
        clean_weight=config.clean_weight,
        pixel_loss=cross_entropy_of_labels,
        gains=config.gains,
        along=parameters_along(model, config.along),
    )
    helps = step.weights.any()
    weights = step.weights.to(torch.float32 if step.weights.device.type == "mps" else torch.float64)  # which mps does not have
    zeros = ((weights == 0) & step.counted).sum(dtype=weights.dtype)
    return Outcome(
        loss=_reported(step.loss),
        clean_loss=_reported(step.clean_loss),
        zero_share=_reported(zeros / step.counted.sum()),
        effective_pixels=_reported(torch.where(helps, 1 / weights.square().sum(), 0.0)),
        all_zero=_reported(~helps),
    )


METHODS: dict[str, Method] = {"plain": plain, "clean": clean, "joint": joint, "pixel": pixel}


def _backward_mean(model: nn.Module, batch: Batch, share: float = 1.0) -> float | Tensor:
    loss = mean_over_counted(cross_entropy_of_labels(model(batch.images), batch.masks), batch.masks)
    (share * loss).backward()
    return _reported(loss.detach())


def _reported(value: Tensor) -> Any:
    """A number at once on the CPU, where nothing waits; elsewhere the tensor, for later."""
    return value.item() if value.device.type == "cpu" else value
