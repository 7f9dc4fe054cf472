"""How each compared method makes its step: every one adds its gradient to .grad, for the same network and optimiser.

A method is any function (model, feed, config) → Outcome; the loop does the rest. One that remembers something from step to step is an
nn.Module, made from the network and the settings: its parameters are trained along, and its state goes into the checkpoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.feeds import Feed
from pixeltrust.losses import cross_entropy_of_labels, mean_over_counted
from pixeltrust.models import parameters_along
from pixeltrust.weights import Batch, Per, reweighted_step


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class Outcome:
    """What a step reports; NaN where the method has no such thing.

    A tensor without axes will do for a number: it is looked at later, so that the step does not wait for the device.
    """

    loss: float | Tensor
    clean_loss: float | Tensor = float("nan")
    zero_share: float | Tensor = float("nan")
    effective_pixels: float | Tensor = float("nan")
    all_zero: bool | Tensor = False
    more: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Further numbers by name, for the tables of the run."""
    weights: Tensor | None = None
    """(B, *S) of the noisy batch, where the method weighs pixels; for who watches, not for the tables."""

    def numbers(self) -> dict[str, Any]:
        """What goes into the tables of the run."""
        return {name: value for name, value in vars(self).items() if name not in ("more", "weights")} | dict(self.more)


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


def finetuned(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """As `plain` first, and for the last `finetune_share` of the updates as `clean`."""
    first = round((1 - config.finetune_share) * feed.updates)
    return plain(model, feed, config) if feed.update < first else clean(model, feed, config)


def image(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """One weight for every noisy image (Ren et al. 2018), from the clean batch, plus λ times the clean loss."""
    return _reweighted(model, feed, config, "image")


def pixel(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """The paper: Σ w ℓ on the noisy batch, a weight for every pixel from the clean batch, plus λ times the clean loss."""
    return _reweighted(model, feed, config, "pixel")


METHODS: dict[str, Method | type[nn.Module]] = {
    "plain": plain,
    "clean": clean,
    "joint": joint,
    "finetuned": finetuned,
    "image": image,
    "pixel": pixel,
}
TAKE_GAINS = ("image", "pixel")  # those that need forward mode


def build_method(model: nn.Module, config: Config) -> Method:
    """The method of the settings, for this network."""
    method = METHODS[config.method]
    return method(model, config) if isinstance(method, type) else method


def _reweighted(model: nn.Module, feed: Feed, config: Config, per: Per) -> Outcome:
    step = reweighted_step(
        model,
        noisy=feed.noisy(),
        clean=feed.clean(),
        clean_weight=config.clean_weight,
        pixel_loss=cross_entropy_of_labels,
        gains=config.gains,
        along=parameters_along(model, config.along),
        per=per,
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
        weights=step.weights,
    )


def _backward_mean(model: nn.Module, batch: Batch, share: float = 1.0) -> float | Tensor:
    loss = mean_over_counted(cross_entropy_of_labels(model(batch.images), batch.masks), batch.masks)
    (share * loss).backward()
    return _reported(loss.detach())


def _reported(value: Tensor) -> Any:
    """A number at once on the CPU, where nothing waits; elsewhere the tensor, for later."""
    return value.item() if value.device.type == "cpu" else value
