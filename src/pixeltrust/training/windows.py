"""Windows of the size of training that cover larger images: what a network gives for an image of any size."""

from collections.abc import Callable

import torch
from torch import Tensor

from pixeltrust.config import Config

OVERLAP = 0.5  # of neighbouring windows


def apply_by_windows(
    network: Callable[[Tensor], Tensor], images: Tensor, config: Config, *, batch_size: int, device: torch.device, overlap: float = OVERLAP
) -> Tensor:
    """Return what a network gives for every pixel of images, (B, K, *S), on the device of the images.

    Images of the size of training are shown whole. Others are covered by windows of that size, and what is given for these is blended with
    Gaussian weights; an image smaller than a window is padded by its outermost pixels. Only windows go to the device of the network.

    Args:
        network: takes (N, C, *size) on the device.
        images: (B, C, *S).
        batch_size: windows in one pass.
        overlap: of neighbouring windows, as a share of their sides.
    """
    if images.shape[2:] == config.size:
        return network(images.to(device)).to(images.device)
    from monai.inferers import sliding_window_inference  # imported here: it takes seconds

    blended = sliding_window_inference(
        images, config.size, batch_size, network, overlap=overlap, mode="gaussian", padding_mode="replicate", sw_device=device,
        device=images.device,
    )  # fmt: skip
    assert isinstance(blended, Tensor)
    return blended
