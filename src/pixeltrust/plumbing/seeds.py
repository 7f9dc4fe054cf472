"""Named random streams: one per use, so that a change to one use does not change another."""

from zlib import crc32

import numpy as np


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """Return the random generator of a use; it is the same on every machine.

    Args:
        seed: 0 or more.
        name: texts and whole numbers ≥ 0 that name the use. Names that differ only in a 0 at the end give the same stream.

    Example:
        generator(0, "augment", "noisy", 17)
    """
    return np.random.default_rng([seed, *(crc32(part.encode()) if isinstance(part, str) else part for part in name)])
