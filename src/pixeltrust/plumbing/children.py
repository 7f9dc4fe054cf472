"""A process that another one starts, stops and does not outlive; both sides.

The parent holds the other end of the child's standard input, which closes with the parent however that ends.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

_POLL = 0.1  # seconds


def start_child(command: Sequence[str], *, log: BinaryIO, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a process whose output goes into a file. It has a session of its own, so that Ctrl-C reaches it once, from its parent.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment)


def wait_for_child(process: "subprocess.Popen[bytes]", stopping: threading.Event, *, grace: float) -> int:
    """Wait until the process ends by itself, or stop it as soon as the event is set: by SIGINT, after `grace` seconds by SIGKILL.

    Returns:
        its exit code; that of a signal is negative.
    """
    with process:
        while not stopping.is_set():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL)
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def end_with_parent(*, grace: float) -> None:
    """Have this process stop, as by Ctrl-C, when its standard input closes; end it `grace` seconds later whatever it does."""
    threading.Thread(target=_watch_parent, args=(grace,), daemon=True).start()


def _watch_parent(grace: float) -> None:
    with suppress(OSError):
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when the process ends
            pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(grace)
    os._exit(130)
