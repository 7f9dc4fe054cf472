"""The three planes in which a volume is seen, as radiologists see them, whatever the axes of its file are.

axial     columns run to the patient's left, rows to the back
coronal   columns to the left, rows down
sagittal  columns to the back, rows down

Where a file does not say how it lies, the planes are those of its axes (D, H, W), rows and columns as they are in the file.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pixeltrust.data.volumes import Grid

_LEFT, _BACK, _UP = range(3)  # the world's axes, see `Grid`
_SEEN = (("axial", _UP, (_BACK, 1), (_LEFT, 1)), ("coronal", _BACK, (_UP, -1), (_LEFT, 1)), ("sagittal", _LEFT, (_UP, -1), (_BACK, 1)))
"""Each plane with what it is cut across, and where its rows and its columns run."""


@dataclass(frozen=True)
class Plane:
    """How one plane is cut out of a volume (D, H, W)."""

    name: str
    axis: int
    """The axis that counts its slices."""
    rows: int
    """The axis along its rows' order, downwards."""
    columns: int
    flip_rows: bool
    flip_columns: bool

    def cut(self, volume: np.ndarray, at: int) -> np.ndarray:
        """Return a slice as it is seen, a view."""
        part = volume[(slice(None),) * self.axis + (at,)]
        part = part if self.rows < self.columns else part.T
        return part[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def describe(self, grid: Grid) -> dict[str, object]:
        """Return what the page has to know of it."""
        unit = min(grid.spacing)
        return {
            "name": self.name,
            "axis": self.axis,
            "rows": {"axis": self.rows, "flip": self.flip_rows},
            "columns": {"axis": self.columns, "flip": self.flip_columns},
            "slices": grid.shape[self.axis],
            "height": grid.shape[self.rows],
            "width": grid.shape[self.columns],
            "stretch": [grid.spacing[self.columns] / unit, grid.spacing[self.rows] / unit],
        }


def planes_of(grid: Grid, *, states_orientation: bool = True) -> list[Plane]:
    """Return the axial, the coronal and the sagittal plane of a volume."""
    if not states_orientation:
        beside = ((1, 2), (0, 2), (0, 1))
        return [Plane(name, axis, *beside[axis], False, False) for axis, (name, *_) in enumerate(_SEEN)]
    along = grid.steps / np.array(grid.spacing)[:, None]  # (axis, world)
    axis_of = np.argsort(max(permutations(range(3)), key=lambda order: sum(abs(along[axis, order[axis]]) for axis in range(3))))
    runs = {world: np.sign(along[axis_of[world], world]) for world in range(3)}
    return [
        Plane(
            name, int(axis_of[across]), int(axis_of[down]), int(axis_of[right]), bool(runs[down] * to < 0), bool(runs[right] * to_right < 0)
        )
        for name, across, (down, to), (right, to_right) in _SEEN
    ]
