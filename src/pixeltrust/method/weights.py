"""A weight for every noisy pixel: does learning from it help on the clean masks?

Imagine one training step on the noisy losses ℓ_p alone, each with its own factor ε_p: θ̂(ε) = θ − α ∇θ Σ_p ε_p ℓ_p. It lowers the clean
loss L_c at the rate

    −∂L_c(θ̂(ε))/∂ε_p at ε = 0  =  α ⟨∇ℓ_p(θ), v⟩,   v = ∇L_c(θ).

That is the gain of pixel p: it is positive where the gradient of its loss points the same way as the gradient of the clean loss. Pixels
that hurt are left out, and the others share a weight of 1 in proportion to their gains:

    w_p = max(0, gain_p) / Σ_q max(0, gain_q),   and θ is updated on Σ_p w_p ℓ_p.

The gain is also the derivative of ℓ_p along v. So one forward-mode pass of the noisy batch gives all gains at once: no network is copied,
and only networks without forward mode are differentiated twice (see `tangents`).

    B images   C channels   K classes   *S spatial axes, (H, W) or (D, H, W)
    images (B, C, *S)   masks (B, *S)   logits (B, K, *S)   gains, weights (B, *S)

Source: Mirikharaji, Yan, Hamarneh, "Learning to Segment Skin Lesions from Noisy Annotations", arXiv 1906.03815, after Ren, Zeng, Yang,
Urtasun, "Learning to Reweight Examples for Robust Deep Learning", ICML 2018. α cancels in the normalisation.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn

from pixeltrust.method.batch import Batch, at_least_float32, compute_logits, pixel_losses
from pixeltrust.method.forward_mode.fallback import load_forward_mode
from pixeltrust.method.heads import Objective, PickHeads, pick_finest
from pixeltrust.method.losses import PixelLoss, WeightedLoss, pixel_cross_entropy
from pixeltrust.method.lost_gradients import remember_step, warn_if_lost
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.tangents import Direction, Pick, TangentRule, exact_tangent, finite_difference_tangent, require_logits
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks

Gains = Literal["exact", "finite-difference"]
Per = Literal["pixel", "image"]
Weigh: TypeAlias = Callable[[Tensor], Tensor]
"""A function of the gains (B, *S) that returns the unnormalised weight of each pixel, ≥ 0."""
_TANGENTS = {"exact": exact_tangent, "finite-difference": finite_difference_tangent}


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
    """Return the gain ⟨∇ℓ_p, ∇L_c⟩ of every noisy pixel, (B, *S): how fast a step on its loss alone lowers the mean clean loss.

    A gain is 0 where the pixel is ignored; all are 0 where all clean pixels are ignored. The model is left as it was: parameters, their
    .grad, buffers.

    Args:
        model: any network from images (B, C, *S) to logits (B, K, *S); K = 1 is binary.
        pixel_loss: (logits, masks) to losses (B, *S), as in `reweighted_step`.
        gains: "exact" or "finite-difference", as in `reweighted_step`.
        along: take the product over these parameters alone, say those of a decoder: cheaper, and approximate. All if not given.
        logits: a function that picks the logits (B, K, *S) from what the model returns, if that is a list or a dict.

    Raises:
        ValueError: shapes or labels do not agree; masks of 0 and 255 alone for one logit (see `Batch`); `gains` is not one of the two;
            `along` contains no trainable parameter; or the network has no correct gains: names what prevents them (see `tangents`).
        TypeError: the model does not return a tensor, and `logits` is not given.

    Warns:
        GainsWarning: once for a network whose exact gains need a slower way, with the reason.

    Example:
        gains = pixel_gains(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks))  # masks and gains (4, 96, 96)

    Source: as above (arXiv 1906.03815), before the clamp at 0.
    """
    with keep_buffers(model):
        _, direction = clean_gradient(model, clean, pixel_loss=pixel_loss, along=along, logits=logits)
        return gains_along(direction, model, noisy=noisy, pixel_loss=pixel_loss, gains=gains, logits=logits)


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
    """Return the weights (B, *S) of the noisy pixels, ≥ 0: they sum to 1 over the batch, or are all 0 where no pixel helps.

    Arguments and errors are those of `pixel_gains`.

    Example:
        weights = pixel_weights(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks))  # masks and weights (4, 96, 96)
    """
    return normalise_gains(pixel_gains(model, noisy=noisy, clean=clean, pixel_loss=pixel_loss, gains=gains, along=along, logits=logits))


def normalise_gains(gains: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Return max(0, gain) over its sum; all 0 where no gain is positive. The largest is divided out first: tiny gains do not underflow."""
    helpful = gains.clamp(min=0)
    helpful = helpful / ranks.all_reduce_max(helpful).clamp(min=torch.finfo(helpful.dtype).tiny)
    return helpful / ranks.all_reduce_sum(helpful.sum()).clamp(min=torch.finfo(helpful.dtype).tiny)


@dataclass(frozen=True, eq=False, repr=False)  # == on tensors does not give a single bool
class Step:
    """The numbers of one `reweighted_step`, all detached but `total`.

    loss: Σ w ℓ + λ L_c, a scalar.  clean_loss: L_c, a scalar.  weights, gains: (B, *S).  logits: (B, K, *S) of the noisy batch.
    total: with `backward=False` the loss with its graph, whose backward() adds the gradient of the step; else None.
    """

    loss: Tensor
    clean_loss: Tensor
    weights: Tensor
    gains: Tensor
    logits: Tensor
    counted: Tensor  # (B, *S), True where a pixel is not ignored
    total: Tensor | None = None

    @property
    def zero_share(self) -> float:
        """The share of the counted pixels that have weight 0, 0 to 1; NaN where no pixel counts."""
        return float((self.weights[self.counted] == 0).double().mean())

    @property
    def effective_pixels(self) -> float:
        """1 / Σ w²: so many pixels of equal weight would average as well; 0 where all weights are 0."""
        return 0.0 if self.all_zero else float(1 / self.weights.double().square().sum())

    @property
    def all_zero(self) -> bool:
        """True if no noisy pixel helps the clean loss, so that the noisy part of the step did nothing."""
        return not bool(self.weights.any())

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.weights.shape))
        return f"Step(loss={self.loss:.4g}, clean_loss={self.clean_loss:.4g}, {shape} weights, {self.zero_share:.0%} of them 0)"


def reweighted_step(
    model: nn.Module,
    *,
    noisy: Batch,
    clean: Batch,
    clean_weight: float = 0.0,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    loss: WeightedLoss | None = None,
    gains: Gains = "exact",
    along: Iterable[nn.Parameter] | None = None,
    per: Per | Weigh = "pixel",
    logits: PickHeads = require_logits,
    head_weights: Sequence[float] | None = None,
    backward: Callable[[Tensor], object] | Literal[False] | None = None,
    ranks: Ranks = ALONE,
) -> Step:
    """Add the gradient of Σ w ℓ + λ L_c to the parameters' .grad, as backward() does, with the weights w of these very parameters.

    One forward and backward pass of the clean batch gives v, one forward pass of the noisy batch gives logits and gains together, and
    one backward pass trains; λ v costs nothing more. The weights are constants of the backward pass, as in the paper.

    The noisy pass updates the buffers (running statistics); the clean pass updates them if and only if λ > 0.

    With several ranks each batch is this rank's part of a joined one, and may have no images. v, the weights' sum and the losses are those
    of the joined batches. .grad receives this rank's part; `ranks.sum_gradients` then makes the whole gradient of it.

    Args:
        clean_weight: λ ≥ 0, the factor of the clean loss in the update; 0 is the paper.
        pixel_loss: (logits, masks) to losses ℓ (B, *S); pixel by pixel, differentiable in forward and reverse mode. The gains are of it.
        loss: (logits, masks, weights) to a scalar, in place of Σ w ℓ and of L_c: weights (B, *S) sum to 1 over the batch, and are equal on
            the clean one; see `weighted_dice_cross_entropy`. A gain then says how much a step on ℓ lowers this loss of the clean batch.
        gains: "exact" (forward mode) or "finite-difference" (cheaper, float32 only; see `tangents` for its error).
        along: as in `pixel_gains`. All parameters are updated nevertheless.
        per: "pixel"; "image" for one weight per image (Ren et al.; see `share_over_images`); or a function of the gains, called once,
            that returns unnormalised weights in their place.
        logits: as in `pixel_gains`; or a function that returns the logits of several heads, the finest first, as of a network with deep
            supervision (`logits=list` where it returns them so). Gains and weights are of the first; all are trained (see `heads`).
        head_weights: what each head counts, relative to the others; 1, ½, ¼ … if not given.
        backward: is called in place of loss.backward(), where a framework scales or accumulates: `accelerator.backward`,
            `lambda loss: scaler.scale(loss).backward()`. The whole gradient passes through it, λ v too. False where the framework makes
            that call itself: then nothing is added to .grad, and `total` of the step is the loss to hand over.
        ranks: this process among those that step together (see `current_ranks`); every one of them must call this.

    Raises:
        ValueError, TypeError: as `pixel_gains`; λ < 0; `per` is not one of these; `loss` does not return a scalar; there are not as many
            `head_weights` as heads.

    Warns:
        GainsWarning: as `pixel_gains`; and if the gradients of the last steps were thrown away before any parameter changed.

    Example:
        optimizer.zero_grad()  # images (16, 3, 96, 96), masks (16, 96, 96); the clean batch may have another size
        step = reweighted_step(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks), clean_weight=1.0)
        optimizer.step()

    Source: as above (arXiv 1906.03815), with a pass along v in place of a backward pass through the imagined step.
    """
    if clean_weight < 0:
        raise ValueError(f"clean_weight must be 0 or more, not {clean_weight}")
    if not callable(per) and per not in get_args(Per):
        raise ValueError(f"per must be 'pixel' or 'image', not {per!r}")
    tangent_rule = _find_tangent_rule(gains)
    warn_if_lost(model)
    along = None if along is None else list(along)
    objective, coarser = Objective(pixel_loss, loss, head_weights, ranks=ranks), list[Tensor]()
    with nullcontext() if clean_weight > 0 else keep_buffers(model):
        needed = None if clean_weight > 0 else along
        clean_loss, gradient = _clean_gradient(model, clean, objective, needed, logits)
    direction = gradient if along is None else {parameter: gradient[parameter] for parameter in along if parameter in gradient}
    with torch.enable_grad():
        find_tangent = tangent_rule if len(noisy.images) else _skip_network
        answer, tangent = find_tangent(model, noisy.images, direction, pick_finest(logits, coarser))
        gain = _differentiate_losses(answer, tangent, noisy.masks, pixel_loss)
        counted = noisy.masks != IGNORE
        counts = per(gain) if callable(per) else gain if per == "pixel" else share_over_images(gain, noisy.masks)
        weights = normalise_gains(torch.where(counted, counts, 0.0), ranks=objective.scope)
        noisy_loss = objective.weigh([answer, *coarser], noisy, weights)
    value = noisy_loss.detach() + clean_weight * clean_loss
    clean_part = gradient if clean_weight > 0 and ranks.rank == 0 else {}  # once: the ranks' parts are summed
    if backward is not None:
        # 0, with the gradient λ v
        noisy_loss = noisy_loss + sum((clean_weight * v * (p - p.detach())).sum() for p, v in clean_part.items())
    else:
        for parameter, v in clean_part.items():
            share = torch.mul(v, clean_weight, out=torch.empty_like(parameter))  # in the parameter's own memory format
            parameter.grad = share if parameter.grad is None else parameter.grad.add_(share)
    del direction, gradient, clean_part, tangent, counts, coarser  # the backward needs the memory
    if backward is not False and (len(noisy.images) or noisy_loss.requires_grad):  # not of a part without images
        with keep_buffers(model):  # activation checkpointing computes parts of the network again; statistics are counted once
            (backward or torch.autograd.backward)(noisy_loss)
    remember_step(model)
    total = noisy_loss + clean_weight * clean_loss if backward is False else None
    return Step(value, clean_loss, weights, gain, answer.detach(), counted, total)


def share_over_images(gains: Tensor, masks: Tensor) -> Tensor:
    """Return the mean gain of every image, shared out evenly over its counted pixels, (B, *S): the gain of the image's mean loss.

    Normalised, these are the image weights of Ren et al.: Σ w ℓ is then the weighted mean of the images' mean losses.
    """
    counted = (masks != IGNORE).to(gains.dtype)
    numbers = counted.flatten(1).sum(1).clamp(min=1)
    shares = gains.flatten(1).sum(1) / numbers.square()
    return counted * shares.view(-1, *(1,) * (gains.ndim - 1))


# --- v = ∇L_c, and derivatives along it --------------------------------------------------------------------------------


def clean_gradient(
    model: nn.Module, clean: Batch, *, pixel_loss: PixelLoss = pixel_cross_entropy, along: Iterable[nn.Parameter] | None = None,
    logits: Pick = require_logits, ranks: Ranks = ALONE,
) -> tuple[Tensor, Direction]:  # fmt: skip
    """Return L_c, the mean loss of the counted clean pixels, and v = ∇L_c for the parameters that it reaches; 0 where all are ignored.

    Args:
        along: as in `pixel_gains`.
        logits: as in `pixel_gains`.
        ranks: as in `reweighted_step`.

    Raises:
        ValueError: `along` contains no trainable parameter; the loss reaches nothing that is trained, as under FSDP;
            the network uses re-entrant activation checkpointing, which allows no gradient but .backward()'s.
    """
    return _clean_gradient(model, clean, Objective(pixel_loss, ranks=ranks), along, logits)


def _clean_gradient(
    model: nn.Module, clean: Batch, objective: Objective, along: Iterable[nn.Parameter] | None, logits: PickHeads
) -> tuple[Tensor, Direction]:
    trained = [parameter for parameter in (model.parameters() if along is None else along) if parameter.requires_grad]
    if along is not None and not trained:
        raise ValueError("along has no parameter that requires a gradient; leave it out to take all of them")
    if not trained:
        raise ValueError(f"no parameter of {type(model).__name__} requires a gradient: there is nothing to train, and nothing has a gain")
    coarser: list[Tensor] = []
    with torch.enable_grad():
        answer = pick_finest(logits, coarser)(model(clean.images)) if len(clean.images) else compute_logits(model, clean.images)
        loss = objective.average([answer, *coarser], clean)
        if len(clean.images) and not loss.requires_grad:
            raise ValueError(f"the output of {type(model).__name__} has no gradient (a forward under no_grad, or torch.inference_mode?)")
        with keep_buffers(model):
            own = _differentiate(loss, trained) if len(clean.images) else [None] * len(trained)
    gradients = objective.ranks.summed_gradients(trained, own)
    direction = {p: v for p, v in zip(trained, gradients, strict=True) if v is not None}
    if not direction:
        name = type(model).__name__
        raise ValueError(f"the clean loss reaches none of the parameters of {name} that are trained (is the model sharded by FSDP?)")
    return loss.detach(), direction


def gains_along(
    direction: Direction, model: nn.Module, *, noisy: Batch,
    pixel_loss: PixelLoss = pixel_cross_entropy, gains: Gains = "exact", logits: Pick = require_logits,
) -> Tensor:  # fmt: skip
    """Return the `pixel_gains` for a clean gradient that is known, as needed for many noisy batches.

    Raises:
        ValueError: as `pixel_gains`.
    """
    with keep_buffers(model), torch.no_grad():
        answer, tangent = _find_tangent_rule(gains)(model, noisy.images, direction, logits)
        pixel_losses(pixel_loss, answer, noisy)  # which checks them
    return _differentiate_losses(answer, tangent, noisy.masks, pixel_loss)


def _differentiate(loss: Tensor, trained: list[nn.Parameter]) -> Sequence[Tensor | None]:
    try:
        return torch.autograd.grad(loss, trained, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the network uses torch.utils.checkpoint with use_reentrant=True, which allows no gradient but .backward()'s; "
            "call it with use_reentrant=False"
        ) from error


def _differentiate_losses(logits: Tensor, tangent: Tensor, masks: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the derivative of every pixel loss at `logits` along `tangent`, (B, *S), in float32 or better."""
    load_forward_mode()
    with torch.no_grad(), forward_mode.dual_level():
        dual = forward_mode.make_dual(at_least_float32(logits.detach()), at_least_float32(tangent))
        gains = forward_mode.unpack_dual(pixel_loss(dual, masks)).tangent
    return torch.zeros(masks.shape, device=logits.device) if gains is None else torch.where(masks == IGNORE, 0.0, gains)


def _find_tangent_rule(gains: str) -> TangentRule:
    if gains not in _TANGENTS:
        raise ValueError(f"gains must be one of {', '.join(map(repr, _TANGENTS))}, not {gains!r}")
    return _TANGENTS[gains]


def _skip_network(model: nn.Module, images: Tensor, direction: Direction, pick: Pick) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Return the logits and the tangent of no images, without calling the network."""
    logits = compute_logits(model, images)
    return logits, logits
