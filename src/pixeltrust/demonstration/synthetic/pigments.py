"""What absorbs light in the skin and on it."""

import numpy as np

# Absorption of red, green and blue at density 1.
MELANIN = np.array((0.52, 1.0, 1.42), dtype=np.float32)
BLOOD = np.array((0.12, 1.0, 0.82), dtype=np.float32)
DEEP_MELANIN = np.array((1.15, 0.9, 0.62), dtype=np.float32)  # seen through the dermis it looks blue-grey
INK = np.array((0.9, 1.7, 0.25), dtype=np.float32)


def absorb(*pigments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the absorption (size, size, 3) of pigments, each its density (size, size) and its absorption (3,)."""
    densities = np.stack([density for density, _ in pigments], axis=-1).astype(np.float32)
    return densities @ np.stack([colour for _, colour in pigments])
