"""Labels of pixels, in a module of their own, so that they are known without torch."""

import numpy as np

IGNORE = 255
"""The label of ignored pixels in every tensor of masks. `data.masks` decides which value of a mask file becomes 255."""


def is_foreground(labels: np.ndarray) -> np.ndarray:
    """Return where labels, of any shape, are of a class, and neither background nor ignored."""
    return (labels > 0) & (labels != IGNORE)


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Return the labels uint8 (*S) of probabilities (K, *S): the first of the largest; of one plane, 1 where it is above ½."""
    if len(probabilities) <= 2:  # by comparison: argmax takes fifty times as long
        return (probabilities[-1] > (0.5 if len(probabilities) == 1 else probabilities[0])).astype(np.uint8)
    return probabilities.argmax(0).astype(np.uint8)


def probability_of(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of every pixel's own label, float32 (*S); 1 of ignored pixels.

    Args:
        labels: uint8 (*S), below K, or 255.
        probabilities: float32 (K, *S), K ≥ 2.
    """
    own = np.ones(labels.shape, np.float32)
    for label, plane in enumerate(probabilities):
        np.copyto(own, plane, where=labels == label)
    return own
