"""How a review bears many people at once: is every decision kept, and how long do answers take?

    python tests/reliability/load.py --people 50 --seconds 60 --out results/reliability

Each person is a connection of its own on this machine that goes through cases as the page does: the case, its image, its planes, a decision
(half of them painted), the next one; with a pause for thought between looking and deciding, and then all of them without any, which is as
fast as the server can. The people share the machine with it.
OUT/load.json has the latencies by kind of request, how many decisions were answered and how many of those were kept, and how busy the
machine was before.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from review_speed import Client, ended, made_up, started

PROCESSES = 2  # that the people are spread over
SIZE = 256


def person(address: str, cases: list[str], number: int, end: float, thought: float) -> tuple[list[tuple[str, float]], list[int]]:
    """Act as one person; return the requests with their seconds, and the numbers of the decisions that were answered."""
    chance = random.Random(number)
    asked: list[tuple[str, float]] = []
    decided: list[int] = []
    half = np.array([(SIZE * SIZE // 3) << 8 | 1, (SIZE * SIZE - SIZE * SIZE // 3) << 8], "<u4").tobytes()
    time.sleep(chance.uniform(0, thought))  # nobody begins at once
    with closing(Client(address)) as client:
        while time.monotonic() < end:
            identity = chance.choice(cases)
            asked.append(("case page", client.seconds(f"/case?id={identity}")))
            seen = json.loads(re.search("data-info='([^']*)'", client.content.decode())[1])["seen"]
            asked.append(("image", client.seconds(f"/image?id={identity}")))
            asked += [("plane", client.seconds(f"/plane/{name}?id={identity}")) for name in ("given", "proposed", "confidence")]
            time.sleep(chance.uniform(0.5, 1.5) * thought)
            what, body = chance.choice([("mended", half), ("given", b"")])
            query = urlencode({"id": identity, "what": what, "who": f"person {number}", "seen": seen})
            asked.append(("decision", client.seconds(f"/decide?{query}", body=body)))
            decided.append(json.loads(client.content)["number"])
    return asked, decided


def people(there, ready, address: str, cases: list[list[str]], numbers: list[int], seconds: float, thought: float) -> None:
    """Act as some of the people, in threads of this process; send their records to the other end."""
    from concurrent.futures import ThreadPoolExecutor

    ready.wait()  # for those of the other processes
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(len(numbers)) as pool:
        there.send(list(pool.map(lambda number: person(address, cases[number], number, end, thought), numbers)))


def loaded(address: str, cases: int, number: int, seconds: float, thought: float) -> tuple[dict[str, list[float]], list[int]]:
    """Return the seconds of every request by kind, and the numbers of all answered decisions."""
    own = [[f"case-{place:05}" for place in range(who, cases, number)] for who in range(number)]
    context, results = multiprocessing.get_context("spawn"), []
    ready = context.Barrier(PROCESSES)
    lines = []
    for place in range(PROCESSES):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=people, args=(there, ready, address, own, list(range(place, number, PROCESSES)), seconds, thought))
        process.start()
        lines.append((here, process))
    for here, process in lines:
        results += here.recv()
        process.join()
    taken: dict[str, list[float]] = {}
    for asked, _ in results:
        for kind, lasted in asked:
            taken.setdefault(kind, []).append(lasted)
    return taken, [one for _, decided in results for one in decided]


def measured(address: str, asked: argparse.Namespace, seconds: float, thought: float) -> tuple[dict, list[int]]:
    """Measure one kind of load; return it with the numbers of the decisions that were answered."""
    taken, answered = loaded(address, asked.cases, asked.people, seconds, thought)
    every = [lasted for kind in taken.values() for lasted in kind]
    latencies = {kind: latency(lasted) for kind, lasted in {"all": every, **taken}.items()}
    about = {"seconds": seconds, "thought_seconds": thought, "requests_per_second": round(len(every) / seconds, 1)}
    return {**about, "decisions_answered": len(answered), "ms": latencies}, answered


def latency(seconds: list[float]) -> dict[str, float]:
    median, most, worst = (round(1e3 * float(np.quantile(seconds, share)), 1) for share in (0.5, 0.99, 1))
    return {"requests": len(seconds), "median": median, "p99": most, "longest": worst}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="with a pause; a third of that without one")
    parser.add_argument("--thought", type=float, default=3, help="seconds between looking and deciding, on average")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="a folder for load.json")
    asked = parser.parse_args(words)
    record = {"people": asked.people, "cores": os.cpu_count(), "machine_load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        audit = made_up(Path(folder), asked.cases, SIZE)
        process, address, _ = started(audit)
        try:
            record["thinking"], answered = measured(address, asked, asked.seconds, asked.thought)
            record["hurried"], more = measured(address, asked, asked.seconds / 3, 0)
        finally:
            ended(process)
        with closing(sqlite3.connect(audit / "review.sqlite")) as connection:
            kept = {number for (number,) in connection.execute("SELECT number FROM decisions")}
    record |= {"decisions_answered": len(answered + more), "decisions_kept": len(kept), "lost": len({*answered, *more} - kept)}
    print(json.dumps(record, indent=2))
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "load.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
