"""What commands say and leave when the disk is full, a quota is reached, permission is lost, or Ctrl-C is pressed in mid-work.

    python tests/reliability/disks.py --points 3 --out results/reliability

Every command meets every mishap, at random moments. It must end with one line on standard error and exit code 2, or after Ctrl-C with 130
and a line more, the command that goes on; and called again, once the disk is as it was, come to the same end, to the bit, as one that
nothing happened to. A full disk is a real one, of a few MiB, mounted for this: by root only, else it is left out, and that is said.
OUT/disks.json has the counts.
"""

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import torch

from kills import differences, environment, keep, recorded, succeeded
from mishaps import BALLAST, sitting, unlock

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from pixeltrust import cli
from pixeltrust.config import to_toml
from pixeltrust.demonstration.synthetic import write_source
from tiny import configured, draw

MISHAPS = {"full": 2, "limit": 2, "locked": 2, "ctrl-c": 130}
"""The exit code each ends with."""
DISK = "8m"


def commands(folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Return the words of every command that writes, by its name; `again` are the same."""
    data, few = draw(folder / "data", noisy=30), draw(folder / "few", noisy=6)
    write_source(folder / "source", cases=20, size=32, test_share=0.3, seed=0, show_progress=False)
    settings = folder / "settings.toml"
    settings.write_text(to_toml(configured(method="trust", checkpoint_minutes=0.0)))
    run = folder / "run"

    def train(out: Path) -> list[str]:
        return ["train", str(data), "--out", str(out), "--config", str(settings), "--resume", "--quiet"]

    sizes = ["model=tiny:network", "image_size=16", "batch_size=4", "clean_batch_size=3", "epochs=2", "device=cpu"]
    grid = ['methods=["plain"]', "seeds=[0]", "clean=[4]", *sizes]
    found = {
        "train": train,
        "predict": lambda out: ["predict", str(run), str(data / "images"), "--out", str(out), "--resume", "--quiet"],
        "audit": lambda out: ["audit", str(run), str(few), "--out", str(out), "--resume", "--quiet"],
        "simulate": lambda out: ["simulate", str(folder / "source"), str(out), "--clean", "4", "--quiet"],
        "convert": lambda out: ["convert", str(data / "noisy"), str(out), "--to", "fiftyone", "--quiet"],
        "benchmark": lambda out: ["benchmark", str(folder / "source"), "--out", str(out), "--quiet", *(f"--set={one}" for one in grid)],
    }
    succeeded(sitting(train(run)))
    return found


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Make the folder a disk of its own; give False if that is not possible."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def met(name: str, words: Callable[[Path], list[str]], mishap: str, folder: Path, points: int, chance: random.Random) -> dict:
    """Have a command meet a mishap so many times, each at another moment."""
    found: dict = {"mishaps": 0, "faults": []}
    with small_disk(folder) as has_disk:
        if mishap == "full" and not has_disk:
            return {**found, "left_out": "no disk could be mounted"}
        straight = folder / "straight"
        calls = len(sitting(words(straight)).names)
        for number in range(points):
            place = folder / str(number)
            place.mkdir()
            out = place / "out"
            end = sitting(words(out), mishap, chance.randint(1, max(1, calls - 2)), folder if mishap == "full" else place)
            if end.status == 0:  # nothing was written after it
                continue
            found["mishaps"] += 1
            lines = 2 if mishap == "ctrl-c" else 1  # the second is the command that goes on
            if end.status != MISHAPS[mishap] or len(end.said.splitlines()) != lines:
                found["faults"].append(f"{name}, {mishap}: ended with {end.status} and said {end.said!r}")
            (folder / BALLAST).unlink(missing_ok=True)
            unlock(place)
            again = sitting(words(out))
            if again.status != 0 and "finished already" not in again.said:
                found["faults"].append(f"{name}, {mishap}: again ended with {again.status} and said {again.said!r}")
            found["faults"] += [f"{name}, {mishap}: {file} differs" for file in differences(straight, out)]
    return found


def warm(words: list[str]) -> None:
    """Run a command in this process: its children, whom nothing may be readable to, have then imported all."""
    sys.argv = ["pixeltrust", *words]
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        cli.main()


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3, help="moments of every command and mishap")
    parser.add_argument("--only", nargs="+", help="commands")
    parser.add_argument("--mishaps", nargs="+", choices=MISHAPS, default=list(MISHAPS))
    parser.add_argument("--out", type=Path, help="a folder for disks.json; what --only leaves out stays there as it was")
    asked = parser.parse_args(words)
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    torch.set_num_threads(1)
    chance, record = random.Random(3), recorded(asked.out, "disks.json") if asked.only else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for nobody
        for command, line in commands(folder).items():
            if asked.only and command not in asked.only:
                continue
            warm(line(folder / f"{command}-first"))
            record[command] = {}
            for mishap in asked.mishaps:
                if (command, mishap) != ("benchmark", "locked"):  # nobody may have no Python to start its cells with
                    record[command][mishap] = met(command, line, mishap, folder / f"{command}-{mishap}", asked.points, chance)
                    keep(record, asked.out, "disks.json")
                    print(command, mishap, record[command][mishap], flush=True)
    if any(found["faults"] for mishaps in record.values() for found in mishaps.values()):
        sys.exit("something was not as it must be")


if __name__ == "__main__":
    main()
