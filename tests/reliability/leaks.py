"""Whether long work keeps what it should let go: resident memory and open files over many training steps and many requests of a review.

    python tests/reliability/leaks.py --steps 5000 --requests 2000 --out results/reliability

Training is of the trust method and a network of a few hundred parameters, so that what is kept from step to step shows; the rows of
history.csv, a few kB of memory for every 25 steps, are meant to be kept. The review is a process of its own, and its requests are of every
kind: pages, pictures, planes, decisions, undoing, and some that are refused. Both are looked at in even steps: memory as the system counts
it (VmRSS), in training after a collection of garbage. OUT/leaks.json has all samples; growth is from a fifth of the way on, when caches are
full.
"""

import argparse
import gc
import json
import os
import re
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from pixeltrust.training.train import train
from review_speed import Client, ended, made_up, started
from tiny import configured, draw

SAMPLES = 50
EPOCH = 25  # steps
CASES = 60
SIZE = 64


def looked_at(process: int | str = "self") -> dict[str, float]:
    """Resident memory in MiB, open files and threads of a process."""
    folder = Path(f"/proc/{process}")
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    files = len(os.listdir(folder / "fd"))  # noqa: PTH208
    return {"mib": int(lines["VmRSS"].split()[0]) / 1024, "files": files, "threads": int(lines["Threads"])}


def of_training(folder: Path, steps: int) -> list[dict[str, float]]:
    """Samples over so many steps."""
    samples: list[dict[str, float]] = []
    every = max(1, steps // SAMPLES)

    def watch(feed, _) -> dict[str, float]:
        if feed.update % every == 0:
            gc.collect()
            samples.append({"step": feed.update, **looked_at()})
        return {}

    data = draw(folder / "data", noisy=100, clean=30)
    config = configured(method="trust", epochs=-(-steps // EPOCH), weight_map_cases=0)
    train(data, out=folder / "run", config=config, watch=watch, show_progress=False)
    return samples


def of_a_review(folder: Path, requests: int) -> list[dict[str, float]]:
    """Samples over so many requests."""
    samples = []
    every = max(1, requests // SAMPLES)
    audit = made_up(folder / "review", CASES, SIZE)
    process, address, _ = started(audit)
    try:
        with closing(Client(address)) as client:
            for number in range(requests):
                if number % every == 0:
                    samples.append({"request": number, **looked_at(process.pid)})
                ask(client, number)
    finally:
        ended(process)
    return samples


def ask(client: Client, number: int) -> None:
    """Make one of the kinds of request; a decision is undone by the next but one."""
    identity = f"case-{number // 16 % CASES:05}"
    half = np.array([(SIZE * SIZE // 3) << 8 | 1, (SIZE * SIZE - SIZE * SIZE // 3) << 8], "<u4").tobytes()
    query = {"id": identity, "who": "bench"}
    kind = number % 16
    if kind in (12, 13):  # by whoever has seen all there is
        client.seconds(f"/case?id={identity}")
        seen = json.loads(re.search("data-info='([^']*)'", client.content.decode())[1])["seen"]
        if kind == 12:
            client.seconds("/decide?" + urlencode(query | {"what": "mended", "seen": seen}), body=half)
        else:
            client.seconds("/undo?" + urlencode(query | {"seen": seen}), body=b"")
        return
    pages = {
        0: "/",
        1: "/?show=all&page=2",
        2: f"/?show=all&find={identity[-3:]}",
        3: f"/case?id={identity}",
        4: f"/image?id={identity}",
        5: f"/thumbnail?id={identity}",
        6: f"/plane/given?id={identity}",
        7: f"/plane/proposed?id={identity}",
        8: f"/plane/confidence?id={identity}",
        9: "/static/case.js",
        10: f"/case?id={identity}&kind=missing",
        11: "/?kind=missing",
    }
    if kind in pages:
        client.seconds(pages[kind])
    elif kind == 14:
        client.seconds("/case?id=nobody", status=404)
    else:
        client.seconds("/decide?" + urlencode(query | {"what": "mended", "seen": 0}), body=b"123", status=400)


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return the growth from a fifth of the way to the end; of memory by a straight line through the samples."""
    kept = samples[len(samples) // 5 :]
    mib = [sample["mib"] for sample in kept]
    slope = float(np.polyfit(np.arange(len(mib)), mib, 1)[0]) * (len(mib) - 1)
    early, late = (max(sample["files"] for sample in half) for half in (kept[: len(kept) // 2], kept[len(kept) // 2 :]))
    return {
        "mib_at_first": round(mib[0], 1),
        "mib_grown": round(slope, 2),
        "files_at_first": kept[0]["files"],
        "files_grown": late - early,
        "threads_grown": kept[-1]["threads"] - kept[0]["threads"],
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="a folder for leaks.json")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        review = of_a_review(Path(folder), asked.requests)
        training = of_training(Path(folder), asked.steps)
    record = {
        "steps": -(-asked.steps // EPOCH) * EPOCH,
        "requests": asked.requests,
        "training": growth(training),
        "review": growth(review),
        "samples": {"training": training, "review": review},
    }
    for name in ("training", "review"):
        print(name, json.dumps(record[name]))
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "leaks.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
