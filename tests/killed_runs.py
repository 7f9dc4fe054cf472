"""Trains in a child process that is killed (SIGKILL) at a given moment: `python killed_runs.py DATA OUT MOMENTS`, MOMENTS a JSON list.

A moment is {"name", "settings", "at"}, `at` one of
    ["update", n]          in the middle of update n
    ["half", file, n]      when half of the n-th writing of that file is on the disk
    ["before", file, n]    when all of it is, beside the old one
    ["after", file, n]     when it has taken the old one's place
        of steps.csv, which is appended to: when half of the n-th rows are at its end, or all of them
    ["seconds", s]         whenever
Every run goes on in a second child, killed at the same moment of its own.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from pixeltrust.training import run_writer as runs
from pixeltrust.training import train
from tiny import acting_at, configured

torch.set_num_threads(1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind, *details):
    """Make this process die at the moment."""
    if kind == "seconds":
        return
    if kind == "update":
        train.build_step = acting_at(details[0], die, train.build_step)
        return
    name, number = details
    counts = {"file": 0}
    real_write, real_append = runs.write_atomically, runs.append_text

    def watched_append(path, text):
        counts["file"] += path.name == name
        now = path.name == name and counts["file"] == number
        real_append(path, text[: len(text) // 2] if now and kind == "half" else text)
        if now:
            die()

    class Watched:
        """`write_atomically` that dies on the way."""

        def __init__(self, path):
            self.path, self.real = path, real_write(path)
            counts["file"] += path.name == name
            self.now = path.name == name and counts["file"] == number

        def __enter__(self):
            self.unfinished = self.real.__enter__()
            return self.unfinished

        def __exit__(self, *error):
            if self.now and kind == "half":
                os.truncate(self.unfinished, self.unfinished.stat().st_size // 2)
            if self.now and kind in ("half", "before"):
                die()
            result = self.real.__exit__(*error)
            if self.now:
                die()
            return result

    runs.write_atomically, runs.append_text = Watched, watched_append


def sitting(data, out, settings, at):
    """One child; its exit status."""
    child = os.fork()
    if child == 0:
        arm(*at)
        train.train(data, out=out, config=configured(**settings), resume=True, show_progress=False)
        os._exit(0)
    if at[0] == "seconds":
        time.sleep(at[1])
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main():
    data, out, moments = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    for moment in moments:
        deaths = 0
        while deaths < 2 and sitting(data, out / moment["name"], moment["settings"], moment["at"]):
            deaths += 1
        print(json.dumps({"name": moment["name"], "deaths": deaths}))


if __name__ == "__main__":
    main()
