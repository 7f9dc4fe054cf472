"""Tests wait for what happens in other threads and processes, never for a time."""

import time

TOO_LONG = 900
"""Seconds after which a test gives up on what hangs: far more than anything here takes on a busy machine."""


def wait_for(condition, process=None, *, sleep=time.sleep):
    """Until the condition holds, or the process has ended."""
    end, pause = time.monotonic() + TOO_LONG, 0.005
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end, f"waited {TOO_LONG} s in vain"
        sleep(pause)
        pause = min(0.1, 1.2 * pause)  # to ask takes processor time, too
