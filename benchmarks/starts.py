"""How long commands take to start: processor seconds of --help, until a command refuses a wrong name, setting or folder, and to load what
it runs.

    python benchmarks/starts.py [--against SRC] [--rounds 3] --out results/starts

SRC is the src folder of another version, whose refusals are timed by turns with this one's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parents[1] / "src"
REFUSED = {
    "demo": ["--out", "file/demo"],
    "mend": [".", "--out", "out", "--set", "modle=unet"],
    "export": ["nowhere"],
    "check": ["nowhere"],
    "convert": ["nowhere", "out"],
    "simulate": [".", "out", "--noise", "triangel"],
    "evaluate": [".", "nowhere"],
    "review": ["nowhere"],
    "predict": ["nowhere", ".", "--out", "out"],
    "train": [".", "--out", "run", "--set", "modle=unet"],
    "audit": [".", ".", "--out", "out"],
    "benchmark": [".", "--out", "out", "--set", "modle=unet"],
    "report": ["nowhere"],
    "fetch": ["isic2016", "out"],
}


def processor_seconds(arguments: list[str], source: Path, folder: str) -> float:
    """Run Python once and return the processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").touch()
        for command, words in REFUSED.items():
            refusal = ["-m", "pixeltrust.cli", command, *words]
            jobs = {
                "help": (["-m", "pixeltrust.cli", command, "--help"], HERE),
                "refused": (refusal, HERE),
                "loaded": (["-c", f"import pixeltrust; pixeltrust.{command}"], HERE),
            }
            if given.against:
                jobs["refused_before"] = (refusal, given.against.resolve())
            rounds = [{name: processor_seconds(*job, folder) for name, job in jobs.items()} for _ in range(given.rounds)]
            rows.append({"command": command, **pd.DataFrame(rounds).min().round(3)})
            print(" ".join(f"{value}" for value in rows[-1].values()), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(given.out / "seconds.csv", index=False)
    machine = {"python": sys.version.split()[0], "machine": "two cores of a shared Intel Xeon", "rounds": given.rounds}
    (given.out / "environment.json").write_text(json.dumps(machine, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
