"""A command to which something happens on the way, in a child of this process.

What is written comes to the disk by os.fsync, a file and then its folder; at a certain call of that

    kill      the process dies (SIGKILL)
    half      so it does, with half of the file written, or half of what is added to its end
    ctrl-c    it gets SIGINT
    full      the disk of a place, a small one of its own, has no room any more
    limit     no file of more than a few bytes can be written any more, as by a quota
    locked    nothing can be written in a place any more; whoever was root is nobody from the start, whom permissions bind
    nothing   nothing

and `seconds` kills it by the clock.
"""

import fcntl
import os
import resource
import signal
import stat
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from pixeltrust import cli

BALLAST = "ballast"
LIMIT = 64
NOBODY = 65534


def arm(what: str, number: int, place: Path) -> list[str]:
    """Make it happen in this process; the names of what comes to the disk, in their order, grow with every call."""
    if what == "locked" and os.geteuid() == 0:
        become_nobody(place)
    happen = {"kill": kill, "half": kill, "ctrl-c": ctrl_c, "full": lambda: fill(place), "limit": limit, "locked": lambda: lock(place)}
    real = os.fsync
    names: list[str] = []
    synced: dict[Path, int] = {}

    def fsync(descriptor: int) -> None:
        path, status = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor)
        names.append(path.name)
        if len(names) == number and what in happen:
            if what == "half" and stat.S_ISREG(status.st_mode):
                appended = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
                os.truncate(path, (status.st_size + (synced.get(path, 0) if appended else 0)) // 2)
            happen[what]()
        real(descriptor)
        synced[path] = status.st_size

    os.fsync = fsync
    return names


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fill(place: Path) -> None:
    """Take all room there is left on the disk."""
    with (place / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def become_nobody(place: Path) -> None:
    for folder in (place, *(path for path in place.rglob("*"))):
        os.chown(folder, NOBODY, NOBODY)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def lock(place: Path) -> None:
    for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
        folder.chmod(0o500)


def unlock(place: Path) -> None:
    place.chmod(0o700)
    for path in sorted(place.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)


@dataclass(frozen=True)
class Sitting:
    """What came of a command."""

    status: int
    """Its exit status, −9 where it was killed."""
    said: str
    """On standard output and error."""
    names: tuple[str, ...]
    """Of what it brought to the disk, call by call, where it ended by itself."""


def sitting(words: list[str], what: str = "nothing", when: float = 0, place: Path | None = None) -> Sitting:
    """Run a command in a child, where it happens at call `when` (of `seconds`: after so many)."""
    (reading, writing), (hearing, saying) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        for stream in (1, 2):  # a pipe, which no mishap of the disk touches
            os.dup2(saying, stream)
        names = arm(what, int(when), place or Path())
        sys.argv = ["pixeltrust", *words]
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os.write(writing, "/".join(names).encode())
            os._exit(code)
    os.close(writing)
    os.close(saying)
    if what == "seconds":
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(hearing) as told, os.fdopen(reading) as counted:
        said, names = told.read(), counted.read()
    return Sitting(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said, tuple(names.split("/")) if names else ())
