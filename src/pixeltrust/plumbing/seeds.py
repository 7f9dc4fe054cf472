"""Randomness by name: one stream per use, so that a change to one use moves no other."""

from zlib import crc32

import numpy as np


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """The generator of a use, e.g. `generator(0, "augment", "noisy", 17)`; the same on every machine.

    Args:
        seed: 0 or more.
        name: texts and whole numbers ≥ 0 that name the use. NumPy cannot tell names apart that differ in a 0 at the end alone.
    """
    return np.random.default_rng([seed, *(crc32(part.encode()) if isinstance(part, str) else part for part in name)])
