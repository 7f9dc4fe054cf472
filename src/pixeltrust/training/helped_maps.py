"""What a run has learned of every noisy mask, a picture each: RUN/trust/<id>.png, for the audit and for people.

The value of a pixel is the share of visits in which it helped (`TrustStore.helped`), 0 to 255 for 0 to 1, on the grid of training. The
file also says which mask it is of, so that one that was changed since is not judged by what was learned of another.
"""

import hashlib

import numpy as np

from pixeltrust.data.batches import Streams
from pixeltrust.data.images import read_png, write_png
from pixeltrust.method.trust import TrustStore
from pixeltrust.plumbing.files import make_folder, naming_write_errors
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.training.run_folder import Run

FOLDER = "trust"
FULL = 255  # a share of 1 in the file
_OF_MASK = "mask"  # the PNG text that holds a fingerprint of the labels


def write_helped_maps(run: Run, streams: Streams, store: TrustStore, *, show_progress: bool) -> None:
    """Write the trust map of every noisy case.

    Raises:
        RunError: one cannot be written.
    """
    folder, cases = run.folder / FOLDER, streams.pixels.cases

    def write(place: int) -> None:
        case, index = np.array([place]), streams.noisy[[place]]
        shares = store.helped(case)[0].cpu().numpy()
        labels = streams.pixels.batch(index).masks[0].numpy()
        name = f"{cases[int(index[0])].id}.png"
        write_png(folder / name, (shares * FULL).round().astype(np.uint8), text={_OF_MASK: fingerprint(labels)})

    with naming_write_errors(run.folder):
        make_folder(folder)
        for _, fault in attempt_in_threads(write, range(len(streams.noisy)), text="writing trust maps", shown=show_progress):
            if fault is not None:
                raise fault


def read_helped_map(run: Run, case: str, labels: np.ndarray) -> np.ndarray | None:
    """The shares float32 (h, w), 0 … 1, that the run learned of this case's mask, `labels` uint8 (h, w) on the grid of training.

    None where it has learned nothing of it: another case, or another mask of it.

    Raises:
        DataError: the file is broken.
    """
    path = run.folder / FOLDER / f"{case}.png"
    if not path.is_file():
        return None
    shares, text = read_png(path)
    return shares.astype(np.float32) / FULL if text.get(_OF_MASK) == fingerprint(labels) and shares.shape == labels.shape else None


def has_helped_maps(run: Run) -> bool:
    """Whether the run's method has gains, so that it learned what to trust."""
    return (run.folder / FOLDER).is_dir()


def fingerprint(labels: np.ndarray) -> str:
    """Of a mask on the grid of training."""
    return hashlib.sha256(np.ascontiguousarray(labels, np.uint8).tobytes()).hexdigest()[:16]
