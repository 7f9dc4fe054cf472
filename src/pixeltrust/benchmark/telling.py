"""What came out of a benchmark is told when it ends, and when it is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pixeltrust.errors import RunError
from pixeltrust.ranks import ALONE, Ranks


@contextmanager
def telling(out: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """At the end of the block, by Ctrl-C too, rank 0 makes tables, figures and page of what is there by now (see `report.tell`).

    Raises:
        RunError: as `report.tell`; after Ctrl-C nothing but that.
    """
    from pixeltrust.report import tell  # here, so that the processes of the cells need not load what draws

    try:
        yield
    except KeyboardInterrupt:
        if ranks.rank == 0:
            with suppress(RunError):
                tell(out)
        raise
    ranks.by_first(lambda: tell(out))
