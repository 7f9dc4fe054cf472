"""Trust: how often learning from a noisy pixel has helped on the clean masks, and the training step that weighs pixels by it.

Every visit of a noisy image gives evidence about each of its labels: a gain above 0 speaks for the label, a gain below 0 against it. One
visit is often wrong, so the trust T of a pixel is a moving average with the memory β, from 0 to 1:

    T ← β T + (1 − β) [gain > 0],   T = 1 before the first visit

A label is trusted until evidence speaks against it; after k visits in a row that do, T is βᵏ. A gain of exactly 0 (an ignored or saturated
pixel, no clean gradient) is not evidence and leaves T as it is. The weight of a pixel is Tˢ over its sum, with the sharpness s.

T estimates the share h of visits in which the pixel helped, over about the last 1 / (1 − β) visits, with the standard deviation
√(h (1 − h) (1 − β) / (1 + β)) where visits are independent. It is not the probability that the label is right: h is above ½ for right
labels and below ½ for wrong ones while the network still learns from the clean masks, and tends to ½ for both once it has fitted them.

    B images of a batch   *S spatial axes of the batch, (H, W) or (D, H, W)   *G those of a case, which may differ from case to case

With β = 0 only the last visit counts. This weighs a pixel by a power of T, `weights` by the gain itself.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.method.addresses import Shape, Where, shapes_of
from pixeltrust.method.batch import Batch, to_device
from pixeltrust.method.heads import PickHeads
from pixeltrust.method.losses import PixelLoss, WeightedLoss, pixel_cross_entropy
from pixeltrust.method.tangents import require_logits
from pixeltrust.method.weights import Gains, Step, normalise_gains, reweighted_step
from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.processes import ALONE, Ranks

MEMORY, SHARPNESS = 0.7, 3.0
_VISIT_BITS = 6
_MOST_VISITS = 2**_VISIT_BITS - 1
_FULL = 2 ** (16 - _VISIT_BITS) - 1  # the levels of T
_FILE = "trust.int16"
_SMALLEST = 2**16  # pixels; what is kept grows by doubling


class Trust(nn.Module):
    """The trust of every noisy pixel, and the step that weighs by it, for any training loop.

    It needs no number of cases: a case is known once a batch shows it, on the grid that it came with. A pixel takes two bytes, 10 bits of T
    and 6 of the number of its visits with evidence, which stops at 63. Rounding moves T by 2⁻¹¹ at most, and so its limit by up to
    2⁻¹¹ / (1 − β). Its state_dict() fits a fresh `Trust`, which then continues bit for bit.

    Args:
        memory: β, 0 to 1; 1 learns nothing. Loaded with a state, as T and visits mean something by it alone.
        sharpness: s, 0 or more; 0 weighs all pixels alike.
        folder: keep the pixels in a new file of this folder in place of memory, so that only the disk limits their number.

    Example:
        trust = Trust()
        for noisy, clean, ids, addresses in batches:  # see `address_map`
            optimizer.zero_grad()
            trust.step(model, noisy=noisy, clean=clean, where=Where(ids, addresses))
            optimizer.step()
        trust.write_maps(Path("helped"))
    """

    pixels: Tensor  # not a buffer, which DistributedDataParallel would send to every process at every step

    def __init__(self, memory: float = MEMORY, sharpness: float = SHARPNESS, *, folder: Path | str | None = None) -> None:
        super().__init__()
        if not 0 <= memory <= 1:
            raise ValueError(f"memory must be 0 to 1, not {memory}")
        if not 0 <= sharpness < math.inf:
            raise ValueError(f"sharpness must be 0 or more, not {sharpness}")
        self.memory, self.sharpness = float(memory), float(sharpness)
        self._folder = None if folder is None else Path(folder)
        self._cases: dict[str, tuple[int, tuple[int, ...]]] = {}  # the place of the first pixel, and the grid
        self._used = 1  # the first place is of no pixel
        self.pixels = self._new_pixels(_SMALLEST)

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(
        self,
        model: nn.Module,
        *,
        noisy: Batch,
        clean: Batch,
        where: Where,
        clean_weight: float = 1.0,
        pixel_loss: PixelLoss = pixel_cross_entropy,
        loss: WeightedLoss | None = None,
        gains: Gains = "exact",
        along: Iterable[nn.Parameter] | None = None,
        logits: PickHeads = require_logits,
        head_weights: Sequence[float] | None = None,
        backward: Callable[[Tensor], object] | Literal[False] | None = None,
        ranks: Ranks = ALONE,
    ) -> Step:
        """Add the gradient of Σ Tˢ ℓ / Σ Tˢ + λ L_c to the parameters' .grad, with the trust T of every noisy pixel after this visit.

        Args:
            where: which pixels of which cases the noisy batch shows. A pixel from no case has weight 0.
            clean_weight: λ ≥ 0.
            noisy: as in `reweighted_step`.
            clean: as in `reweighted_step`.
            pixel_loss: as in `reweighted_step`.
            loss: as in `reweighted_step`.
            gains: as in `reweighted_step`.
            along: as in `reweighted_step`.
            logits: as in `reweighted_step`.
            head_weights: as in `reweighted_step`.
            backward: as in `reweighted_step`.
            ranks: as in `reweighted_step`.

        Raises:
            ValueError, TypeError: as `reweighted_step`; `where` does not fit the noisy batch, or a case has another grid than before.

        Example:
            step = trust.step(model, noisy=Batch(images, masks), clean=Batch(clean_images, clean_masks), where=Where(ids, addresses))
        """
        place = where.on(noisy.masks.shape)  # before anything is computed
        return reweighted_step(
            model,
            noisy=noisy,
            clean=clean,
            clean_weight=clean_weight,
            pixel_loss=pixel_loss,
            loss=loss,
            gains=gains,
            along=along,
            per=lambda gain: self._learn(gain, where.ids, *place, ranks=ranks).to(gain.dtype) ** self.sharpness,
            logits=logits,
            head_weights=head_weights,
            backward=backward,
            ranks=ranks,
        )

    def weights(self, gains: Tensor, where: Where, *, counted: Tensor | None = None, ranks: Ranks = ALONE) -> Tensor:
        """Learn from the gains of a visit, and return the weights (B, *S) of its pixels, Tˢ over its sum.

        Args:
            gains: (B, *S), of `pixel_gains`.
            where: which pixels of which cases they belong to.
            counted: (B, *S) of bool; the weight is 0 where it is False, as it should be where a pixel is ignored. All count if not given.

        Raises:
            ValueError: `where` does not fit the gains, or a case has another grid than before.

        Example:
            weights = trust.weights(pixel_gains(model, noisy=noisy, clean=clean), where, counted=noisy.masks != 255)
        """
        powers = self.learn(gains, where, ranks=ranks).to(gains.dtype) ** self.sharpness
        return normalise_gains(powers if counted is None else torch.where(counted, powers, 0.0), ranks=ranks)

    def reserve(self, ids: Sequence[str], shapes: Sequence[Shape] | Shape) -> None:
        """Make room for cases before they are seen, all at once: as much as they need, and no more.

        Args:
            shapes: the grid of the cases: one for all, or one for each.

        Raises:
            ValueError: one is known with another grid.
            RunError: the disk has no room for them.
        """
        self._add(zip(map(str, ids), shapes_of(shapes, len(ids)), strict=True), ALONE, spare=False)

    def learn(self, gains: Tensor, where: Where, *, ranks: Ranks = ALONE) -> Tensor:
        """Learn from the gains of a visit, and return the trust of its pixels after it.

        A batch is one visit: where several of its pixels show one pixel of a case, their evidence is averaged.

        Args:
            gains: as in `weights`.
            where: as in `weights`.
            ranks: with several, each learns what all of them see; they must have begun alike.

        Returns:
            float32 (B, *S) on the device of the gains, 0 to 1; 0 where a pixel belongs to no case.
        """
        return self._learn(gains, where.ids, *where.on(gains.shape), ranks=ranks)

    @torch.no_grad()
    def _learn(self, gains: Tensor, ids: Sequence[str], addresses: Tensor, shapes: Sequence[tuple[int, ...]], *, ranks: Ranks) -> Tensor:
        places = self._places(ids, addresses, shapes, ranks)
        gain = gains.to(self.pixels.device)
        is_evidence = (gain != 0) & ~gain.isnan()
        visited = ((torch.where(is_evidence, places, 0) << 1) + (gain > 0)).flatten()
        self._visit(visited if ranks.count == 1 else torch.cat(ranks.all_gather_parts(visited)))
        trust = torch.where(places > 0, _trust_of(self.pixels[places]), 0.0)
        return trust.to(gains.device)

    def _visit(self, visited: Tensor) -> None:
        """Update the pixels of a visit, given as twice their place, plus 1 for evidence that speaks for them; place 0 is of no pixel.

        Nothing here depends on the data for its size, so that a GPU does not wait.
        """
        ordered = torch.from_numpy(np.sort(visited.numpy())) if visited.device.type == "cpu" else visited.sort().values  # NumPy's is faster
        places, helps = ordered >> 1, (ordered & 1).float()
        first = torch.ones_like(places, dtype=torch.bool)
        first[1:] = places[1:] != places[:-1]
        group = first.cumsum(0) - 1
        sums, counts = (torch.zeros_like(helps).index_add_(0, group, values) for values in (helps, torch.ones_like(helps)))
        share = (sums / counts)[group]
        before = self.pixels[places]
        levels = (torch.lerp(share, _trust_of(before), self.memory) * _FULL).round().int()
        visits = (_visits_of(before) + 1).clamp(max=_MOST_VISITS)
        self.pixels[places] = ((_FULL - levels << _VISIT_BITS) | visits).to(torch.int16)
        self.pixels[0] = 0

    # --- what is remembered -----------------------------------------------------------------------------------------

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the cases that were seen."""
        return tuple(self._cases)

    def values(self, case: str) -> Tensor:
        """Return the trust T of the pixels of a case, float32 (*G), 0 to 1.

        Raises:
            KeyError: no batch has shown it.
        """
        return _trust_of(self._case(case))

    def visits(self, case: str) -> Tensor:
        """Return the number of visits that gave evidence about the pixels of a case, int32 (*G), at most 63."""
        return _visits_of(self._case(case))

    def helped(self, case: str) -> Tensor:
        """Return the share of its visits in which each pixel of a case helped, float32 (*G), 0 to 1; later visits count more.

        It is T corrected for its first value 1: (T − βᵏ) / (1 − βᵏ) after k visits with evidence. It is 1 where k = 0 or β = 1.

        Raises:
            KeyError: no batch has shown it.
        """
        left = self.memory ** self.visits(case).double()
        shares = (self.values(case) - left) / (1 - left)
        return torch.where(left < 1, shares, 1.0).clamp(0, 1).float()

    def write_maps(self, folder: Path | str) -> None:
        """Write the helped map of every case that was seen, for `pixeltrust audit DATA --helped`.

        A case of two axes becomes folder/<id>.png, of three axes folder/<id>.npy; uint8, 255 where a pixel has always helped.

        Raises:
            ValueError: an id is not the name of a file.
            ImportError: Pillow is not installed, which writes PNG.
        """
        out = Path(folder)
        unnameable = [case for case in self._cases if case != Path(case).name or "\0" in case]
        if unnameable:
            raise ValueError(f"not the name of a file, so there can be no helped map of it: {unnameable[0]!r}")
        out.mkdir(parents=True, exist_ok=True)
        for case in self._cases:
            write_helped_map(out, case, self.helped(case).cpu().numpy())

    def get_extra_state(self) -> dict[str, Any]:
        """Return what state_dict() holds beside parameters and buffers, of which there are none; pixels in a file are not copied."""
        pixels = self.pixels[1 : self._used]
        return {
            "format": 1,
            "memory": self.memory,
            "ids": list(self._cases),
            "shapes": [list(shape) for _, shape in self._cases.values()],
            "pixels": pixels.clone() if self._folder is None else pixels,
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another `Trust`, whatever cases this one knew.

        Raises:
            ValueError: it is not one.
        """
        shapes = [tuple(int(length) for length in shape) for shape in state["shapes"]]
        sizes = [math.prod(shape) for shape in shapes]
        pixels = state["pixels"]
        if state.get("format") != 1 or pixels.dtype != torch.int16 or pixels.shape != (sum(sizes),) or len(state["ids"]) != len(shapes):
            raise ValueError("not the state of a Trust, or of a later version")
        self.memory, self._cases, self._used = float(state["memory"]), {}, 1
        for case, shape, size in zip(state["ids"], shapes, sizes, strict=True):
            self._cases[str(case)] = (self._used, shape)
            self._used += size
        self.pixels = self._new_pixels(self._used)
        self.pixels[1 : self._used] = pixels.to(self.pixels.device)

    def _case(self, case: str) -> Tensor:
        if str(case) not in self._cases:
            raise KeyError(f"no batch has shown the case {case!r}; {len(self._cases):,} were shown")
        start, shape = self._cases[str(case)]
        return self.pixels[start : start + math.prod(shape)].view(shape)

    # --- where it is kept -------------------------------------------------------------------------------------------

    def _places(self, ids: Sequence[str], addresses: Tensor, shapes: Sequence[tuple[int, ...]], ranks: Ranks) -> Tensor:
        """Return the place of every pixel of a batch, (B, *S); 0 where it belongs to no case. Cases that are new are added."""
        self._add(zip(ids, shapes, strict=True), ranks)
        starts = torch.tensor([self._cases[case][0] for case in ids], dtype=torch.int64).view(-1, *(1,) * (addresses.ndim - 1))
        device = self.pixels.device
        addresses = to_device(addresses, device)
        return torch.where(addresses >= 0, addresses + to_device(starts, device), 0)

    def _add(self, shown: Iterable[tuple[str, tuple[int, ...]]], ranks: Ranks, *, spare: bool = True) -> None:
        """Add the cases that are new on any rank, in the same order on all, with `spare` room for more.

        Raises:
            ValueError: a case has another grid than before.
        """
        new: dict[str, tuple[int, ...]] = {}
        fault = ""
        for case, shape in shown:
            known = self._cases[case][1] if case in self._cases else new.setdefault(case, shape)
            if known != shape:
                fault = fault or f"case {case!r} has the grid {shape}, but had {known} before: give the shapes of the cases, not of crops"
        count, faults = ranks.sum_counts(len(new), bool(fault))
        if faults:
            raise ValueError(fault or "another process has a case whose grid is not what it was before")
        if not count:
            return
        for of_rank in ranks.all_gather_objects(new):
            for case, shape in of_rank.items():
                if case not in self._cases:
                    self._cases[case] = (self._used, shape)
                    self._used += math.prod(shape)
        if self._used > len(self.pixels):
            before = self.pixels
            self.pixels = self._new_pixels(max(self._used, 2 * len(before) * spare))
            self.pixels[: len(before)] = before

    def _new_pixels(self, count: int) -> Tensor:
        """Return pixels that nothing is known of, where they are to be kept; a file takes the place of the one before."""
        if self._folder is not None:
            return torch.from_numpy(mapped_array(self._folder / _FILE, np.int16, (count,)))
        return torch.zeros(count, dtype=torch.int16, device=self.pixels.device if hasattr(self, "pixels") else None)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Move the pixels to another device, but leave a mapped file in its place, and never change the dtype."""
        if self._folder is None:
            self.pixels = fn(self.pixels).to(self.pixels.dtype)
        return super()._apply(fn, recurse)


def write_helped_map(folder: Path, case: str, shares: np.ndarray) -> None:
    """Write the shares (*G), 0 to 1, of a case into a folder, as `Trust.write_maps` does.

    Raises:
        ImportError: Pillow is not installed, and the case has two axes.
    """
    values = (shares * 255).round().astype(np.uint8)
    if values.ndim == 2:
        from PIL import Image  # imported here: training needs torch and numpy alone

        Image.fromarray(values).save(folder / f"{case}.png")
    else:
        np.save(folder / f"{case}.npy", values)


def _trust_of(pixels: Tensor) -> Tensor:
    """Return T of kept pixels, float32."""
    return (_FULL - ((pixels.int() & 0xFFFF) >> _VISIT_BITS)).float() / _FULL


def _visits_of(pixels: Tensor) -> Tensor:
    return pixels.int() & _MOST_VISITS
