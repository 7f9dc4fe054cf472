"""Split cases into folds for cross-validation."""

from collections.abc import Iterable, Sequence

import numpy as np

from pixeltrust.plumbing.seeds import generator


def assign_folds(groups: Sequence[str], seed: int, folds: int) -> np.ndarray:
    """Return the fold (0 … folds − 1) of every case; groups stay together, the folds are as equal in size as that allows."""
    names, numbers, sizes = np.unique(np.asarray(groups, str), return_inverse=True, return_counts=True)
    order = generator(seed, "folds").permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first, each into the fold that has the fewest
    assigned, filled = np.zeros(len(names), int), np.zeros(folds, int)
    for name in order:
        assigned[name] = filled.argmin()
        filled[assigned[name]] += sizes[name]
    return assigned[numbers]


def name_groups(ids: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Return the group of every case, or a name of its own for one without: no text in a table begins with a space."""
    return [group or f" {identity}" for identity, group in zip(ids, groups, strict=True)]
