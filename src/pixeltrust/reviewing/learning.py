"""Learning from a review: accepted and mended masks are pairs, and `pixeltrust mend --again` learns from them while people go on.

AUDIT/.mending/  status.json (the process's own words on how far it is)  log.txt (what it printed)
                 lock, review.lock (held by the process, and by the server that has started it: there is one at a time)
"""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixeltrust.auditing.folder import Audit
from pixeltrust.data.cases import read_cases
from pixeltrust.plumbing.children import start_child, wait_for_child
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder

GRACE = 20.0  # seconds that the process has for its end once it is stopped
_STARTING = ("starting", 0.0)
_LOG_BYTES = 4000  # of its end that are shown

State = Literal["idle", "running", "elsewhere", "done", "stopped", "failed"]


def mend_again(audit: Path) -> Sequence[str]:
    """Return the command that learns from the decisions of a review and ranks its cases anew."""
    return [sys.executable, "-m", "pixeltrust.reviewing", "mend", "--again", str(audit), "--quiet"]


def count_pairs(audit: Audit) -> int:
    """Return how many pairs the data of an audit have by themselves; 0 where they cannot be read any more."""
    try:
        return len(read_cases(audit.data, needed=(), may_be_volumes=True, show_progress=False).pairs)
    except PixeltrustError:
        return 0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far learning is, or how it ended."""

    state: State
    stage: str = ""
    share: float = 0.0
    log: str = ""
    """What the process said last, where it has failed."""


class Learning:
    """The process that learns from the decisions of an audit. It ends with this one.

    Args:
        audit: the folder.
        command: returns the words of the process for a folder.
    """

    def __init__(self, audit: Path, command: Callable[[Path], Sequence[str]] = mend_again) -> None:
        self.folder = audit / ".mending"
        self._words = command(audit)
        self._lock = self.folder / "review.lock"  # held from the press of a button on, where `lock` is when the process has loaded
        self._busy = f"{audit}: another review is learning already; wait for its end"
        self._starting, self._stopping = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ended: State = "idle"
        self._fault, self._status = "", _STARTING

    def start(self) -> None:
        """Start the process.

        Raises:
            RunError: one runs already, here or elsewhere.
        """
        with self._starting:
            if self._is_alive():
                raise RunError(self._busy.replace("another review", "this review"))
            make_folder(self.folder)
            held = ExitStack()
            held.enter_context(exclusive_lock(self._lock, self._busy))
            (self.folder / "status.json").unlink(missing_ok=True)
            self._stopping.clear()
            self._status = _STARTING
            self._thread = threading.Thread(target=self._run, args=(held,), name="learning")
            self._thread.start()

    def stop(self) -> None:
        """Stop the process that this one has started, if there is one."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the process, and wait for its end."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def progress(self) -> Progress:
        """Return how far it is."""
        state = "running" if self._is_alive() else "elsewhere" if self._is_mended_elsewhere() else self._ended
        if state in ("running", "elsewhere"):
            stage, share = self._status = _read_status(self.folder / "status.json") or self._status
            return Progress(state=state, stage="stopping" if self._stopping.is_set() and state == "running" else stage, share=share)
        return Progress(state=state, log=self._end_of_log() if state == "failed" else "")

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _is_mended_elsewhere(self) -> bool:
        return any(map(_is_held, (self._lock, self.folder / "lock")))

    def _run(self, held: ExitStack) -> None:
        self._fault, code = "", 1
        with held:
            try:
                with (self.folder / "log.txt").open("wb") as log:
                    code = wait_for_child(start_child(self._words, log=log), self._stopping, grace=GRACE)
            except OSError as error:
                self._fault = str(error)
        self._ended = "done" if code == 0 else "stopped" if self._stopping.is_set() else "failed"

    def _end_of_log(self) -> str:
        try:
            log = (self.folder / "log.txt").read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
        except OSError as error:
            log = str(error)
        return self._fault or log or "It said nothing."


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with exclusive_lock(lock, ""):
            return False
    except RunError:
        return True


def _read_status(file: Path) -> tuple[str, float] | None:
    """Return the stage and the share of the work, 0 to 1; None where nothing readable is there: not yet, or not any more."""
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
        return str(status["stage"]), min(max(float(status["share"]), 0.0), 1.0)
    except (OSError, ValueError, TypeError, KeyError):
        return None
