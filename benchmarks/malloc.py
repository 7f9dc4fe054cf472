"""Processor time of one training under several settings of glibc's malloc, by turns: what does it cost to give freed memory back?

    python benchmarks/malloc.py DATA --out results/malloc --rounds 2

A process per training, one thread; every setting once in each round, so that what else the machine does meets all of them alike. Writes
malloc.csv, a row per training: its seconds in the program (user) and in the kernel, and its peak memory. Further rounds are added to it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

LATE_TRIM = {"MALLOC_TRIM_THRESHOLD_": "8000000000"}
PAD = {"MALLOC_TOP_PAD_": "268435456"}
LATE_MAP = {"MALLOC_MMAP_THRESHOLD_": "33554432"}
SETTINGS = {
    "glibc's own": {"GLIBC_TUNABLES": ""},  # where the environment says anything, pixeltrust leaves malloc alone
    "trim, pad": {**LATE_TRIM, **PAD},
    "mmap": LATE_MAP,
    "trim, mmap": {**LATE_TRIM, **LATE_MAP},
    "trim, pad, mmap": {**LATE_TRIM, **PAD, **LATE_MAP},
    "mallopt": {},  # what pixeltrust does by itself
}
TRAINING = ("model=unet-small", "image_size=64", "epochs=1", "jitter=none", "weight_map_cases=0", "device=cpu")


def measured(data: Path, method: str, setting: str) -> dict[str, float]:
    """Processor seconds and peak memory of one training."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environment |= {"OMP_NUM_THREADS": "1", **SETTINGS[setting]}
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pixeltrust.cli", "train", str(data), "--out", f"{work}/run", "--quiet"]
        command += [f"--set={value}" for value in (f"method={method}", *TRAINING)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return {"user_seconds": usage.ru_utime, "kernel_seconds": usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["trust", "plain"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "malloc.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    begun = max((row["round"] + 1 for row in rows), default=0)
    for number in range(begun, begun + asked.rounds):
        for method in asked.methods:
            for setting in asked.settings:
                rows.append({"round": number, "method": method, "malloc": setting, **measured(asked.data, method, setting)})
                print(rows[-1], flush=True)
                pd.DataFrame(rows).round(2).to_csv(file, index=False)


if __name__ == "__main__":
    main()
