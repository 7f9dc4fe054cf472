"""How each compared method makes its step: every one adds its gradient to .grad, for the same network and optimiser.

A method is any function (model, feed, config) → Outcome; the loop does the rest. One that remembers something from step to step is an
nn.Module, made from the network (in mixed precision if the steps are), the settings and the cases: its parameters are trained along,
and its state goes into the checkpoints.

With several ranks (see `ranks`) a method has its part of the joined batches and adds its part of their gradient, which the loop sums.
What it reports is of the joined batches.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pixeltrust.config import Config
from pixeltrust.data.batches import Streams
from pixeltrust.data.prefetch import BatchOrigin, Feed
from pixeltrust.data.views import Views, to_device
from pixeltrust.method.batch import Batch, compute_logits
from pixeltrust.method.losses import PixelLoss, cross_entropy_of_labels, mean_over_counted
from pixeltrust.method.trust import TrustStore, find_evidence
from pixeltrust.method.weights import Per, Weigh, reweighted_step
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.seeds import generator
from pixeltrust.training.models import parameters_along
from pixeltrust.training.robust_losses import (
    absolute_error,
    dice_cross_entropy,
    generalised_cross_entropy,
    noise_robust_dice,
    probabilities,
    student_t,
    symmetric_cross_entropy,
)

MEMORY = 0.7  # β of trust
LONG_MEMORY = 0.9  # with fewer clean cases to train on than
FEW_CLEAN = 30
T_LOSS_LOG_NU = 1.0  # where the T-Loss's code begins; ν itself is then e
T_LOSS_MIN_NU = 1e-8
TEACHER_DECAY = 0.99  # of its average, per update
TEACHER_NOISE = 0.025  # standard deviation, of images 0 … 1: a tenth of theirs, roughly, as PyMIC has it
TEACHER_WEIGHT = 1.0  # of the consistency at the end
TEACHER_RAMP = 0.4  # share of the updates in which that weight is reached


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
    gains: Tensor | None = None
    """(B, *S) likewise."""

    def numbers(self) -> dict[str, Any]:
        """What goes into the tables of the run."""
        return {name: value for name, value in vars(self).items() if name not in ("more", "weights", "gains")} | dict(self.more)

    def are_finite(self) -> bool | Tensor:
        """Whether the loss and all gains are finite numbers; of tensors one without axes, for later."""
        loss = self.loss.isfinite() if isinstance(self.loss, Tensor) else math.isfinite(self.loss)
        return loss if self.gains is None else _reported(self.gains.isfinite().all() & loss)


Method: TypeAlias = Callable[[nn.Module, Feed, Config], Outcome]


def plain(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """Every mask counts alike, whoever made it: mean cross-entropy on a batch of the pool."""
    return Outcome(loss=_backward_mean(model, feed.pool(), feed.ranks))


def clean(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """The clean masks alone."""
    loss = _backward_mean(model, feed.clean(), feed.ranks)
    return Outcome(loss=loss, clean_loss=loss)


def joint(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """A noisy and a clean batch in every step, the mean of their losses."""
    noisy_loss = _backward_mean(model, feed.noisy(), feed.ranks, share=0.5)
    clean_loss = _backward_mean(model, feed.clean(), feed.ranks, share=0.5)
    return Outcome(loss=(noisy_loss + clean_loss) / 2, clean_loss=clean_loss)


def finetuned(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """As `plain` first, and for the last `finetune_share` of the updates as `clean`."""
    first = round((1 - config.finetune_share) * feed.updates)
    return plain(model, feed, config) if feed.update < first else clean(model, feed, config)


def dice_ce(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """As `plain`, with the field's usual loss: Dice plus cross-entropy."""
    batch = feed.pool()
    return Outcome(loss=_backward(dice_cross_entropy(compute_logits(model, batch.images), batch.masks, ranks=feed.ranks)))


def gce(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """As `plain`, with generalised cross-entropy (Zhang & Sabuncu 2018)."""
    return Outcome(loss=_backward_mean(model, feed.pool(), feed.ranks, pixel_loss=generalised_cross_entropy))


def mae(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """As `plain`, with the mean absolute error (Ghosh et al. 2017)."""
    return Outcome(loss=_backward_mean(model, feed.pool(), feed.ranks, pixel_loss=absolute_error))


def sce(model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG001
    """As `plain`, with symmetric cross-entropy (Wang et al. 2019)."""
    return Outcome(loss=_backward_mean(model, feed.pool(), feed.ranks, pixel_loss=symmetric_cross_entropy))


def nr_dice(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """As `plain`, with the noise-robust Dice loss (Wang et al. 2020)."""
    batch = feed.pool()
    return Outcome(loss=_backward(noise_robust_dice(compute_logits(model, batch.images, config.classes), batch.masks, ranks=feed.ranks)))


class TLoss(nn.Module):
    """As `plain`, with the T-Loss (Gonzalez-Jimenez et al. 2023), whose ν is trained along; reports `nu`."""

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.log_nu = nn.Parameter(torch.tensor(T_LOSS_LOG_NU))

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG002
        batch = feed.pool()
        nu = self.log_nu.exp() + T_LOSS_MIN_NU
        loss = _backward(student_t(compute_logits(model, batch.images), batch.masks, nu=nu, ranks=feed.ranks))
        return Outcome(loss=loss, more={"nu": _reported(nu.detach())})


class MeanTeacher(nn.Module):
    """Cross-entropy on a clean batch, and on the images of a noisy one consistency with a teacher; its masks are not looked at.

    The teacher is the exponential average of the network (its buffers are the network's). Consistency is the mean squared difference of
    the two's probabilities, each under Gaussian noise of its own on the images; its weight rises as exp(−5 (1 − t)²). Reports
    `consistency`.

    Source: A. Tarvainen, H. Valpola, "Mean teachers are better role models", NeurIPS 2017; the ramp is of S. Laine, T. Aila, ICLR 2017.
    """

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:
        self._follow(model)
        clean_loss = _backward_mean(model, feed.clean(), feed.ranks)
        consistency = self._consistency(model, feed, config)
        weight = consistency_weight(feed.update, feed.updates)
        value = _backward(consistency, share=weight)
        return Outcome(loss=clean_loss + weight * value, clean_loss=clean_loss, more={"consistency": value})

    @torch.no_grad()
    def _follow(self, model: nn.Module) -> None:
        """The last update's network goes into the average. (torch's AveragedModel does the same, but waits for the device.)"""
        self.teacher.train(model.training)
        get_ema_multi_avg_fn(TEACHER_DECAY)(list(self.teacher.parameters()), list(model.parameters()), 0)
        for own, students in zip(self.teacher.buffers(), model.buffers(), strict=True):
            own.copy_(students)

    def _consistency(self, model: nn.Module, feed: Feed, config: Config) -> Tensor:
        images, ranks = feed.noisy().images, feed.ranks
        (count,) = ranks.sum_counts(len(images))
        draws = generator(config.seed, "teacher noise", feed.update).standard_normal((2, count, *images.shape[1:]), np.float32)
        noise = TEACHER_NOISE * to_device(torch.from_numpy(draws[:, ranks.span(count)]), images.device).to(images.dtype)
        with torch.no_grad():
            taught = probabilities(compute_logits(self.teacher, images + noise[0]))
        squares = (probabilities(compute_logits(model, images + noise[1])) - taught).square()
        (values,) = ranks.sum_counts(squares.numel())
        return ranks.all_reduce_sum(squares.sum()) / values


def consistency_weight(update: int, updates: int) -> float:
    """Of `MeanTeacher` in an update of so many."""
    progress = min(1.0, update / (TEACHER_RAMP * updates))
    return TEACHER_WEIGHT * math.exp(-5 * (1 - progress) ** 2)


def image(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """One weight for every noisy image (Ren et al. 2018), from the clean batch, plus λ times the clean loss."""
    return _reweighted(model, feed, config, "image", clean_weight=0.0)


def pixel(model: nn.Module, feed: Feed, config: Config) -> Outcome:
    """The paper: Σ w ℓ on the noisy batch, a weight for every pixel from the clean batch, plus λ times the clean loss."""
    return _reweighted(model, feed, config, "pixel", clean_weight=0.0)


class Remembering(nn.Module):
    """A step that takes gains, and the trust that they add up to: kept for the audit, not used by the step."""

    def __init__(self, step: Method, config: Config, streams: Streams) -> None:
        super().__init__()
        self.step, self.store = step, _store(config, streams)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:
        outcome = self.step(model, feed, config)
        if outcome.gains is not None and feed.origin is not None:
            _heard(self.store, feed.origin(), feed.ranks, outcome.gains)
        return outcome


class Trust(nn.Module):
    """Σ Tˢ ℓ / Σ Tˢ on the noisy batch, T the trust of every pixel after this visit (see `trust`), plus λ times the clean loss.

    s is `trust_sharpness`, T's memory β `trust_memory`.
    """

    def __init__(self, model: nn.Module, config: Config, streams: Streams) -> None:  # noqa: ARG002
        super().__init__()
        self.store = _store(config, streams)

    def forward(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:
        assert feed.origin is not None
        places = feed.origin()

        def counts(gains: Tensor) -> Tensor:
            trust, views = _heard(self.store, places, feed.ranks, gains)
            return views.to_shown(trust).to(gains.dtype) ** config.trust_sharpness

        return _reweighted(model, feed, config, counts, clean_weight=1.0)

    def weights_of(self, cases: np.ndarray, config: Config) -> Tensor:
        """What the pixels of these noisy cases count with, (B, H, W), 1 the average of them."""
        counts = self.store.values(cases) ** config.trust_sharpness
        return counts / counts.mean().clamp(min=torch.finfo(counts.dtype).tiny)


METHODS: dict[str, Method | type[nn.Module]] = {
    "plain": plain,
    "clean": clean,
    "joint": joint,
    "finetuned": finetuned,
    "dice-ce": dice_ce,
    "gce": gce,
    "mae": mae,
    "sce": sce,
    "nr-dice": nr_dice,
    "t-loss": TLoss,
    "mean-teacher": MeanTeacher,
    "image": image,
    "pixel": pixel,
    "trust": Trust,
}
TAKE_GAINS = ("image", "pixel", "trust")  # those that need forward mode


def streams_of(method: str) -> tuple[str, ...]:
    """The streams that the method of this name takes its batches from."""
    if method in ("joint", "mean-teacher", *TAKE_GAINS):
        return "noisy", "clean"
    return {"clean": ("clean",), "finetuned": ("pool", "clean")}.get(method, ("pool",))


def build_method(model: nn.Module, config: Config, streams: Streams) -> Method:
    """The method of the settings, for this network and these cases."""
    method = METHODS[config.method]
    if isinstance(method, type):
        return method(model, config, streams)
    return Remembering(method, config, streams) if config.method in TAKE_GAINS else method


def _store(config: Config, streams: Streams) -> TrustStore:
    gib = len(streams.noisy) * math.prod(config.size) * 3 / 2**30
    folder = streams.cache if streams.pixels.gib + gib > config.cache_gib else None
    return TrustStore(len(streams.noisy), config.size, memory=_memory(config, len(streams.clean)), folder=folder)


def _memory(config: Config, clean: int) -> float:
    """β. What few clean cases say of a pixel is more by chance, and wants to be heard more often."""
    if config.trust_memory is not None:
        return config.trust_memory
    return LONG_MEMORY if clean < FEW_CLEAN else MEMORY


def _heard(store: TrustStore, joined: BatchOrigin, ranks: Ranks, gains: Tensor) -> tuple[Tensor, Views]:
    """The gains of this rank's part of a noisy batch go into every rank's store.

    Returns:
        The trust of that part, upright, as it then is, and how the part is shown.
    """
    own = joined.part(ranks)
    trust = store.learn(own.cases, own.views.to_upright(find_evidence(gains)))
    store.exchange(own.cases, joined.cases, ranks)
    return trust, own.views


def _reweighted(model: nn.Module, feed: Feed, config: Config, per: Per | Weigh, *, clean_weight: float) -> Outcome:
    """With this λ where the settings have none."""
    step = reweighted_step(
        model,
        noisy=feed.noisy(),
        clean=feed.clean(),
        clean_weight=clean_weight if config.clean_weight is None else config.clean_weight,
        pixel_loss=cross_entropy_of_labels,
        gains=config.gains,
        along=parameters_along(model, config.along),
        per=per,
        ranks=feed.ranks,
    )
    weights = step.weights.to(torch.float32 if step.weights.device.type == "mps" else torch.float64)  # which mps does not have
    zeros = ((weights == 0) & step.counted).sum(dtype=weights.dtype)
    helps = feed.ranks.all_reduce_sum(step.weights.any())
    zeros, counted, squares = feed.ranks.all_reduce_sum(torch.stack([zeros, step.counted.sum(), weights.square().sum()]))
    return Outcome(
        loss=_reported(step.loss),
        clean_loss=_reported(step.clean_loss),
        zero_share=_reported(zeros / counted),
        effective_pixels=_reported(torch.where(helps, 1 / squares, 0.0)),
        all_zero=_reported(~helps),
        weights=step.weights,
        gains=step.gains,
    )


def _backward_mean(
    model: nn.Module, batch: Batch, ranks: Ranks, share: float = 1.0, pixel_loss: PixelLoss = cross_entropy_of_labels
) -> float | Tensor:
    losses = pixel_loss(compute_logits(model, batch.images), batch.masks)
    return _backward(mean_over_counted(losses, batch.masks, ranks=ranks), share)


def _backward(loss: Tensor, share: float = 1.0) -> float | Tensor:
    if loss.requires_grad:  # not of a part without images
        (share * loss).backward()
    return _reported(loss.detach())


def _reported(value: Tensor) -> Any:
    """A number at once on the CPU, where nothing waits; elsewhere the tensor, for later."""
    return value.item() if value.device.type == "cpu" else value
