"""What volumes cost: time of `check`, memory of `predict`, and a step and an epoch against MONAI's plain loop.

    OMP_NUM_THREADS=1 python benchmarks/volumes.py check --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py predict --out results/volumes

`check`: wall and processor seconds of `pixeltrust check`, with and without `--headers`, of made-up cases of 48x48x48 voxels.

`predict`: seconds and peak resident memory of `pixeltrust predict` on a made-up CT of 512x512x400 voxels, .8 x .8 x 1 mm, in several
settings: `same` has the spacing of the CT and five classes, a network of one convolution and windows of 96; `coarse` is
`unet-small` at 1.6 x 1.6 x 2 mm.

Each writes OUT/<its name>.csv; the machine goes to environment.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.training.models import build_model
from pixeltrust.training.run_writer import RunWriter, describe_environment

PEAK_UNIT = 2**30 if sys.platform == "darwin" else 2**20  # of a process's peak, in GiB
CT = (400, 512, 512)
SPACING = (1.0, 0.8, 0.8)
PREDICTIONS = {
    "same": {"model": "volumes:convolution", "spacing": SPACING, "image_size": (96, 96, 96), "classes": 5},
    "same, probabilities": {"model": "volumes:convolution", "spacing": SPACING, "image_size": (96, 96, 96), "classes": 5},
    "coarse": {"model": "unet-small", "spacing": (2.0, 1.6, 1.6), "image_size": (96, 96, 96), "classes": 5},
}


def convolution(in_channels: int, out_channels: int) -> nn.Module:
    """Return the smallest network that looks around itself."""
    return nn.Conv3d(in_channels, out_channels, 3, padding=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_check = commands.add_parser("check")
    of_check.add_argument("--cases", type=int, default=2000)
    of_check.set_defaults(measure=lambda arguments: check(arguments.cases))
    of_predict = commands.add_parser("predict")
    of_predict.add_argument("--shape", type=int, nargs=3, default=CT)
    of_predict.add_argument("--settings", nargs="*", default=list(PREDICTIONS))
    of_predict.set_defaults(measure=lambda arguments: predict(tuple(arguments.shape), arguments.settings))
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    table = arguments.measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / f"{arguments.command}.csv", index=False)
    record = {name: value for name, value in describe_environment().items() if name != "command"}
    (arguments.out / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table.to_string(index=False))


def run(*words: object) -> dict[str, float]:
    """Run a command of pixeltrust in a process of its own; return its wall and processor seconds and its peak memory.

    Raises:
        CalledProcessError: it failed.
    """
    paths = [str(Path(__file__).parent), *sys.path]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pixeltrust.cli", *map(str, words)], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    seconds = time.perf_counter() - begun
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_gib": round(used.ru_maxrss / PEAK_UNIT, 2),
    }


# --- check ------------------------------------------------------------------------------------------------------------


def check(cases: int) -> pd.DataFrame:
    """Return what `check` takes with and without pixels."""
    rows = []
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_cases(data, cases, (48, 48, 48))
        for options in (["--headers"], []):
            rows.append({"options": " ".join(options), "cases": cases, **run("check", data, "--classes", 2, *options)})
    return pd.DataFrame(rows)


def write_cases(data: Path, cases: int, shape: tuple[int, int, int]) -> None:
    """Write noisy cases, and every tenth of them clean: noise, and a ball in it."""
    draws = np.random.default_rng(0)
    centred = [np.arange(extent) - extent / 2 for extent in shape]
    ball = (sum(axis**2 for axis in np.ix_(*centred)) < (min(shape) / 4) ** 2).astype(np.uint8)
    for name in ("images", "noisy", "clean"):
        (data / name).mkdir(parents=True)
    for number in range(cases):
        image = draws.normal(100 * ball, 20).astype(np.int16)
        for folder, values in (("images", image), ("clean" if number % 10 == 0 else "noisy", ball)):
            write_nifti(data / folder / f"{number:04}.nii.gz", values, SPACING)


def write_nifti(path: Path, values: np.ndarray, spacing: tuple[float, ...]) -> None:
    """Write values (D, H, W)."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(values.transpose(), np.diag([*reversed(spacing), 1])), path)


# --- predict ----------------------------------------------------------------------------------------------------------


def predict(shape: tuple[int, int, int], names: list[str]) -> pd.DataFrame:
    """Return what it takes to predict one CT in several settings."""
    rows = []
    with TemporaryDirectory() as folder:
        write_nifti(Path(folder) / "ct.nii.gz", made_ct(shape), SPACING)
        for name in names:
            settings = PREDICTIONS[name]
            config = Config(**{"channels": 1, "normalise": "ct:-160,240", "batch_size": 1, "device": "cpu", **settings})
            run_folder, out = Path(folder) / f"run {name}", Path(folder) / f"out {name}"
            writer = RunWriter(run_folder)
            writer.create(config, pd.DataFrame())
            torch.manual_seed(0)
            model = build_model(config.model, channels=1, classes=config.classes, axes=3)
            writer.write_state("model.pt", {"model": model.state_dict()})
            more = ["--probabilities"] if "probabilities" in name else []
            taken = run("predict", run_folder, Path(folder) / "ct.nii.gz", "--out", out, *more)
            voxels = "x".join(map(str, reversed(shape)))
            rows.append({"settings": name, "voxels": voxels, "model": config.model, "classes": config.classes, **taken})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def made_ct(shape: tuple[int, int, int]) -> np.ndarray:
    """Return int16 (D, H, W): a body in air, with noise."""
    draws = np.random.default_rng(0)
    middle = [2 * np.arange(extent) / extent - 1 for extent in shape]
    inside = (middle[1][:, None] / 0.7) ** 2 + (middle[2] / 0.9) ** 2 < 1
    values = np.empty(shape, np.int16)
    for plane in values:
        plane[:] = np.where(inside, draws.normal(40, 15, inside.shape), -1000 + draws.normal(0, 5, inside.shape))
    return values


if __name__ == "__main__":
    main()
