"""What is known of every noisy pixel's label, gathered from visit to visit.

Whenever a noisy image is trained on, the sign of a pixel's gain is a witness for its label (gain > 0) or against it (gain < 0). One witness
is often wrong. The trust of a pixel is their memory,

    T ← β T + (1 − β) [gain > 0],

which starts at 1: a label is believed until something speaks against it. After k visits in a row that speak against it T is β^k.

T estimates the share of visits in which the pixel helped, over the last 1 / (1 − β) or so, with a standard deviation of
√(s (1 − s) (1 − β) / (1 + β)) where the share is s and visits are independent. It is no probability that the label is right: that share is
above ½ for right labels and below for wrong ones while the network still learns from the clean masks, and tends to ½ for both once it has
fitted them. A gain of exactly 0 (an ignored pixel, a saturated one, no clean gradient at all) is no evidence and leaves T as it was.

    N noisy cases   B images of a batch   (H, W) the size that is trained on

β = 0 asks the last visit alone; weights that then are the gain itself, not a power of T, are the paper's (see `weights`).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.files import mapped_array


class TrustStore(nn.Module):
    """Trust of N × H × W pixels, two bytes each, upright (no flip or turn).

    Its state is `trust`, a half-precision tensor, and `visits` (N,), how often each case was seen.

    Half precision rounds T by at most 2⁻¹² (relatively), so T comes to rest within 2⁻¹² / (1 − β) of where it tends.

    Args:
        cases: N.
        size: (H, W).
        memory: β, 0 … 1, of which 1 learns nothing.
        file: where the pixels are kept if not in memory; made anew. Beyond memory it is the disk that limits N.
    """

    trust: Tensor
    visits: Tensor

    def __init__(self, cases: int, size: tuple[int, int], *, memory: float, file: Path | None = None) -> None:
        super().__init__()
        if not 0 <= memory <= 1:
            raise ValueError(f"memory must be 0 to 1, not {memory}")
        self.memory = memory
        self._mapped = file is not None
        if file is None:
            trust = torch.ones(cases, *size, dtype=torch.half)
        else:
            pixels = mapped_array(file, np.float16, (cases, *size))
            pixels[:] = 1
            trust = torch.from_numpy(pixels)
        self.register_buffer("trust", trust)
        self.register_buffer("visits", torch.zeros(cases, dtype=torch.int32))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """A mapped file stays where it is, and no cast changes what two bytes hold."""
        return super()._apply(lambda values: values if self._mapped else fn(values).to(values.dtype), recurse)

    def of(self, cases: np.ndarray) -> Tensor:
        """Trust of these cases, float32 (B, H, W), 0 … 1, on the store's device."""
        return self.trust[self._places(cases)].float()

    def learn(self, cases: np.ndarray, gains: Tensor) -> Tensor:
        """What the gains (B, H, W) say goes into the trust of these cases, no two alike; it as it then is, float32 on the gains' device."""
        if gains.shape != (len(cases), *self.trust.shape[1:]):
            raise ValueError(f"gains {tuple(gains.shape)} are not those of {len(cases)} cases of {tuple(self.trust.shape[1:])} pixels")
        places = self._places(cases)
        before = self.trust[places].to(gains.device, torch.float32)
        heard = torch.lerp((gains > 0).float(), before, self.memory)
        after = torch.where((gains == 0) | gains.isnan(), before, heard).half()
        self.trust[places] = after.to(self.trust.device)
        self.visits[places] += 1
        return after.float()

    def helped(self, cases: np.ndarray) -> Tensor:
        """The share of visits in which each pixel helped, float32 (B, H, W), 0 … 1, later visits counting more.

        It is T without what is left of the 1 that it began with, (T − βᵏ) / (1 − βᵏ) after k visits; 1 where there was no visit, or
        where β = 1 learns nothing. Visits that were no evidence count as ones that helped.
        """
        left = (self.memory ** self.visits[self._places(cases)].double()).view(-1, 1, 1)
        shares = (self.of(cases) - left) / (1 - left)
        return torch.where(left < 1, shares, 1.0).clamp(0, 1).float()

    def _places(self, cases: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(cases, np.int64)).to(self.trust.device)
