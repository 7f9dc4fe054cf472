"""The memory of trust: how often learning from a noisy pixel has helped on the clean masks.

Every visit of a noisy image gives evidence about each of its labels: a gain above 0 speaks for the label, a gain below 0 against it. One
visit is often wrong, so the trust T of a pixel is a moving average with the memory β, from 0 to 1:

    T ← β T + (1 − β) [gain > 0],   T = 1 before the first visit

A label is trusted until evidence speaks against it; after k visits in a row that do, T is βᵏ. A gain of exactly 0 (an ignored or saturated
pixel, no clean gradient) is not evidence and leaves T as it is.

T estimates the share s of visits in which the pixel helped, over about the last 1 / (1 − β) visits, with the standard deviation
√(s (1 − s) (1 − β) / (1 + β)) where visits are independent. It is not the probability that the label is right: s is above ½ for right
labels and below ½ for wrong ones while the network still learns from the clean masks, and tends to ½ for both once it has fitted them.

    N noisy cases   B images of a batch   *S spatial axes of the size that is trained on, (H, W) or (D, H, W)

With β = 0 only the last visit counts. `training.methods.Trust` weighs a pixel by a power of T, `weights` by the gain itself.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.processes import Ranks


def find_evidence(gains: Tensor) -> Tensor:
    """Return two masks of gains (B, *S), float32 (B, 2, *S): gain > 0, and whether it is evidence (neither 0 nor NaN)."""
    return torch.stack([gains > 0, (gains != 0) & ~gains.isnan()], 1).float()


class TrustStore(nn.Module):
    """The trust of N noisy cases, upright (oriented as in the files), three bytes a pixel.

    Its state is `trust` (half precision) and `visits`, the number of visits that gave evidence (one byte, at most 255). Half precision
    rounds T by a relative 2⁻¹² at most, so T settles within 2⁻¹² / (1 − β) of its limit.

    Args:
        cases: N.
        size: the spatial axes *S.
        memory: β, 0 to 1; 1 learns nothing.
        folder: keep the pixels in new files of this folder in place of memory, so that only the disk limits N.

    Example:
        store = TrustStore(len(cases), (96, 96), memory=0.7)
        trust = store.learn([3, 17], find_evidence(gains))  # gains (2, 96, 96) of the cases 3 and 17, upright
    """

    trust: Tensor
    visits: Tensor

    def __init__(self, cases: int, size: Sequence[int], *, memory: float, folder: Path | None = None) -> None:
        super().__init__()
        if not 0 <= memory <= 1:
            raise ValueError(f"memory must be 0 to 1, not {memory}")
        self.memory = memory
        self._mapped = folder is not None
        for name, dtype, start in (("trust", np.float16, 1), ("visits", np.uint8, 0)):
            if folder is None:
                pixels = np.empty((cases, *size), dtype)
            else:
                pixels = mapped_array(folder / f"{name}.{np.dtype(dtype).name}", dtype, (cases, *size))
            pixels[:] = start
            self.register_buffer(name, torch.from_numpy(pixels))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Move the pixels to another device, but leave a mapped file in its place, and never change the dtypes."""
        return super()._apply(lambda values: values if self._mapped else fn(values).to(values.dtype), recurse)

    def values(self, cases: Sequence[int] | np.ndarray) -> Tensor:
        """Return the trust of these cases, float32 (B, *S), 0 to 1, on the store's device."""
        return self.trust[self._rows(cases)].float()

    def learn(self, cases: Sequence[int] | np.ndarray, evidence: Tensor) -> Tensor:
        """Update the trust of different cases by the evidence of a visit, and return it.

        Args:
            cases: B numbers of cases, none of them twice.
            evidence: upright, as of `find_evidence`. Where an image was interpolated, it is the mean of the shown pixels around a place,
                and counts if at least half of them were evidence.

        Returns:
            float32 (B, *S) on the device of the evidence.
        """
        if evidence.shape != (len(cases), 2, *self.trust.shape[1:]):
            size = tuple(self.trust.shape[1:])
            raise ValueError(f"evidence {tuple(evidence.shape)} does not fit {len(cases)} cases of {size} pixels")
        rows = self._rows(cases)
        before, visits = self.trust[rows].to(evidence.device, torch.float32), self.visits[rows].to(evidence.device)
        helped, known = evidence.unbind(1)
        is_known = known >= 0.5  # 0 or 1 but for interpolation
        after = torch.where(is_known, torch.lerp(helped / known, before, self.memory), before).half()
        self.trust[rows] = after.to(self.trust.device)
        self.visits[rows] = (visits + (is_known & (visits < 255))).to(self.visits.device)
        return after.float()

    def exchange(self, cases: np.ndarray, joined: np.ndarray, ranks: Ranks) -> None:
        """Copy what each rank has just learned of its `cases` into every rank's store; `joined` are the cases of all ranks."""
        if ranks.count > 1:
            own, rows = self._rows(cases), self._rows(joined)
            for pixels in (self.trust, self.visits):
                pixels[rows] = ranks.all_gather_rows(pixels[own], len(joined))

    def helped(self, cases: Sequence[int] | np.ndarray) -> Tensor:
        """Return the share of its visits in which each pixel helped, float32 (B, *S), 0 to 1; later visits count more.

        It is T corrected for its first value 1: (T − βᵏ) / (1 − βᵏ) after k visits with evidence. It is 1 where k = 0 or β = 1.
        """
        left = self.memory ** self.visits[self._rows(cases)].double()
        shares = (self.values(cases) - left) / (1 - left)
        return torch.where(left < 1, shares, 1.0).clamp(0, 1).float()

    def _rows(self, cases: Sequence[int] | np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(cases, np.int64)).to(self.trust.device)
