"""Run the long form of the reliability tests: kills, mishaps of the disk, leaks, load, processes, odd files, fuzzing; write their table.

    python tests/reliability/run_all.py            all of it, then the table (`make reliability`)
    python tests/reliability/run_all.py --table    the table alone, of what results/reliability holds

Each part is a script of its own, whose records are in results/reliability (those of processes in results/ranks).
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixeltrust.plumbing.text import count

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by tests/reliability/run_all.py from results/reliability -->", "<!-- end -->"


def of_kills(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        "train": "training (`trust`), killed at random moments and resumed",
        "predict": "prediction, the same",
        "audit": "audit, the same",
        "grid": "a grid of `benchmark` with all its processes, the same",
        "review": "a review's server in a stream of decisions",
    }
    for name, what in names.items():
        if name in found:
            work = found[name]
            ends = "every result is the same to the bit" if not work["differ"] else f"**{len(work['differ'])} differences**"
            more = f", {work['in_a_checkpoint']} of them while a checkpoint was written" if name == "train" else ""
            if name == "review":
                lost = "none lost, none incomplete" if not work["differ"] else f"**{len(work['differ'])} lost or incomplete**"
                ends = f"{work['answered']:,} decisions answered, {lost}"
            yield what, f"{work['kills']} kills survived{more}; {ends}"


def of_disks(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    words = {"full": "full disk", "limit": "a quota reached", "locked": "permission lost during the work", "ctrl-c": "Ctrl-C"}
    for mishap, what in words.items():
        met = {command: mishaps[mishap] for command, mishaps in found.items() if mishap in mishaps}
        faults = sum(len(one["faults"]) for one in met.values())
        ends = "one line each, and the same result when resumed" if not faults else f"**{faults} faults**"
        yield f"{what}: {', '.join(met)}", f"{sum(one['mishaps'] for one in met.values())} times; {ends}"


def of_leaks(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for part, made, what in (("training", found["steps"], "training steps"), ("review", found["requests"], "review requests")):
        grown = found[part]
        memory = f"resident memory {grown['mib_at_first']:.0f} MiB, {grown['mib_grown']:+.1f} MiB"
        yield f"{made:,} {what}", f"{memory}; open files {grown['files_at_first']}, {grown['files_grown']:+d}"


def of_load(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for part, how in (("thinking", "with {thought_seconds:g} s of thought before a decision"), ("hurried", "without a pause")):
        load = found[part]
        ms = load["ms"]
        each = ", ".join(f"{kind} {taken['p99']:.0f}" for kind, taken in ms.items() if kind != "all")
        what = f"{found['people']} people at once on one review for {load['seconds']:.0f} s, {how.format(**load)}; {found['cores']} cores"
        times = f"median {ms['all']['median']:.0f} ms, 99 % within {ms['all']['p99']:.0f} ms ({each})"
        yield what, f"{load['decisions_answered']:,} decisions; {load['requests_per_second']:.0f} requests/s, {times}"
    busy = f"the machine's load before was {found['machine_load_before']:.1f}"
    yield "decisions lost of all these", f"{found['lost']} of {found['decisions_answered']:,}; {busy}"


def of_ranks(speed: list[dict[str, str]], machines: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    for method in dict.fromkeys(row["method"] for row in speed):
        cells = [row for row in speed if row["method"] == method]
        times = ", ".join(f"{row['processes']} × {row['threads']}: {row['images_per_second']} ({row['ratio']})" for row in cells)
        yield f"processes × threads of `{method}`: images/s (times one)", times
    for row in machines:
        what = f"`{row['method']}` on {row['machines']} machines (network namespaces) against one process, {row['updates']} updates"
        yield what, f"weights differ by {row['largest_difference']} at most"


def of_files(found: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    by = Counter(one["outcome"] for one in found)
    other = sum(by.values()) - by["read"] - by["refused"]
    yield (
        f"{len(found)} odd and broken inputs",
        f"{by['read']} read rightly, {by['refused']} named in one clear line, {other} of neither kind",
    )


def of_fuzz(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for engine in dict.fromkeys(sitting["engine"] for sitting in found["sittings"]):
        sittings = [sitting for sitting in found["sittings"] if sitting["engine"] == engine]
        minutes, inputs = (sum(values) for values in zip(*((one["minutes"], sum(one["inputs"].values())) for one in sittings), strict=True))
        faults = sum(len(one["found"]) for one in sittings)
        yield f"fuzzing by {engine}", f"{minutes:.0f} minutes, {inputs:,} inputs; {count(faults, 'fault')} found"


@dataclass(frozen=True)
class Part:
    """A part of the long form: its scripts, and how their records become lines of the table."""

    about: str
    words: tuple[tuple[str, ...], ...]
    """The words of each call; {out} is the folder of the records."""
    records: tuple[str, ...]
    """Files in that folder."""
    lines: Callable[..., Iterator[tuple[str, str]]]
    """Makes the lines from the content of those files."""
    output: str = ""
    """The file to which standard output, a JSON value a line, is written where the script writes none."""


PARTS = {
    "kills": Part("kills", (("tests/reliability/kills.py", "--points", "24", "--out", "{out}"),), ("kills.json",), of_kills),
    "disks": Part("disk and Ctrl-C", (("tests/reliability/disks.py", "--points", "3", "--out", "{out}"),), ("disks.json",), of_disks),
    "leaks": Part("leaks", (("tests/reliability/leaks.py", "--out", "{out}"),), ("leaks.json",), of_leaks),
    "load": Part("load", (("tests/reliability/load.py", "--out", "{out}"),), ("load.json",), of_load),
    "ranks": Part(
        "several processes",
        (("benchmarks/ranks.py", "speed", "--out", "{out}/../ranks"), ("benchmarks/ranks.py", "machines", "--out", "{out}/../ranks")),
        ("../ranks/speed.csv", "../ranks/machines.csv"),
        of_ranks,
    ),
    "files": Part(
        "odd and broken files", (("tests/reliability/odd_files.py", "--outcomes"),), ("files.json",), of_files, output="files.json"
    ),
    "fuzz": Part("fuzzing", (("tests/reliability/fuzz.py", "--minutes", "5", "--out", "{out}"),), ("fuzz.json",), of_fuzz),
}


def table(results: Path) -> str:
    """Return the table as Markdown."""
    rows = []
    for part in PARTS.values():
        files = [results / name for name in part.records]
        measured = all(file.is_file() for file in files)
        found = list(part.lines(*map(read_record, files))) if measured else [(part.about, "not measured yet")]
        rows += [f"| {what} | {came} |" for what, came in found]
    return "\n".join(["| what | result |", "|---|---|", *rows])


def read_record(file: Path) -> Any:
    """Return the content of a record."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def measure(part: Part) -> bool:
    """Run the scripts of a part; return whether all succeeded."""
    succeeded = True
    for words in part.words:
        command = [sys.executable, str(ROOT / words[0]), *(word.format(out=RESULTS) for word in words[1:])]
        pipe = subprocess.PIPE if part.output else None
        ended = subprocess.run(command, check=False, stdout=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        succeeded &= ended.returncode == 0
        if part.output and succeeded:
            found = [json.loads(line) for line in ended.stdout.splitlines()]
            (RESULTS / part.output).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return succeeded


def with_table(page: str, made: str) -> str:
    """Return the page with this table in place of its own."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    asked = parser.parse_args(words)
    failed = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if not asked.table and (asked.only is None or name in asked.only):
            print(f"--- {name}", flush=True)
            failed += [] if measure(part) else [name]
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(RESULTS)), encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
