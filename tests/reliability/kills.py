"""Kill work (SIGKILL) at random moments and resume it: is the result, to the bit, what it would have been?

    python tests/reliability/kills.py --points 24 --out results/reliability

train     the trust method, with a checkpoint after every update; predict and audit too: processes that die by the clock, when a file
          or folder comes to the disk, or with half of a file written, and are killed once more when they are resumed
grid      a benchmark's process and all those of its cells
review    the server, in a stream of decisions of several people: every one that was answered must be there, whole, and none half

OUT/kills.json has how many kills each has survived, and how many of those of training fell into the writing of a checkpoint.
"""

import argparse
import io
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mishaps import Sitting, sitting

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from audits import audit_of, discs, shifted_back
from pixeltrust import auditing, cli  # noqa: F401  (before any fork)
from pixeltrust.auditing.folder import Audit
from pixeltrust.config import to_toml
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.prediction import predict  # noqa: F401  (before any fork)
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.masks import digest
from pixeltrust.training import train  # noqa: F401  (before any fork)
from pixeltrust.training.run_folder import Run
from review_speed import Client, ended, started
from tiny import configured, draw

CHECKPOINT = ".checkpoint.pt.unfinished"
PEOPLE = 4
TIMES = {"seconds", "cpu_seconds", "command"}
OF_THE_MACHINE = {"environment.json", "report.html", "log.txt", ".lock", "tables.md", "summary.csv"}
"""Files that tell of times, too, or of machines."""


# --- is it the same? ------------------------------------------------------------------------------------------------


def differences(one: Path, other: Path) -> list[str]:
    """Return the files that differ between two folders, apart from times."""
    files = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    files = {file for file in files if file.name not in OF_THE_MACHINE and file.suffix != ".unfinished" and file.parts[0] != "figures"}
    return sorted(str(file) for file in files if not same(file, one, other))


def same(file: Path, *folders: Path) -> bool:
    """Return whether a file has the same content in two folders, apart from times and the folder's own name."""
    if not all((folder / file).is_file() for folder in folders):
        return False
    if file.suffix == ".pt":
        return equal(*(Run((folder / file).parent).read_state(file.name) for folder in folders))
    if file.suffix == ".npz":
        with np.load(folders[0] / file) as a, np.load(folders[1] / file) as b:
            return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)
    held = [(folder / file).read_bytes().replace(os.fsencode(folder), b".") for folder in folders]
    if file.suffix == ".md":  # a card names its folder
        names = [os.fsencode(folder.name) for folder in folders]
        held = [text.replace(b"# " + name, b"#").replace(b'"' + name + b'"', b"") for text, name in zip(held, names, strict=True)]
    if file.suffix == ".json":
        return equal(*map(json.loads, held))
    if file.suffix == ".csv":
        tables = [pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False) for content in held]
        return tables[0].filter(regex="^(?!.*seconds)").equals(tables[1].filter(regex="^(?!.*seconds)"))
    return held[0] == held[1]


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        kept = [name for name in one if not (isinstance(name, str) and (name in TIMES or name.startswith("seconds")))]
        return one.keys() == other.keys() and all(name == "notes" or equal(one[name], other[name]) for name in kept)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


# --- one process ----------------------------------------------------------------------------------------------------


def killed_process(name: str, words: Callable[[Path], list[str]], folder: Path, points: int, chance: random.Random) -> dict:
    """Kill a command until so many kills were survived; each piece of work is killed up to twice."""
    folder.mkdir()
    straight = folder / "straight"
    succeeded(sitting(words(straight)))
    began = time.perf_counter()
    names = sitting(words(folder / "counted")).names
    seconds = time.perf_counter() - began
    found: dict = {"kills": 0, "works": 0, "in_a_checkpoint": 0, "differ": []}
    while found["kills"] < points:
        out = folder / str(found["works"])
        for _ in range(2):
            what, when = moment(names, seconds, chance)
            end = sitting(words(out), what, when)
            if end.status == 0:  # it was quicker
                break
            assert end.status == -signal.SIGKILL, end.said
            found["kills"] += 1
            found["in_a_checkpoint"] += (out / CHECKPOINT).exists()
        if not (name == "audit" and (out / "audit.json").is_file()):  # which refuses to be made twice
            succeeded(sitting(words(out)))
        found["works"] += 1
        found["differ"] += [f"{out.name}/{file}" for file in differences(straight, out)]
    return found


def moment(names: tuple[str, ...], seconds: float, chance: random.Random) -> tuple[str, float]:
    """To kill at: by the clock, at anything that comes to the disk, or at a checkpoint, of which there are few among it."""
    if chance.random() < 1 / 3:
        return "seconds", chance.uniform(0.05, seconds)
    checkpoints = [place for place, name in enumerate(names, 1) if name == CHECKPOINT]
    often = checkpoints if checkpoints and chance.random() < 1 / 2 else range(1, len(names) + 1)
    return chance.choice(["kill", "half"]), chance.choice(often)


def succeeded(end: Sitting) -> None:
    assert end.status == 0, end.said


# --- a grid ---------------------------------------------------------------------------------------------------------


def killed_grid(folder: Path, points: int, chance: random.Random) -> dict:
    """Kill a benchmark with all its cells, again and again, until it is done; then the next."""
    folder.mkdir()
    source = folder / "source"
    write_source(source, cases=20, size=32, test_share=0.3, seed=0, show_progress=False)
    sizes = {"model": "tiny:network", "image_size": 16, "batch_size": 4, "clean_batch_size": 3, "epochs": 30, "device": "cpu"}
    axes = ["--set=seeds=[0, 1]", '--set=methods=["plain", "trust"]', "--set=clean=[4]"]
    words = [*axes, *(f"--set={name}={value}" for name, value in sizes.items())]

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "pixeltrust.cli", "benchmark", str(source), "--out", str(out), "--jobs=2", "--quiet", *words]
        return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def to_its_end(out: Path) -> None:
        process = start(out)
        _, error = process.communicate()
        assert process.returncode == 0, error

    straight = folder / "straight"
    to_its_end(straight)
    found = {"kills": 0, "works": 0, "differ": []}
    while found["kills"] < points:
        out = folder / str(found["works"])
        for _ in range(8):
            process, end = start(out), time.monotonic() + 60
            before = progress(out)
            while process.poll() is None and progress(out) == before and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 2.5))
            if process.poll() is not None:
                break
            for pid in (process.pid, *descendants(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
            found["kills"] += 1
        to_its_end(out)
        found["works"] += 1
        found["differ"] += [f"{out.name}/{file}" for file in differences(straight, out)]
    return found


def progress(out: Path) -> list:
    """Changes whenever a cell goes on."""
    found = []
    for path in out.glob("cells/*/run/*"):
        with suppress(OSError):
            found.append((str(path), path.stat().st_mtime_ns))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


# --- a review -------------------------------------------------------------------------------------------------------


def killed_review(folder: Path, points: int, chance: random.Random) -> dict:
    """Kill the server in a stream of decisions; what it has answered must be there."""
    folder.mkdir()
    ids = [f"c{number:02}" for number in range(4 * PEOPLE)]
    made = audit_of(discs(folder / "data", ids=ids), folder / "audit", shifted_back)
    found: dict = {"kills": 0, "answered": 0, "unanswered_but_kept": 0, "differ": []}
    while found["kills"] < points:
        process, address, _ = started(made)
        before = {identity: numbers_of(made, identity) for identity in ids}
        answered: list[tuple[str, int, str]] = []
        people = [threading.Thread(target=deciding, args=(address, ids[place::PEOPLE], before, answered)) for place in range(PEOPLE)]
        for person in people:
            person.start()
        time.sleep(chance.uniform(0.1, 1.5))
        process.kill()
        process.communicate()
        for person in people:
            person.join()
        found["kills"] += 1
        found["answered"] += len(answered)
        kept, faults = kept_decisions(made)
        known = {number for numbers in before.values() for number in numbers}
        found["unanswered_but_kept"] += len(kept.keys() - known - {number for _, number, _ in answered})
        found["differ"] += faults
        found["differ"] += [
            f"decision {number} of {identity}" for identity, number, mask in answered if kept.get(number) != (identity, mask)
        ]
    process, _, _ = started(made)
    ended(process)
    return found


def deciding(address: str, ids: list[str], before: dict[str, list[int]], answered: list[tuple[str, int, str]]) -> None:
    """Paint mask after mask, until the server is gone."""
    seen = {identity: max(before[identity], default=0) for identity in ids}
    with closing(Client(address)) as client, suppress(OSError, HTTPException):
        for number in range(10**9):
            identity = ids[number % len(ids)]
            mask = np.random.default_rng([number, *map(ord, identity), seen[identity]]).integers(0, 2, (48, 64)).astype(np.uint8)
            runs = (mask.ravel().astype("<u4") | 1 << 8).tobytes()
            client.seconds(f"/decide?id={identity}&what=mended&who=ann&seen={seen[identity]}", body=runs)
            seen[identity] = json.loads(client.content)["number"]
            answered.append((identity, seen[identity], digest(mask)))


def numbers_of(made: Path, identity: str) -> list[int]:
    store = Decisions(Audit.read(made))
    try:
        return [decision.number for decision in store.history(identity)]
    finally:
        store.close()


def kept_decisions(made: Path) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """Return every decision by its number, with its case and the hash of its mask; and what is incomplete."""
    with closing(sqlite3.connect(made / "review.sqlite")) as connection:
        faults = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        faults += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
        rows = connection.execute("SELECT number, case_id, after FROM decisions").fetchall()
        last = dict(connection.execute("SELECT case_id, what FROM decisions ORDER BY number"))
        shown = dict(connection.execute("SELECT id, decision FROM cases WHERE decision <> 'undecided'"))
    store = Decisions(Audit.read(made))
    faults += [f"mask of decision {number}" for number, _, mask in rows if digest(store.mask(mask)) != mask]
    store.close()
    faults += [] if shown == last else ["the queue says another thing than the decisions"]
    return {number: (identity, mask) for number, identity, mask in rows}, faults


# --- all of it ------------------------------------------------------------------------------------------------------


def all_kills(folder: Path, points: int, only: list[str] | None = None) -> Iterator[tuple[str, dict]]:
    """Return the result of each kind of work, by its name."""
    chance = random.Random(7)
    torch.set_num_threads(1)
    data, few = draw(folder / "data", noisy=30), draw(folder / "few", noisy=6)  # the page of an audit takes its time
    settings = folder / "settings.toml"
    settings.write_text(to_toml(configured(method="trust", epochs=4, checkpoint_minutes=0.0)))
    run = folder / "run"

    def training(out: Path) -> list[str]:
        return ["train", str(data), "--out", str(out), "--config", str(settings), "--resume", "--quiet"]

    works: dict[str, Callable[[str], dict]] = {
        name: lambda name, words=words: killed_process(name, words, folder / name, points, chance)
        for name, words in {
            "train": training,
            "predict": lambda out: ["predict", str(run), str(data / "images"), "--out", str(out), "--resume", "--quiet", "--probabilities"],
            "audit": lambda out: ["audit", str(run), str(few), "--out", str(out), "--resume", "--quiet"],
        }.items()
    }
    works["grid"] = lambda name: killed_grid(folder / name, points, chance)
    works["review"] = lambda name: killed_review(folder / name, points, chance)
    succeeded(sitting(training(run)))
    for name, work in works.items():
        if only is None or name in only:
            began = time.monotonic()
            found = work(name)
            yield name, {**found, "seconds": round(time.monotonic() - began, 1)}


def recorded(out: Path | None, name: str) -> dict:
    """Return what an earlier call has kept."""
    return json.loads((out / name).read_text()) if out and (out / name).is_file() else {}


def keep(record: dict, out: Path | None, name: str) -> None:
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(record, indent=2) + "\n")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=24, help="kills that each kind of work is to survive")
    parser.add_argument("--only", nargs="+", help="of train, predict, audit, grid, review")
    parser.add_argument("--out", type=Path, help="a folder for kills.json; what --only leaves out stays there as it was")
    asked = parser.parse_args(words)
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    record = recorded(asked.out, "kills.json") if asked.only else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, found in all_kills(Path(folder), asked.points, asked.only):
            record[name] = found
            keep(record, asked.out, "kills.json")
            print(re.sub(r"[{}']", "", f"{name}: {found}"), flush=True)
    if any(found["differ"] for found in record.values()):
        sys.exit("what was killed did not come to the same end")


if __name__ == "__main__":
    main()
