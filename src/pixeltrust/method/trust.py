"""What is known of every noisy pixel's label, gathered from visit to visit.

Whenever a noisy image is trained on, the sign of a pixel's gain is a witness for its label (gain > 0) or against it (gain < 0). One witness
is often wrong. The trust of a pixel is their memory,

    T ← β T + (1 − β) [gain > 0],

which starts at 1: a label is believed until something speaks against it. After k visits in a row that speak against it T is β^k.

T estimates the share of visits in which the pixel helped, over the last 1 / (1 − β) or so, with a standard deviation of
√(s (1 − s) (1 − β) / (1 + β)) where the share is s and visits are independent. It is no probability that the label is right: that share is
above ½ for right labels and below for wrong ones while the network still learns from the clean masks, and tends to ½ for both once it has
fitted them. A gain of exactly 0 (an ignored pixel, a saturated one, no clean gradient at all) is no evidence and leaves T as it was. Where
an image was shown by interpolation, a pixel hears the shown ones around its place, if at least half of what it hears is evidence.

    N noisy cases   B images of a batch   (H, W) the size that is trained on

β = 0 asks the last visit alone; weights that then are the gain itself, not a power of T, are the paper's (see `weights`).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.processes import Ranks


def find_evidence(gains: Tensor) -> Tensor:
    """Of gains (B, H, W): whether each speaks for its label, and whether it speaks at all, 0 or 1 each, float32 (B, 2, H, W)."""
    return torch.stack([gains > 0, (gains != 0) & ~gains.isnan()], 1).float()


class TrustStore(nn.Module):
    """Trust of N × H × W pixels, upright (as in the files, whatever way they are shown in), three bytes each.

    Its state is `trust`, of half precision, and `visits`, how often each pixel had evidence, of one byte: it stops at 255.

    Half precision rounds T by at most 2⁻¹² (relatively), so T comes to rest within 2⁻¹² / (1 − β) of where it tends.

    Args:
        cases: N.
        size: (H, W).
        memory: β, 0 … 1, of which 1 learns nothing.
        folder: where the pixels are kept if not in memory, in files made anew. Beyond memory it is the disk that limits N.
    """

    trust: Tensor
    visits: Tensor

    def __init__(self, cases: int, size: tuple[int, int], *, memory: float, folder: Path | None = None) -> None:
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
        """A mapped file stays where it is, and no cast changes what the bytes hold."""
        return super()._apply(lambda values: values if self._mapped else fn(values).to(values.dtype), recurse)

    def of(self, cases: np.ndarray) -> Tensor:
        """Trust of these cases, float32 (B, H, W), 0 … 1, on the store's device."""
        return self.trust[self._places(cases)].float()

    def learn(self, cases: np.ndarray, heard: Tensor) -> Tensor:
        """What upright `find_evidence` (B, 2, H, W) say goes into the trust of these cases, no two alike; it as it then is.

        Returns:
            float32 (B, H, W) on the device of the witnesses.
        """
        if heard.shape != (len(cases), 2, *self.trust.shape[1:]):
            raise ValueError(f"witnesses {tuple(heard.shape)} are not those of {len(cases)} cases of {tuple(self.trust.shape[1:])} pixels")
        places = self._places(cases)
        before, visits = self.trust[places].to(heard.device, torch.float32), self.visits[places].to(heard.device)
        favourable, speaking = heard.unbind(1)
        seen = speaking >= 0.5  # 0 or 1 but for interpolation
        after = torch.where(seen, torch.lerp(favourable / speaking, before, self.memory), before).half()
        self.trust[places] = after.to(self.trust.device)
        self.visits[places] = (visits + (seen & (visits < 255))).to(self.visits.device)
        return after.float()

    def share(self, cases: np.ndarray, joined: np.ndarray, ranks: Ranks) -> None:
        """Every rank's store gets what the others have just learned, so that all are alike; `joined` are the cases of all ranks."""
        if ranks.count > 1:
            own, places = self._places(cases), self._places(joined)
            for pixels in (self.trust, self.visits):
                pixels[places] = ranks.all_gather_rows(pixels[own], len(joined))

    def helped(self, cases: np.ndarray) -> Tensor:
        """The share of its visits in which each pixel helped, float32 (B, H, W), 0 … 1, later visits counting more.

        It is T without what is left of the 1 that it began with, (T − βᵏ) / (1 − βᵏ) after k visits with evidence; 1 where there was none,
        or where β = 1 learns nothing.
        """
        left = self.memory ** self.visits[self._places(cases)].double()
        shares = (self.of(cases) - left) / (1 - left)
        return torch.where(left < 1, shares, 1.0).clamp(0, 1).float()

    def _places(self, cases: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(cases, np.int64)).to(self.trust.device)
