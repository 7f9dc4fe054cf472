"""Sliding windows over a volume, in memory that does not grow with its depth.

C channels   K classes   (D, H, W) the volume   (d, h, w) a window
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from pixeltrust.training.windows import OVERLAP


def slide_windows(
    image: np.ndarray, size: Sequence[int], probabilities: Callable[[Tensor], Tensor], *, batch_size: int, device: torch.device
) -> Iterator[np.ndarray]:
    """Yield the planes (K, H, W) of a volume's probabilities, one after the other along D.

    The numbers are those of MONAI's `sliding_window_inference` with Gaussian weights, which holds all of them, K x D x H x W. Here
    K x d x H x W are held: a plane is complete once the windows have gone past it.

    Args:
        image: floats (C, D, H, W), at least as large as a window.
        size: (d, h, w).
        probabilities: from windows float32 (B, C, d, h, w) on the device to (B, K, d, h, w).
        batch_size: windows in one pass.
    """
    from monai.data.utils import compute_importance_map, dense_patch_slices

    shape = image.shape[1:]
    steps = [side if side == whole else max(1, int(side * (1 - OVERLAP))) for side, whole in zip(size, shape, strict=True)]
    windows = dense_patch_slices(shape, tuple(size), tuple(steps))
    weights = torch.as_tensor(compute_importance_map(tuple(size), mode="gaussian", device=device))
    sums: Tensor | None = None  # (K + 1, d, H, W): of weighted probabilities, and of weights
    first = 0  # plane of these
    for start, of_one_depth in groupby(windows, key=lambda window: window[0].start):
        if sums is not None:
            yield from _complete(sums[:, : start - first])
            sums = torch.cat([sums[:, start - first :], torch.zeros_like(sums[:, : start - first])], 1)
        first, places = start, [(slice(None), slice(None), *window[1:]) for window in of_one_depth]
        for begin in range(0, len(places), batch_size):
            batch = places[begin : begin + batch_size]
            pieces = np.stack([image[:, start : start + size[0]][place] for place in batch])
            predicted = probabilities(torch.from_numpy(pieces).float().to(device))
            if sums is None:
                sums = torch.zeros(predicted.shape[1] + 1, size[0], *shape[1:], device=device)
            for place, of_window in zip(batch, predicted, strict=True):
                sums[place][:-1] += of_window * weights
                sums[place][-1] += weights
    assert sums is not None
    yield from _complete(sums)


def _complete(sums: Tensor) -> Iterator[np.ndarray]:
    for plane in sums.unbind(1):
        yield (plane[:-1] / plane[-1]).cpu().numpy()
