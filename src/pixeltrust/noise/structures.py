"""Noise of masks with one class or several, in pictures and in volumes.

Noise works on one class at a time, with the same random numbers for all classes of a case: one person has one habit. Where two classes then
claim a pixel, the one that reaches further around it has it. What works on the border between classes sees all of them.

labels  uint8 (H, W) or (D, H, W): 0 background, 1 … K − 1
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pixeltrust.noise.kinds import Kind, Noise, Spacing, radius, require_kind, signed_distance

_BORDER_RADII = 0.5  # at strength 1, the spread of how far a class takes more than its own, in radii of it
_LABELS = 256


@dataclass(frozen=True)
class LabelKind:
    """A kind of noise that looks at all classes at once."""

    draw: Callable[[np.ndarray, np.random.Generator, float, Spacing], np.ndarray]
    """(labels, generator, strength, spacing) to labels."""
    help: str


def neighbour(labels: np.ndarray, generator: np.random.Generator, strength: float, spacing: Spacing) -> np.ndarray:
    """Take a class for its neighbour at the border between them: each takes more than its own, or less, by a distance drawn at random."""
    greed = generator.standard_normal(_LABELS)
    present = np.unique(labels[labels > 0])
    if len(present) < 2 or not strength:
        return labels
    inside = np.argwhere(labels > 0)
    window = tuple(slice(low, high + 1) for low, high in zip(inside.min(axis=0), inside.max(axis=0), strict=True))
    masks = [labels[window] == label for label in present]
    reach = [strength * _BORDER_RADII * radius(mask, spacing) * greed[label] for label, mask in zip(present, masks, strict=True)]
    nearest = np.argmin([signed_distance(mask, spacing) - far for mask, far in zip(masks, reach, strict=True)], axis=0)
    noisy = labels.copy()
    noisy[window] = np.where(labels[window] > 0, present[nearest], 0)
    return noisy


LABEL_KINDS = {"neighbour": LabelKind(neighbour, "a class is taken for its neighbour at the border between them; several classes")}


def require_noise(name: str) -> Kind | LabelKind:
    """Return the kind of noise of a name.

    Raises:
        ConfigError: the name is unknown; names the nearest one.
    """
    return LABEL_KINDS.get(name) or require_kind(name)


def draw_labels(
    noise: Noise | LabelKind,
    labels: np.ndarray,
    new_generator: Callable[[], np.random.Generator],
    strength: float,
    *,
    classes: int,
    image: np.ndarray | None = None,
    spacing: Spacing = None,
) -> np.ndarray:
    """Draw the noisy labels of a case.

    Args:
        new_generator: makes the random numbers of the case, from their beginning.
        classes: 1, or the number of labels with the background.

    Raises:
        ValueError: the noise is not for such a mask, or a function makes no mask of it.
    """
    if isinstance(noise, LabelKind):
        return noise.draw(labels, new_generator(), strength, spacing)

    def draw(mask: np.ndarray) -> np.ndarray:
        more = (spacing,) if isinstance(noise, Kind) else ()
        noisy = np.asarray(noise(mask, new_generator(), strength, image, *more))
        if noisy.shape != mask.shape or not np.isin(noisy, (0, 1)).all():
            raise ValueError(f"the noise function made {noisy.dtype} {noisy.shape} of the mask {mask.shape} of 0 and 1")
        return noisy.astype(np.uint8)

    if classes <= 2:
        return draw(labels)
    present = [int(label) for label in np.unique(labels) if label]
    masks = [draw((labels == label).astype(np.uint8)).astype(bool) for label in present]
    noisy = np.zeros_like(labels)
    for label, mask in zip(present, masks, strict=True):
        noisy[mask] = label
    claimed = np.sum(masks, axis=0, dtype=np.uint8) > 1 if masks else np.zeros(labels.shape, bool)
    if claimed.any():
        depths = [signed_distance(mask, spacing)[claimed] for mask in masks]
        noisy[claimed] = np.array(present, np.uint8)[np.argmin(depths, axis=0)]
    return noisy
