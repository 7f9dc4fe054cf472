"""The long form of what the tests check in short: kills, mishaps of the disk, leaks, load and more; and the table in docs/reliability.md.

    python benchmarks/reliability.py            all of it, then the table (`make reliability`)
    python benchmarks/reliability.py --table    the table alone, of what results/reliability holds

Each part is a script of its own that leaves results/reliability/<part>.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by benchmarks/reliability.py from results/reliability -->", "<!-- end -->"


def of_kills(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        "train": "training (`trust`), killed at random moments and gone on with",
        "predict": "prediction, likewise",
        "audit": "audit, likewise",
        "grid": "a grid of `benchmark` with all its processes, likewise",
        "review": "a review's server in a stream of decisions",
    }
    for name, what in names.items():
        if name in found:
            work = found[name]
            ends = "all ends the same to the bit" if not work["differ"] else f"**{len(work['differ'])} differences**"
            more = f", {work['in_a_checkpoint']} of them while a checkpoint was written" if name == "train" else ""
            if name == "review":
                lost = "none lost, none half there" if not work["differ"] else f"**{len(work['differ'])} lost or half there**"
                ends = f"{work['answered']:,} decisions answered, {lost}"
            yield what, f"{work['kills']} kills survived{more}; {ends}"


def of_disks(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    words = {"full": "full disk", "limit": "a quota reached", "locked": "permission lost in mid-work", "ctrl-c": "Ctrl-C"}
    for mishap, what in words.items():
        met = {command: mishaps[mishap] for command, mishaps in found.items() if mishap in mishaps}
        faults = sum(len(one["faults"]) for one in met.values())
        ends = "one line each, and the same end when gone on with" if not faults else f"**{faults} faults**"
        yield f"{what}: {', '.join(met)}", f"{sum(one['mishaps'] for one in met.values())} times; {ends}"


def of_leaks(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for part, count, what in (("training", found["steps"], "training steps"), ("review", found["requests"], "review requests")):
        grown = found[part]
        memory = f"resident memory {grown['mib_at_first']:.0f} MiB, {grown['mib_grown']:+.1f} MiB"
        yield f"{count:,} {what}", f"{memory}; open files {grown['files_at_first']}, {grown['files_grown']:+d}"


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


def as_they_are(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a part that brings its own lines."""
    yield from found["table"].items()


PARTS: dict[str, tuple[str, list[str], Callable[[dict[str, Any]], Iterator[tuple[str, str]]]]] = {
    "kills": ("kills", ["--points", "24"], of_kills),
    "disks": ("disk and Ctrl-C", ["--points", "3"], of_disks),
    "leaks": ("leaks", [], of_leaks),
    "load": ("load", [], of_load),
    "ranks": ("several processes", [], as_they_are),
    "odd_files": ("broken files", [], as_they_are),
    "fuzz": ("fuzzing", [], as_they_are),
}
"""By script: what it is about, its words, and how its record becomes lines. A part that writes its own lines has them in `table`."""


def table(results: Path) -> str:
    """As markdown."""
    rows = []
    for name, (about, _, lines) in PARTS.items():
        path = results / f"{name}.json"
        found = list(lines(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else [(about, "not measured yet")]
        rows += [f"| {what} | {came} |" for what, came in found]
    return "\n".join(["| what | came of it |", "|---|---|", *rows])


def with_table(page: str, made: str) -> str:
    """The page with this table in the place of its own."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    asked = parser.parse_args(words)
    failed = []
    for name, (_, options, _) in PARTS.items():
        script = Path(__file__).with_name(f"{name}.py")
        if not asked.table and script.is_file() and (asked.only is None or name in asked.only):
            print(f"--- {name}", flush=True)
            command = [sys.executable, str(script), "--out", str(RESULTS), *options]
            if subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
                failed.append(name)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(RESULTS)), encoding="utf-8")
    if failed:
        sys.exit(f"not as it must be: {', '.join(failed)}")


if __name__ == "__main__":
    main()
