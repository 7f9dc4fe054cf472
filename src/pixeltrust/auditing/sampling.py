"""The order in which cases are looked at before anything is known of them: every beginning of it is a random sample, spread over all."""

import numpy as np

from pixeltrust.plumbing.seeds import generator

_MOST_DIRECTIONS = 12
_EIGEN_ROWS = 4096  # so many rows show the directions in which all differ


def order_sample(features: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the rows of a table in an order of which every beginning is a random sample that is spread over all rows.

    The rows are halved at the median of the direction in which they differ most, both halves are halved again, and so on. The order
    takes from the two halves in turn, at every halving, beginning with a random one. So its first 2, 4, 8 … rows are a stratified random
    sample: one each from as many parts of equal size. Every row is first with the same probability, and among the first N with that of a
    random sample or nearly so: what is measured on them holds for all, with less chance in it than in N rows drawn blindly.

    Args:
        features: float (N, D); rows that are alike have values that are near. All columns count in their own unit.
        seed: 0 or more.

    Returns:
        int (N,): the places of the rows.

    Example:
        first_ten = order_sample(features, seed=0)[:10]
    """
    return _order(np.arange(len(features)), _main_directions(features), generator(seed, "sample"))


def _order(rows: np.ndarray, values: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    if len(rows) < 3:
        return draws.permutation(rows)
    widest = values[rows].var(axis=0).argmax()
    ascending = rows[np.lexsort((draws.random(len(rows)), values[rows, widest]))]  # rows that are equal fall to either side
    middle = (len(rows) + draws.integers(2)) // 2
    one, other = (_order(half, values, draws) for half in (ascending[:middle], ascending[middle:]))
    if draws.integers(len(rows)) >= middle:
        one, other = other, one
    shorter = min(len(one), len(other))
    in_turn = np.stack([one[:shorter], other[:shorter]], axis=1).ravel()
    return np.concatenate([in_turn, one[shorter:], other[shorter:]])


def _main_directions(features: np.ndarray) -> np.ndarray:
    """Return the rows (N, d) along their principal directions."""
    if not features.size:
        return np.zeros((len(features), 1))
    centred = features - features.mean(axis=0)
    some = centred[:: max(1, len(centred) // _EIGEN_ROWS)]
    _, directions = np.linalg.eigh(some.T @ some)
    return centred @ directions[:, ::-1][:, :_MOST_DIRECTIONS]
