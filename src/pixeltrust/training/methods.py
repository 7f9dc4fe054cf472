"""The steps of the training methods: each adds its gradient to .grad, for the same network and optimiser.

A step is any function (model, feed, config) → StepOutcome; the loop does the rest. One that remembers something from step to step is an
nn.Module, made from the network (in mixed precision if the steps are), the settings and the cases: its parameters are trained along,
and its state goes into the checkpoints. What else a run does for a method is in its row of `method_table.METHODS`.

With several ranks (see `plumbing.processes`) a step gets its part of the joined batches and adds its part of their gradient, which the
loop sums. What it reports is of the joined batches.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pixeltrust.config import Config, Loss
from pixeltrust.data.batches import Streams
from pixeltrust.data.prefetch import Feed
from pixeltrust.method.batch import Batch, compute_logits, to_device
from pixeltrust.method.losses import (
    JointLoss,
    PixelLoss,
    cross_entropy_of_labels,
    mean_over_counted,
    probabilities,
    weighted_dice_cross_entropy_of_labels,
)
from pixeltrust.method.trust import MEMORY, Trust
from pixeltrust.method.weights import Per, Step, reweighted_step
from pixeltrust.method_table import METHODS, describe
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.seeds import generator
from pixeltrust.training.models import parameters_along
from pixeltrust.training.robust_losses import (
    absolute_error,
    dice_cross_entropy,
    generalised_cross_entropy,
    noise_robust_dice,
    student_t,
    symmetric_cross_entropy,
)

LONG_MEMORY = 0.9  # with fewer than LONG_MEMORY_BELOW clean cases to train on
LONG_MEMORY_BELOW = 30
T_LOSS_LOG_NU = 1.0  # at the start, as in the code of the T-Loss; ν itself is then e
T_LOSS_MIN_NU = 1e-8
SMALLEST_HALVED = 32  # pixels a side; a U-Net of five levels needs 16
TEACHER_DECAY = 0.99  # of the teacher's average, per update
TEACHER_NOISE = 0.025  # standard deviation, for images 0 … 1: about a tenth of theirs, as in PyMIC
TEACHER_WEIGHT = 1.0  # of the consistency loss at the end of training
TEACHER_RAMP = 0.4  # share of the updates in which that weight is reached


@dataclass(frozen=True, eq=False)  # == on tensors does not give a single bool
class StepOutcome:
    """The report of a step; NaN where the method has no such number.

    Numbers may be tensors without axes: they are read later, so that the step does not wait for the device.
    """

    loss: float | Tensor
    clean_loss: float | Tensor = float("nan")
    zero_share: float | Tensor = float("nan")
    effective_pixels: float | Tensor = float("nan")
    all_zero: bool | Tensor = False
    more: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Further numbers by name, for steps.csv and history.csv."""
    weights: Tensor | None = None
    """(B, *S), of the noisy batch, where the method weighs pixels; for a `watch` function, not for the tables."""
    gains: Tensor | None = None
    """(B, *S), likewise."""

    def numbers(self) -> dict[str, Any]:
        """Return the row for the tables of the run."""
        return {name: value for name, value in vars(self).items() if name not in ("more", "weights", "gains")} | dict(self.more)

    def are_finite(self) -> bool | Tensor:
        """Return whether the loss and all gains are finite; for tensors as a tensor without axes, to be read later."""
        loss = self.loss.isfinite() if isinstance(self.loss, Tensor) else math.isfinite(self.loss)
        return loss if self.gains is None else _reported(self.gains.isfinite().all() & loss)


StepFunction: TypeAlias = Callable[[nn.Module, Feed, Config], StepOutcome]
BatchLoss: TypeAlias = Callable[..., Tensor]
"""A function (logits, masks, ranks=…) that returns a scalar."""


def _mean(pixel_loss: PixelLoss) -> BatchLoss:
    return lambda logits, masks, ranks: mean_over_counted(pixel_loss(logits, masks), masks, ranks=ranks)


LOSSES: Mapping[Loss, BatchLoss] = {"cross-entropy": _mean(cross_entropy_of_labels), "dice-ce": dice_cross_entropy}
WEIGHTED_LOSSES: Mapping[Loss, Callable[..., Tensor] | None] = {"cross-entropy": None, "dice-ce": weighted_dice_cross_entropy_of_labels}


def _on_the_pool(loss: BatchLoss | None = None) -> StepFunction:
    """Return a step with this loss, or that of the settings, on a batch of the pool, where noisy and clean masks count alike."""

    def step(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
        return StepOutcome(loss=_backward_loss(model, feed.pool(), feed, config, loss))

    return step


plain = _on_the_pool()
dice_ce = _on_the_pool(dice_cross_entropy)
gce = _on_the_pool(_mean(generalised_cross_entropy))
mae = _on_the_pool(_mean(absolute_error))
sce = _on_the_pool(_mean(symmetric_cross_entropy))
nr_dice = _on_the_pool(noise_robust_dice)


def clean(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Take the loss of a clean batch alone."""
    loss = _backward_loss(model, feed.clean(), feed, config)
    return StepOutcome(loss=loss, clean_loss=loss)


def coarse_factors(config: Config) -> list[int]:
    """Return by what the first updates of a mender shrink each side of its images."""
    return [2 if side >= SMALLEST_HALVED else 1 for side in config.size]


def mender(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Take Dice plus cross-entropy on a batch of pairs, whose images have the given masks as further channels.

    The first `coarse_share` of the updates see images and masks of half the size, along axes that are not too short for networks then.
    """
    batch = feed.pairs()
    if feed.update < round(config.coarse_share * feed.updates):
        factors = coarse_factors(config)
        every: Any = (..., *(slice(factor // 2, None, factor) for factor in factors))
        pooled = (avg_pool2d if len(factors) == 2 else avg_pool3d)(batch.images, factors)
        batch = Batch(pooled, batch.masks[every], ignore_label=batch.ignore_label)
    loss = _backward_loss(model, batch, feed, config, dice_cross_entropy)
    return StepOutcome(loss=loss, clean_loss=loss)


def joint(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Take the mean of the losses of a noisy and a clean batch."""
    noisy_loss = _backward_loss(model, feed.noisy(), feed, config, share=0.5)
    clean_loss = _backward_loss(model, feed.clean(), feed, config, share=0.5)
    return StepOutcome(loss=(noisy_loss + clean_loss) / 2, clean_loss=clean_loss)


def finetuned(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Do `plain` first, and `clean` for the last `finetune_share` of the updates."""
    first = round((1 - config.finetune_share) * feed.updates)
    return plain(model, feed, config) if feed.update < first else clean(model, feed, config)


class TLoss(nn.Module):
    """The step of `plain` with the T-Loss (Gonzalez-Jimenez et al. 2023), whose ν is trained along; reports `nu`."""

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.log_nu = nn.Parameter(torch.tensor(T_LOSS_LOG_NU))

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> StepOutcome:  # noqa: ARG002
        batch = feed.pool()
        nu = self.log_nu.exp() + T_LOSS_MIN_NU
        loss = _backward(student_t(compute_logits(model, batch.images), batch.masks, nu=nu, ranks=feed.ranks))
        return StepOutcome(loss=loss, more={"nu": _reported(nu.detach())})


class MeanTeacher(nn.Module):
    """The loss of a clean batch, plus consistency with a teacher on the images of a noisy batch, whose masks are not used.

    The teacher is the exponential average of the network (its buffers are the network's). The consistency loss is the mean squared
    difference of their probabilities, each under Gaussian noise of its own on the images; its weight rises as exp(−5 (1 − t)²). Reports
    `consistency`.

    Source: A. Tarvainen, H. Valpola, "Mean teachers are better role models", NeurIPS 2017; the ramp: S. Laine, T. Aila, ICLR 2017.
    """

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
        self._follow(model)
        clean_loss = _backward_loss(model, feed.clean(), feed, config)
        consistency = self._consistency(model, feed, config)
        weight = consistency_weight(feed.update, feed.updates)
        value = _backward(consistency, share=weight)
        return StepOutcome(loss=clean_loss + weight * value, clean_loss=clean_loss, more={"consistency": value})

    @torch.no_grad()
    def _follow(self, model: nn.Module) -> None:
        """Add the network of the last update to the average. (torch's AveragedModel does the same, but waits for the device.)"""
        self.teacher.train(model.training)
        get_ema_multi_avg_fn(TEACHER_DECAY)(list(self.teacher.parameters()), list(model.parameters()), 0)
        for buffer, current in zip(self.teacher.buffers(), model.buffers(), strict=True):
            buffer.copy_(current)

    def _consistency(self, model: nn.Module, feed: Feed, config: Config) -> Tensor:
        images, ranks = feed.noisy().images, feed.ranks
        (count,) = ranks.sum_counts(len(images))
        draws = generator(config.seed, "teacher noise", feed.update).standard_normal((2, count, *images.shape[1:]), np.float32)
        noise = TEACHER_NOISE * to_device(torch.from_numpy(draws[:, ranks.span(count)]), images.device).to(images.dtype)
        with torch.no_grad():
            target = probabilities(compute_logits(self.teacher, images + noise[0]))
        squares = (probabilities(compute_logits(model, images + noise[1])) - target).square()
        (values,) = ranks.sum_counts(squares.numel())
        return ranks.all_reduce_sum(squares.sum()) / values


def consistency_weight(update: int, updates: int) -> float:
    """Return the weight of the consistency loss of `MeanTeacher` at `update`, from 0, of `updates`."""
    progress = min(1.0, update / (TEACHER_RAMP * updates))
    return TEACHER_WEIGHT * math.exp(-5 * (1 - progress) ** 2)


def image(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Weigh every noisy image by the clean batch (Ren et al. 2018), and add λ times the clean loss."""
    return _reweighted(model, feed, config, "image")


def pixel(model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
    """Take Σ w ℓ on the noisy batch, with a weight for every pixel from the clean batch (the paper), plus λ times the clean loss."""
    return _reweighted(model, feed, config, "pixel")


class WithTrust(nn.Module):
    """A step that takes gains, and the trust that they add up to, which the step does not use: for the helped maps, and so the audit."""

    def __init__(self, step: StepFunction, config: Config, streams: Streams) -> None:
        super().__init__()
        self.step, self.trust = step, build_trust(config, streams)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
        outcome = self.step(model, feed, config)
        if outcome.gains is not None and feed.where is not None:
            self.trust.learn(outcome.gains, feed.where(), ranks=feed.ranks)
        return outcome


class ByTrust(nn.Module):
    """The step of `trust`: Σ Tˢ ℓ / Σ Tˢ on the noisy batch, plus λ times the clean loss.

    T is the trust of every pixel after this visit (see `method.trust`), with the memory β `trust_memory`; s is `trust_sharpness`.
    """

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.trust = build_trust(config, streams)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> StepOutcome:
        assert feed.where is not None
        given = _given_to_step(model, feed, config, clean_weight=1.0)
        return _outcome(self.trust.step(model, where=feed.where(), **given), feed.ranks)

    def weights_of(self, cases: Sequence[str], config: Config) -> list[Tensor]:
        """Return what the pixels of each of these noisy cases count with, (*S), in multiples of their average over all."""
        counts = [self.trust.values(case) ** config.trust_sharpness for case in cases]
        mean = torch.cat([values.flatten() for values in counts]).mean().clamp(min=torch.finfo(torch.float32).tiny)
        return [values / mean for values in counts]


def step_of(name: str) -> StepFunction | type[nn.Module]:
    """Return the function or class of the method of this name."""
    step: StepFunction | type[nn.Module] = globals()[METHODS[name].step]
    return step


def build_step(model: nn.Module, config: Config, streams: Streams, own: StepFunction | None = None) -> StepFunction:
    """Return the step of a run, for this network and these cases: the user's own, or that of `config.method`.

    A step that takes gains and remembers no trust itself is given one that does, so that every run with gains leaves helped maps.
    """
    method = METHODS[config.method] if own is None else describe(own)
    step = step_of(config.method) if own is None else own
    built: StepFunction = step(model, config, streams) if isinstance(step, type) else step
    has_trust = isinstance(getattr(built, "trust", None), Trust)
    return WithTrust(built, config, streams) if method.takes_gains and not has_trust else built


def build_trust(config: Config, streams: Streams) -> Trust:
    """Return the trust of a run before its first update: in memory, or in a file beside the cases where there are too many."""
    shapes = [streams.pixels.shapes[index] for index in streams.noisy]
    gib = sum(map(math.prod, shapes)) * 2 / 2**30
    folder = streams.cache if streams.pixels.gib + gib > config.cache_gib else None
    memory = config.trust_memory
    if memory is None:  # with few clean cases gains are more by chance, so more visits are averaged
        memory = LONG_MEMORY if len(streams.clean) < LONG_MEMORY_BELOW else MEMORY
    trust = Trust(memory, config.trust_sharpness, folder=folder)
    trust.reserve([streams.pixels.cases[index].id for index in streams.noisy], shapes)
    return trust


def _reweighted(model: nn.Module, feed: Feed, config: Config, per: Per) -> StepOutcome:
    """Make the step of the paper, which has no clean loss unless the settings say so."""
    return _outcome(reweighted_step(model, per=per, **_given_to_step(model, feed, config, clean_weight=0.0)), feed.ranks)


def _given_to_step(model: nn.Module, feed: Feed, config: Config, *, clean_weight: float) -> dict[str, Any]:
    """Return the arguments of a weighted step; `clean_weight` is λ where the settings leave it unset."""
    weighted = WEIGHTED_LOSSES[config.training_loss]
    return {
        "noisy": feed.noisy(),
        "clean": feed.clean(),
        "clean_weight": clean_weight if config.clean_weight is None else config.clean_weight,
        "pixel_loss": cross_entropy_of_labels,
        "loss": weighted and JointLoss(weighted, feed.ranks),
        "gains": config.gains,
        "along": parameters_along(model, config.along),
        "ranks": feed.ranks,
    }


def _outcome(step: Step, ranks: Ranks) -> StepOutcome:
    weights = step.weights.to(torch.float32 if step.weights.device.type == "mps" else torch.float64)  # mps lacks float64
    zeros = ((weights == 0) & step.counted).sum(dtype=weights.dtype)
    helps = ranks.all_reduce_sum(step.weights.any())
    zeros, counted, squares = ranks.all_reduce_sum(torch.stack([zeros, step.counted.sum(), weights.square().sum()]))
    return StepOutcome(
        loss=_reported(step.loss),
        clean_loss=_reported(step.clean_loss),
        zero_share=_reported(zeros / counted),
        effective_pixels=_reported(torch.where(helps, 1 / squares, 0.0)),
        all_zero=_reported(~helps),
        weights=step.weights,
        gains=step.gains,
    )


def _backward_loss(
    model: nn.Module, batch: Batch, feed: Feed, config: Config, loss: BatchLoss | None = None, share: float = 1.0
) -> float | Tensor:
    """Add `share` of the gradient of this loss, or that of the settings, and return the loss."""
    logits = compute_logits(model, batch.images, config.classes)
    return _backward((loss or LOSSES[config.training_loss])(logits, batch.masks, ranks=feed.ranks), share)


def _backward(loss: Tensor, share: float = 1.0) -> float | Tensor:
    if loss.requires_grad:  # not the loss of a part without images
        (share * loss).backward()
    return _reported(loss.detach())


def _reported(value: Tensor) -> Any:
    """Return the number at once on the CPU, where nothing waits; elsewhere the tensor, to be read later."""
    return value.item() if value.device.type == "cpu" else value
