"""A weight for every noisy pixel: does learning from it help on the clean masks?

For clean loss L_c and noisy pixel losses ℓ_p, an imagined SGD step θ̂(ε) = θ − α ∇θ Σ_p ε_p ℓ_p changes the clean loss by

    −∂L_c(θ̂(ε))/∂ε_p at ε = 0  =  α ⟨∇ℓ_p(θ), v⟩,   v = ∇L_c(θ).

That is the gain of pixel p, and it is the derivative of ℓ_p along v. So one forward-mode pass of the noisy batch gives all gains;
no network is copied, nothing is differentiated twice. Weights are u_p = max(0, gain_p), normalised: w_p = u_p / Σ_q u_q.

    B images   C channels   K classes   *S spatial axes, (H, W) or (D, H, W)
    images (B, C, *S)   masks (B, *S)   logits (B, K, *S)   gains, weights (B, *S)

Source: Mirikharaji, Yan, Hamarneh, "Learning to Segment Skin Lesions from Noisy Annotations", arXiv 1906.03815, after Ren, Zeng,
Yang, Urtasun, "Learning to Reweight Examples for Robust Deep Learning", ICML 2018. α cancels in the normalisation.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn

from pixeltrust.method.forward_mode import load_forward_mode
from pixeltrust.method.losses import PixelLoss, mean_over_counted, pixel_cross_entropy
from pixeltrust.method.lost_gradients import remember_step, warn_if_lost
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.tangents import Direction, Pick, TangentRule, exact_tangent, finite_difference_tangent, require_logits
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks

Gains = Literal["exact", "finite-difference"]
Per = Literal["pixel", "image"]
Weigh: TypeAlias = Callable[[Tensor], Tensor]
"""Gains (B, *S) to what pixels count with, ≥ 0, before it is normalised."""
_TANGENTS = {"exact": exact_tangent, "finite-difference": finite_difference_tangent}


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class Batch:
    """Images (B, C, *S) of a float dtype with their masks (B, *S), or (B, 1, *S): labels of any real dtype.

    A label of 255 is ignored. Masks of 0 and 255 alone are ambiguous for a network of one logit, for as pictures have it 255 is the
    foreground: they are refused there, unless `ignore_label` says what is meant.

    Args:
        ignore_label: the label that is ignored, where it is another one; or 255, to say that masks of 0 and 255 alone are meant as
            background and ignored pixels.

    Raises:
        TypeError: images or masks are not tensors.
        ValueError: the shapes do not agree, or the two are swapped; names both shapes. Masks hold 255 beside another `ignore_label`.

    Example:
        Batch(torch.rand(4, 3, 96, 96), (masks > 0).long())
    """

    images: Tensor
    masks: Tensor
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        for name, values in (("images", self.images), ("masks", self.masks)):
            if not isinstance(values, Tensor):
                raise TypeError(
                    f"{name} must be a torch tensor, not {type(values).__module__}.{type(values).__name__}: torch.as_tensor({name})"
                )
        batch, spatial = self.images.shape[:1], self.images.shape[2:]
        shapes = f"images {tuple(self.images.shape)}, masks {tuple(self.masks.shape)}"
        if not spatial or self.masks.shape not in (batch + spatial, (*batch, 1, *spatial)):
            raise ValueError(f"images (B, C, *S) and masks (B, *S) do not agree (swapped?): {shapes}")
        if not self.images.is_floating_point():
            raise ValueError(f"images must be floats, these are {self.images.dtype} (swapped with the masks?): {shapes}")
        # Channels-last strides, which images read from disk easily have, break the forward mode of GroupNorm. With one channel
        # they count as contiguous and stay: hence flatten.
        object.__setattr__(self, "images", self.images.flatten().view(self.images.shape))
        masks = self.masks.reshape(batch + spatial)
        if self.ignore_label not in (None, IGNORE):
            if (masks == IGNORE).any():
                raise ValueError(
                    f"masks hold {IGNORE}, which is always ignored, beside ignore_label={self.ignore_label}; is it the foreground?"
                )
            masks = masks.long().masked_fill(masks == self.ignore_label, IGNORE)
        object.__setattr__(self, "masks", masks)


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class Step:
    """What one `reweighted_step` saw; all detached.

    loss: Σ w ℓ + λ L_c, a scalar.  clean_loss: L_c, a scalar.  weights, gains: (B, *S).  logits: (B, K, *S) of the noisy batch.
    """

    loss: Tensor
    clean_loss: Tensor
    weights: Tensor
    gains: Tensor
    logits: Tensor
    counted: Tensor  # (B, *S), True where a pixel is not ignored

    @property
    def zero_share(self) -> float:
        """Share of the counted pixels that have weight 0, 0 … 1; NaN where no pixel counts."""
        return float((self.weights[self.counted] == 0).double().mean())

    @property
    def effective_pixels(self) -> float:
        """1 / Σ w²: as many pixels of equal weight would average as well; 0 where all weights are 0."""
        return 0.0 if self.all_zero else float(1 / self.weights.double().square().sum())

    @property
    def all_zero(self) -> bool:
        """No noisy pixel helps the clean loss: the noisy part of the step did nothing."""
        return not bool(self.weights.any())


def pixel_gains(
    model: nn.Module,
    *,
    noisy: Batch,
    clean: Batch,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    gains: Gains = "exact",
    along: Iterable[nn.Parameter] | None = None,
    logits: Pick = require_logits,
) -> Tensor:
    """⟨∇ℓ_p, ∇L_c⟩ of every noisy pixel, (B, *S): how fast a step on its loss alone lowers the mean clean loss.

    It is 0 where the pixel is ignored, and everywhere where all clean pixels are.

    The model is left as it was: parameters, their .grad, buffers.

    Args:
        pixel_loss: (logits, masks) to losses (B, *S), as in `reweighted_step`.
        along: the parameters over which the product is taken, those of a decoder say: cheaper, and approximate. All where not given.
        logits: a function of what the model answers that gives the logits (B, K, *S), where it answers with a list or a dict.

    Raises:
        ValueError: shapes or labels that do not agree; masks of 0 and 255 alone for one logit (see `Batch`); `gains` of another name;
            `along` has nothing that is trained; or the network has no gains that are right: says what stands in the way (see `tangents`).
        TypeError: the model answers with something else than a tensor, and `logits` does not say which.

    Warns:
        GainsWarning: once for a network whose exact gains take a slower way, with the reason.
    """
    with keep_buffers(model):
        _, direction = clean_gradient(model, clean, pixel_loss=pixel_loss, along=along, logits=logits)
        return gains_along(direction, model, noisy=noisy, pixel_loss=pixel_loss, gains=gains, logits=logits)


def gains_along(
    direction: Direction,
    model: nn.Module,
    *,
    noisy: Batch,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    gains: Gains = "exact",
    logits: Pick = require_logits,
) -> Tensor:
    """`pixel_gains` of a clean gradient that is known, for those who ask it of many noisy batches.

    Raises:
        ValueError: as `pixel_gains`.
    """
    with keep_buffers(model), torch.no_grad():
        found, tangent = _tangent_rule(gains)(model, noisy.images, direction, logits)
        pixel_losses(pixel_loss, found, noisy)
    return _gains(found, tangent, noisy.masks, pixel_loss)


def pixel_weights(
    model: nn.Module,
    *,
    noisy: Batch,
    clean: Batch,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    gains: Gains = "exact",
    along: Iterable[nn.Parameter] | None = None,
    logits: Pick = require_logits,
) -> Tensor:
    """Weights (B, *S) of the noisy pixels, ≥ 0, that sum to 1 over the batch, or are all 0 where no pixel helps. See `pixel_gains`."""
    return normalise_gains(pixel_gains(model, noisy=noisy, clean=clean, pixel_loss=pixel_loss, gains=gains, along=along, logits=logits))


def normalise_gains(gains: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """max(0, gain) over its sum; all 0 where no gain is positive. (The largest is divided out first: tiny gains do not underflow.)"""
    helpful = gains.clamp(min=0)
    helpful = helpful / ranks.all_reduce_max(helpful).clamp(min=torch.finfo(helpful.dtype).tiny)
    return helpful / ranks.all_reduce_sum(helpful.sum()).clamp(min=torch.finfo(helpful.dtype).tiny)


def share_over_images(gains: Tensor, masks: Tensor) -> Tensor:
    """The mean gain of every image, shared out evenly over its counted pixels, (B, *S): the gain of the image's mean loss.

    Normalised, these are the image weights of Ren et al.: Σ w ℓ is then the weighted mean of the images' mean losses.
    """
    counted = (masks != IGNORE).to(gains.dtype)
    numbers = counted.flatten(1).sum(1).clamp(min=1)
    shares = gains.flatten(1).sum(1) / numbers.square()
    return counted * shares.view(-1, *(1,) * (gains.ndim - 1))


def reweighted_step(
    model: nn.Module,
    *,
    noisy: Batch,
    clean: Batch,
    clean_weight: float = 0.0,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    gains: Gains = "exact",
    along: Iterable[nn.Parameter] | None = None,
    per: Per | Weigh = "pixel",
    logits: Pick = require_logits,
    backward: Callable[[Tensor], object] | None = None,
    ranks: Ranks = ALONE,
) -> Step:
    """Add the gradient of Σ w ℓ + λ L_c to the parameters' .grad, as backward() does, with the weights of this very θ.

    One clean pass and backward give v; one noisy pass gives logits and tangents at once; one backward trains. λ v costs
    nothing more. The weights are constants of the backward, as in the paper.

    Buffers (running statistics) change by the noisy pass, and by the clean pass if and only if λ > 0.

    With several ranks the batches are this rank's parts of joined ones, maybe without images. v, the sum of the weights and the losses are
    of the joined batches, and what is added to .grad is this rank's part: `ranks.sum_gradients` then makes the gradient of it.

    Args:
        clean_weight: λ ≥ 0, the clean loss's share in the update; 0 is the paper.
        pixel_loss: (logits, masks) to losses (B, *S); pixel by pixel, differentiable in forward and reverse mode.
        gains: "exact" (forward mode) or "finite-difference" (cheaper, float32 only; see `tangents` for its error).
        along: as in `pixel_gains`. The update is of all parameters nevertheless.
        per: "pixel"; "image": one weight for all pixels of an image (Ren et al.; see `share_over_images`); or a function of the gains of
            one's own, called once, whose values of the counted pixels are normalised as the gains would be.
        logits: as in `pixel_gains`.
        backward: what takes the place of loss.backward(), where a framework scales or accumulates: `accelerator.backward`,
            `lambda loss: scaler.scale(loss).backward()`. All of the gradient goes by it, λ v too.
        ranks: this process among those that step together (see `ranks.current`); every one of them must.

    Raises:
        ValueError, TypeError: as `pixel_gains`; λ < 0; `per` of another name.

    Warns:
        GainsWarning: as `pixel_gains`; and if the gradients of the last steps were thrown away before any parameter changed.

    Example:
        optimizer.zero_grad()
        step = reweighted_step(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks), clean_weight=1.0)
        optimizer.step()
    """
    if clean_weight < 0:
        raise ValueError(f"clean_weight must be 0 or more, not {clean_weight}")
    if not callable(per) and per not in get_args(Per):
        raise ValueError(f"per must be 'pixel' or 'image', not {per!r}")
    _tangent_rule(gains)
    warn_if_lost(model)
    along = None if along is None else list(along)
    with nullcontext() if clean_weight > 0 else keep_buffers(model):
        reached = None if clean_weight > 0 else along
        clean_loss, gradient = clean_gradient(model, clean, pixel_loss=pixel_loss, along=reached, logits=logits, ranks=ranks)
    direction = gradient if along is None else {parameter: gradient[parameter] for parameter in along if parameter in gradient}
    noisy_loss, step = _weighted_loss(direction, model, noisy, clean_loss, pixel_loss, gains, per, logits, ranks)
    clean_part = gradient if clean_weight > 0 and ranks.rank == 0 else {}  # once: the ranks' parts are summed
    if backward is not None:
        noisy_loss = noisy_loss + sum(
            (clean_weight * v * (p - p.detach())).sum() for p, v in clean_part.items()
        )  # 0, with the gradient λ v
    else:
        for parameter, v in clean_part.items():
            share = torch.mul(v, clean_weight, out=torch.empty_like(parameter))  # in the parameter's own memory format
            parameter.grad = share if parameter.grad is None else parameter.grad.add_(share)
    del direction, gradient, clean_part  # the backward needs the memory
    if len(noisy.images) or noisy_loss.requires_grad:  # not of a part without images
        with keep_buffers(model):  # activation checkpointing computes parts of the network again; statistics are counted once
            (backward or torch.autograd.backward)(noisy_loss)
    remember_step(model)
    return replace(step, loss=step.loss + clean_weight * clean_loss)


def clean_gradient(
    model: nn.Module,
    clean: Batch,
    *,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    along: Iterable[nn.Parameter] | None = None,
    logits: Pick = require_logits,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Direction]:
    """L_c, the mean loss of the counted clean pixels, and v = ∇L_c for those of the parameters that it reaches; 0 where all are ignored.

    Args:
        along, logits: as in `pixel_gains`.
        ranks: as in `reweighted_step`.

    Raises:
        ValueError: `along` has nothing that is trained; nothing that is trained is reached, as where FSDP has sharded the network; the
            network uses re-entrant activation checkpointing, which allows no gradient but .backward()'s.
    """
    trained = [parameter for parameter in (model.parameters() if along is None else along) if parameter.requires_grad]
    if along is not None and not trained:
        raise ValueError("along has no parameter that requires a gradient; leave it out to take all of them")
    if not trained:
        raise ValueError(f"no parameter of {type(model).__name__} requires a gradient: there is nothing to train, and nothing has a gain")
    with torch.enable_grad():
        found = logits(model(clean.images)) if len(clean.images) else compute_logits(model, clean.images)
        loss = mean_over_counted(pixel_losses(pixel_loss, found, clean), clean.masks, ranks=ranks)
        if len(clean.images) and not loss.requires_grad:
            raise ValueError(f"what {type(model).__name__} answers has no gradient (a forward under no_grad, or torch.inference_mode?)")
        with keep_buffers(model):
            own = _gradients(loss, trained) if len(clean.images) else [None] * len(trained)
    gradients = ranks.summed_gradients(trained, own)
    direction = {p: v for p, v in zip(trained, gradients, strict=True) if v is not None}
    if trained and not direction:
        raise ValueError(f"the clean loss reaches none of the parameters of {type(model).__name__} that are trained (FSDP shards them?)")
    return loss.detach(), direction


def _gradients(loss: Tensor, trained: list[nn.Parameter]) -> Sequence[Tensor | None]:
    try:
        return torch.autograd.grad(loss, trained, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the network uses torch.utils.checkpoint with use_reentrant=True, which allows no gradient but .backward()'s; "
            "call it with use_reentrant=False"
        ) from error


def pixel_losses(pixel_loss: PixelLoss, logits: Tensor, batch: Batch) -> Tensor:
    """The losses (B, *S) of a batch.

    Raises:
        ValueError: they have another shape; masks of 0 and 255 alone for one logit.
    """
    if batch.ignore_label is None and logits.ndim > 1 and logits.shape[1] == 1:
        _refuse_pictures(batch.masks)
    losses = pixel_loss(_at_least_float32(logits), batch.masks)
    if losses.shape != batch.masks.shape:
        raise ValueError(
            f"pixel_loss must give a loss for every pixel, {tuple(batch.masks.shape)}, not {tuple(losses.shape)}: "
            'leave its mean out (reduction="none"), and the axis of channels'
        )
    return losses


def _refuse_pictures(masks: Tensor) -> None:
    ignored, background = masks == IGNORE, masks == 0
    if ignored.any() and background.any() and (ignored | background).all():
        raise ValueError(
            f"masks hold 0 and {IGNORE} alone, and {IGNORE} is ignored: there is no foreground. If {IGNORE} is the foreground, as in "
            f"pictures, give Batch(images, masks / {IGNORE}); if it is to be ignored, Batch(images, masks, ignore_label={IGNORE})"
        )


def compute_logits(model: nn.Module, images: Tensor, classes: int = 1) -> Tensor:
    """(B, K, *S); without images, as a rank's part may be, the network is not asked, and K is `classes`."""
    return model(images) if len(images) else images.new_zeros(0, classes, *images.shape[2:])


def _weighted_loss(
    direction: Direction,
    model: nn.Module,
    noisy: Batch,
    clean_loss: Tensor,
    pixel_loss: PixelLoss,
    gains: Gains,
    per: Per | Weigh,
    pick: Pick,
    ranks: Ranks,
) -> tuple[Tensor, Step]:
    """Σ w ℓ with its graph, and what was seen on the way to it."""
    with torch.enable_grad():
        tangent_of = _tangent_rule(gains) if len(noisy.images) else _no_tangent
        logits, tangent = tangent_of(model, noisy.images, direction, pick)
        losses = pixel_losses(pixel_loss, logits, noisy)
        gain = _gains(logits, tangent, noisy.masks, pixel_loss)
        counted = noisy.masks != IGNORE
        weights = normalise_gains(torch.where(counted, _rule(per, noisy.masks)(gain), 0.0), ranks=ranks)
        loss = ranks.all_reduce_sum((weights * losses).sum())
    seen = {"gains": gain, "weights": weights, "logits": logits.detach(), "counted": counted}
    return loss, Step(loss=loss.detach(), clean_loss=clean_loss, **seen)


def _rule(per: Per | Weigh, masks: Tensor) -> Weigh:
    if callable(per):
        return per
    return (lambda gains: gains) if per == "pixel" else (lambda gains: share_over_images(gains, masks))


def _no_tangent(model: nn.Module, images: Tensor, direction: Direction, pick: Pick) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Of no image."""
    logits = compute_logits(model, images)
    return logits, logits


def _tangent_rule(gains: str) -> TangentRule:
    if gains not in _TANGENTS:
        raise ValueError(f"gains must be one of {', '.join(map(repr, _TANGENTS))}, not {gains!r}")
    return _TANGENTS[gains]


def _gains(logits: Tensor, tangent: Tensor, masks: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """The derivative of every pixel loss at `logits` along `tangent`, (B, *S), in float32 or better."""
    load_forward_mode()
    with torch.no_grad(), forward_mode.dual_level():
        dual = forward_mode.make_dual(_at_least_float32(logits.detach()), _at_least_float32(tangent))
        gains = forward_mode.unpack_dual(pixel_loss(dual, masks)).tangent
    return torch.zeros(masks.shape, device=logits.device) if gains is None else torch.where(masks == IGNORE, 0.0, gains)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
