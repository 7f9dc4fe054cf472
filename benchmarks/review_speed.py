"""How quick the review answers with many cases: median and 99th percentile of requests, over a real connection.

    python benchmarks/review_speed.py --cases 10000 --out results/review

The audit is made up: 50 drawn images of 256x256 under as many names as there are cases, three regions a case. Requests are made one after
another by one client; OUT/review.json and OUT/table.md have the figures.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from pixeltrust.auditing.folder import AuditRecord
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.plumbing.files import link_or_copy

DISTINCT = 50
WHO = "bench"


def made_up(folder: Path, cases: int, size: int) -> Path:
    """Make an audit of so many cases; return its folder."""
    source, audit = folder / "source", folder / "audit"
    write_source(source, cases=DISTINCT, size=size, show_progress=False)
    names = sorted(path.stem for path in (source / "masks").iterdir())
    images = {path.stem: path for path in (source / "images").iterdir()}
    for name in ("data/images", "data/noisy", "audit/confidence", "audit/mended", "planes"):
        (folder / name).mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name in names:
        true = np.asarray(Image.open(source / "masks" / f"{name}.png")) > 0
        given = np.roll(true, size // 20, axis=1)
        confidence = 255 * (1 - 0.9 * ndimage.gaussian_filter((given != true).astype(float), 3)) * draws.uniform(0.95, 1, true.shape)
        for kind, plane in (("noisy", 255 * given), ("mended", 255 * true), ("confidence", confidence)):
            Image.fromarray(plane.astype(np.uint8)).save(folder / "planes" / f"{kind}-{name}.png")
    rows = []
    for place in range(cases):
        name, identity = names[place % DISTINCT], f"case-{place:05}"
        image, mask = folder / "data/images" / f"{identity}{images[name].suffix}", folder / "data/noisy" / f"{identity}.png"
        link_or_copy(images[name], image)
        link_or_copy(folder / "planes" / f"noisy-{name}.png", mask)
        link_or_copy(folder / "planes" / f"mended-{name}.png", audit / "mended" / f"{identity}.png")
        link_or_copy(folder / "planes" / f"confidence-{name}.png", audit / "confidence" / f"{identity}.png")
        rows.append({"rank": place + 1, "id": identity, "image": image, "mask": mask, "agreement": place / cases})
    numbers = {
        "doubtful_pixels": 900,
        "doubtful_share": 0.1,
        "changed_pixels": 900,
        "added_pixels": 450,
        "removed_pixels": 450,
        "regions": 3,
    }
    pd.DataFrame(rows).assign(**numbers, height=size, width=size, evidence="network").to_csv(audit / "cases.csv", index=False)
    box = {"area": 300, "share": 0.1, "top": 10, "left": 10, "bottom": 40, "right": 40, "row": 25, "column": 25, "doubt": 0.9}
    regions = pd.DataFrame({"id": np.repeat([row["id"] for row in rows], 3), "region": np.tile([1, 2, 3], cases)})
    kinds = np.where(np.arange(3 * cases) % 7 == 0, "other class", np.where(np.arange(3 * cases) % 2 == 0, "missing", "too much"))
    regions.assign(kind=kinds, mended=True, **box).to_csv(audit / "regions.csv", index=False)
    about = {"weights": "last", "classes": 1, "ignore_label": None, "channels": 3, "tilt": (0.0, 0.0), "seconds": 1.0}
    (audit / "audit.json").write_text(AuditRecord(data=str(folder / "data"), run="", **about).text())
    return audit


class Client:
    """One connection that stays open."""

    def __init__(self, address: str) -> None:
        self.host = re.fullmatch(r"http://(.+?)/", address)[1]
        self.connection = http.client.HTTPConnection(self.host, timeout=60)

    def close(self) -> None:
        self.connection.close()

    def seconds(self, path: str, *, body: bytes | None = None, status: int = 200, **headers: str) -> float:
        """Return how long an answer takes, including its body."""
        method = "GET" if body is None else "POST"
        began = time.perf_counter()
        self.connection.request(method, path, body, {"Origin": f"http://{self.host}", **headers})
        answer = self.connection.getresponse()
        self.content = answer.read()
        taken = time.perf_counter() - began
        assert answer.status == status, (path, answer.status)
        self.tag = answer.headers.get("ETag", "")
        return taken


def measured(client: Client, cases: int, requests: int, size: int) -> dict[str, list[float]]:
    """Return the seconds of every request, by kind."""
    draws = np.random.default_rng(1)
    some = [f"case-{place:05}" for place in draws.permutation(cases)[: min(requests, cases)]]
    pages = max(1, cases // 50)
    version = "v=0"
    half = np.array([(size * size // 3) << 8 | 1, (size * size - size * size // 3) << 8], "<u4").tobytes()
    seconds: dict[str, list[float]] = {}
    seconds["queue, first page"] = [client.seconds("/") for _ in some]
    seconds["queue, any page"] = [client.seconds(f"/?show=all&page={draws.integers(1, pages + 1)}") for _ in some]
    seconds["queue, by kind of region"] = [client.seconds("/?" + urlencode({"kind": "other class", "page": 7})) for _ in some]
    seconds["queue, search by id"] = [client.seconds(f"/?show=all&find={name[-4:]}") for name in some]
    seconds["case page"] = [client.seconds(f"/case?id={name}") for name in some]
    seconds["case page, by kind of region"] = [client.seconds("/case?" + urlencode({"id": name, "kind": "other class"})) for name in some]
    seconds["image"] = [client.seconds(f"/image?id={name}") for name in some]
    seconds["given mask"] = [client.seconds(f"/plane/given?id={name}") for name in some]
    seconds["confidence"] = [client.seconds(f"/plane/confidence?id={name}") for name in some]
    seconds["thumbnail, made"] = [client.seconds(f"/thumbnail?id={name}&{version}") for name in some]
    seconds["thumbnail, kept"] = [client.seconds(f"/thumbnail?id={name}&{version}") for name in some]
    seconds["thumbnail, not changed"] = []
    for name in some:
        client.seconds(f"/thumbnail?id={name}&{version}")
        seconds["thumbnail, not changed"].append(client.seconds(f"/thumbnail?id={name}", status=304, **{"If-None-Match": client.tag}))
    asked = "/decide?" + urlencode({"who": WHO, "seen": 0})
    seconds["decision, accepted"] = [client.seconds(f"{asked}&what=given&id={name}", body=b"") for name in some[::2]]
    seconds["decision, painted"] = [client.seconds(f"{asked}&what=mended&id={name}", body=half) for name in some[1::2]]
    return seconds


def table(record: dict) -> str:
    rows = [f"| {kind} | {1e3 * found['median']:.1f} | {1e3 * found['p99']:.1f} |" for kind, found in record["requests"].items()]
    head = f"{record['cases']:,} cases of {record['size']}x{record['size']}, {record['number']} requests of each kind; ms"
    start = f"Start with the tables new {record['first_start_seconds']:.1f} s, again {record['second_start_seconds']:.1f} s."
    return "\n".join([f"| {head} | median | 99 % |", "|---|---|---|", *rows, "", start]) + "\n"


def started(audit: Path) -> tuple[subprocess.Popen, str, float]:
    """Start a review; return its process, its address, and the seconds until it answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pixeltrust.cli", "review", str(audit), "--port", "0", "--who", WHO]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    line = process.stdout.readline()
    return process, re.search(r"http://\S+", line)[0], time.perf_counter() - began


def ended(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--requests", type=int, default=300, help="of every kind")
    parser.add_argument("--out", type=Path, help="a folder for review.json and table.md")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        audit = made_up(Path(folder), asked.cases, asked.size)
        process, _, first = started(audit)
        ended(process)
        process, address, second = started(audit)
        try:
            with closing(Client(address)) as client:
                seconds = measured(client, asked.cases, asked.requests, asked.size)
        finally:
            ended(process)
    requests = {kind: {"median": float(np.median(taken)), "p99": float(np.quantile(taken, 0.99))} for kind, taken in seconds.items()}
    record = {"cases": asked.cases, "size": asked.size, "number": asked.requests, "cores": os.cpu_count(), "requests": requests}
    record |= {"first_start_seconds": first, "second_start_seconds": second}
    print(table(record))
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "review.json").write_text(json.dumps(record, indent=2) + "\n")
        (asked.out / "table.md").write_text(table(record))


if __name__ == "__main__":
    main()
