"""A check of a network's gains: a few pixels are compared with reverse mode, by the definition.

gain_p = ⟨∇ℓ_p, ∇L_c⟩, each gradient by a backward pass of its own.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pixeltrust.method.batch import Batch, pixel_losses
from pixeltrust.method.forward_mode.fallback import count_fallbacks
from pixeltrust.method.losses import PixelLoss, mean_over_counted, pixel_cross_entropy
from pixeltrust.method.lost_gradients import forget_step
from pixeltrust.method.module_state import keep_buffers, random_states, replay_random
from pixeltrust.method.tangents import DIFFERENCE_TOLERANCE, Pick, Precision, backward_along, get_choice, require_logits
from pixeltrust.method.weights import Gains, clean_gradient, gains_along, reweighted_step
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.text import count

TIMED = 3  # steps of each kind, in turn; the cost is their median


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `verify`; its `str` is written for a person."""

    network: str
    way: str
    """How the gains are computed, and why not faster."""
    without_rule: Mapping[str, int]
    """Operations of a pass without a rule of their own, with the number of their calls."""
    pixels: int
    """Number of pixels that were compared with reverse mode."""
    difference: float
    """The largest difference from reverse mode, relative to the largest gain of the batch; NaN where no pixel was compared."""
    tolerance: float
    """The difference that rounding explains, or the kinks of a finite difference."""
    cost: float | None
    """Cost of a weighted step, in ordinary steps on the same two batches; None where it was not measured."""

    @property
    def right(self) -> bool:
        """True if the gains are those of reverse mode, or there was nothing to compare."""
        return not self.difference > self.tolerance

    def __str__(self) -> str:
        lines = [f"{self.network}: {self.way}"]
        if self.without_rule:
            met = ", ".join(f"{name} ({times})" for name, times in self.without_rule.items())
            lines.append(f"operations without a rule of their own, which take a second pass each: {met}")
        if not self.pixels:
            lines.append("no pixel could be compared: none is counted, or the clean gradient is 0")
        else:
            verdict = "right" if self.right else "WRONG: do not train with them"
            largest = f"the largest of {count(self.pixels, 'difference')} to reverse mode is {self.difference:.1e} of the largest gain"
            lines.append(f"the gains are {verdict}: {largest} (allowed: {self.tolerance:.0e})")
        if self.cost is not None:
            lines.append(f"a weighted step costs {self.cost:.2f} ordinary steps on the same two batches")
        return "\n".join(lines)


def verify(
    model: nn.Module,
    *,
    noisy: Batch,
    clean: Batch,
    pixel_loss: PixelLoss = pixel_cross_entropy,
    gains: Gains = "exact",
    along: Iterable[nn.Parameter] | None = None,
    logits: Pick = require_logits,
    pixels: int = 4,
    cost: bool = True,
    seed: int = 0,
) -> Verification:
    """Compare the gains of a few random pixels with reverse mode, and report how they are computed and what a step costs.

    The model is left as it was: parameters, their .grad, buffers; so are torch's random generators.

    Args:
        noisy: as in `reweighted_step`.
        clean: as in `reweighted_step`.
        pixel_loss: as in `reweighted_step`.
        gains: as in `reweighted_step`.
        along: as in `reweighted_step`.
        logits: as in `reweighted_step`.
        pixels: how many noisy pixels are compared, one backward each.
        cost: measure the cost too, by three steps of each kind; in processor time on a CPU, wall-clock time on a GPU.
        seed: draws the pixels.

    Raises:
        ValueError, TypeError: as `pixel_gains`; above all, the network has no correct gains: names what prevents them.

    Example:
        print(verify(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks)))  # images (4, 3, 96, 96), masks (4, 96, 96)
    """
    along = None if along is None else list(along)
    tensors = [*model.parameters(), noisy.images]
    with replay_random(random_states(tensors)), keep_buffers(model):
        _, direction = clean_gradient(model, clean, pixel_loss=pixel_loss, along=along, logits=logits)
        compute = partial(gains_along, direction, model, noisy=noisy, pixel_loss=pixel_loss, gains=gains, logits=logits)
        before = random_states(tensors)
        computed = compute()
        with replay_random(before), torch.enable_grad(), Precision(direction, recorded=True) as precision:
            losses = pixel_losses(pixel_loss, logits(model(noisy.images)), noisy)
        places = _draw_pixels(noisy.masks != IGNORE, pixels, seed) if any(v.count_nonzero() for v in direction.values()) else []
        errors = [abs(float(computed[place]) - backward_along(losses[place], direction)) for place in places]
        with count_fallbacks() as without_rule, replay_random(before):
            compute()
    scale = max(float(computed.abs().max()), 1e-300)
    return Verification(
        network=type(model).__name__,
        way=str(get_choice(model) or "exact gains, of a clean gradient of 0") if gains == "exact" else "gains by a finite difference",
        without_rule=dict(without_rule),
        pixels=len(errors),
        difference=max(errors) / scale if errors else float("nan"),
        tolerance=precision.tolerance(noisy.images.device) if gains == "exact" else DIFFERENCE_TOLERANCE,
        cost=_measure_cost(model, noisy, clean, pixel_loss, gains, along, logits) if cost else None,
    )


def _draw_pixels(counted: Tensor, number: int, seed: int) -> list[tuple[int, ...]]:
    places = counted.cpu().nonzero()
    chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:number]
    return [tuple(place) for place in places[chosen].tolist()]


def _measure_cost(
    model: nn.Module, noisy: Batch, clean: Batch, pixel_loss: PixelLoss, gains: Gains, along: list[nn.Parameter] | None, logits: Pick
) -> float:
    """Return the median cost of a weighted step, relative to ordinary steps on both batches."""

    def ordinary() -> None:
        for batch in (noisy, clean):
            mean_over_counted(pixel_losses(pixel_loss, logits(model(batch.images)), batch), batch.masks).backward()

    def weighted() -> None:
        reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0, pixel_loss=pixel_loss, gains=gains, along=along, logits=logits)
        forget_step(model)

    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    ratios = []
    try:
        with replay_random(random_states([*parameters, noisy.images])), keep_buffers(model), torch.enable_grad():
            for _ in range(TIMED):
                seconds = []
                for step in (ordinary, weighted):
                    for parameter in parameters:
                        parameter.grad = None
                    seconds.append(_measure_seconds(step, noisy.images.device))
                ratios.append(seconds[1] / max(seconds[0], 1e-9))
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    return statistics.median(ratios)


def _measure_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Measure a step in processor seconds, or in wall-clock seconds on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    began = clock()
    step()
    wait()
    return clock() - began
