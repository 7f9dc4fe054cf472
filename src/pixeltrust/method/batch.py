"""Images with their masks, and the losses of their pixels.

B images   C channels   K classes   *S spatial axes, (H, W) or (D, H, W)
images (B, C, *S)   masks, losses (B, *S)   logits (B, K, *S)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixeltrust.method.losses import PixelLoss
from pixeltrust.plumbing.labels import IGNORE


@dataclass(frozen=True, eq=False)  # == on tensors does not give a single bool
class Batch:
    """Images (B, C, *S) of a float dtype with their masks (B, *S) or (B, 1, *S): labels of any real dtype.

    The label 255 is ignored. Masks of 0 and 255 alone are ambiguous for a network with one logit, because 255 is the foreground in
    pictures: they are refused there unless `ignore_label` is given.

    Args:
        ignore_label: the label that is ignored, if not 255; or 255 to confirm that masks of 0 and 255 alone mean background and ignored.

    Raises:
        TypeError: images or masks are not tensors.
        ValueError: the shapes do not agree, or images and masks are swapped (names both shapes); masks hold 255 beside another
            `ignore_label`.

    Example:
        Batch(torch.rand(4, 3, 96, 96), masks)  # masks (4, 96, 96), 0 or 1
    """

    images: Tensor
    masks: Tensor
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        for name, values in (("images", self.images), ("masks", self.masks)):
            if not isinstance(values, Tensor):
                kind = f"{type(values).__module__}.{type(values).__name__}"
                raise TypeError(f"{name} must be a torch tensor, not {kind}: torch.as_tensor({name})")
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


def compute_logits(model: nn.Module, images: Tensor, classes: int = 1) -> Tensor:
    """Return (B, K, *S). The network is not called without images, as a rank's part may be; then K is `classes`."""
    return model(images) if len(images) else images.new_zeros(0, classes, *images.shape[2:])


def pixel_losses(pixel_loss: PixelLoss, logits: Tensor, batch: Batch) -> Tensor:
    """Return the losses (B, *S) of a batch.

    Raises:
        ValueError: they have another shape; masks of 0 and 255 alone for one logit.
    """
    if batch.ignore_label is None and logits.ndim > 1 and logits.shape[1] == 1:
        _refuse_pictures(batch.masks)
    losses = pixel_loss(at_least_float32(logits), batch.masks)
    if losses.shape != batch.masks.shape:
        raise ValueError(
            f"pixel_loss must give a loss for every pixel, {tuple(batch.masks.shape)}, not {tuple(losses.shape)}: "
            'leave its mean out (reduction="none"), and the axis of channels'
        )
    return losses


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32, or in their own dtype if it is more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _refuse_pictures(masks: Tensor) -> None:
    ignored, background = masks == IGNORE, masks == 0
    if ignored.any() and background.any() and (ignored | background).all():
        raise ValueError(
            f"masks hold 0 and {IGNORE} alone, and {IGNORE} is ignored: there is no foreground. If {IGNORE} is the foreground, as in "
            f"pictures, give Batch(images, masks / {IGNORE}); if it is to be ignored, Batch(images, masks, ignore_label={IGNORE})"
        )


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move the tensor to the device; from the CPU to a GPU without waiting for its work."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
