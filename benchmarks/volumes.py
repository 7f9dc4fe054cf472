"""What volumes cost: time of `check`, memory of `predict` and `mend`, and a step and an epoch against MONAI's plain loop.

    OMP_NUM_THREADS=1 python benchmarks/volumes.py check --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py predict --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py train --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py trust --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py mend --out results/volumes
    OMP_NUM_THREADS=1 python benchmarks/volumes.py mend-cts --out results/volumes

`check`: wall and processor seconds of `pixeltrust check`, with and without `--headers`, of made-up cases of 48x48x48 voxels.

`predict`: seconds and peak resident memory of `pixeltrust predict` on a made-up CT of 512x512x400 voxels, .8 x .8 x 1 mm, in several
settings: `same` has the spacing of the CT and five classes, a network of one convolution and windows of 96; `coarse` is
`unet-tiny` at 1.6 x 1.6 x 2 mm.

`train`: processor seconds of an update and of an epoch (loading and all) of `plain` and `trust`, and of a plain loop of MONAI
(CacheDataset, patches by RandCropByPosNegLabeld, DataLoader) with the same network, patches, batches and optimiser. A process trains for
few epochs and another for more; the difference is that of the further epochs, without starts and decoding.

`trust`: memory and disk of `Trust` in a mapped file, when it visits patches of CT-sized cases, and what a checkpoint of it takes.

`mend`: memory that judging pairs holds, few and many of them, by menders that give every label alike.

`mend-cts`: seconds and peak resident memory of a whole `pixeltrust mend` of CTs of 512x512x400 voxels, five pairs and a noisy mask, at
4 x 4 x 4 mm, with few updates: what menders learn does not count, what is read, held and written does.

Each writes OUT/<its name>.csv, in which rows of other settings stay; the machine goes to environment.json.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.cases import read_cases
from pixeltrust.data.fitting import settle
from pixeltrust.mending.menders import Menders
from pixeltrust.mending.pairs import look_at_pairs
from pixeltrust.mending.settings import as_mender_config
from pixeltrust.method.addresses import Where
from pixeltrust.method.trust import Trust
from pixeltrust.plumbing.processes import ALONE
from pixeltrust.training.models import build_model
from pixeltrust.training.run_folder import Run
from pixeltrust.training.run_writer import RunWriter, describe_environment

PEAK_UNIT = 2**30 if sys.platform == "darwin" else 2**20  # of a process's peak, in GiB
CT = (400, 512, 512)
SPACING = (1.0, 0.8, 0.8)
PREDICTIONS = {
    "same": {"model": "volumes:convolution", "spacing": SPACING, "image_size": (96, 96, 96), "classes": 5},
    "same, probabilities": {"model": "volumes:convolution", "spacing": SPACING, "image_size": (96, 96, 96), "classes": 5},
    "coarse": {"model": "unet-tiny", "spacing": (2.0, 1.6, 1.6), "image_size": (96, 96, 96), "classes": 5},
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
    of_train = commands.add_parser("train")
    of_train.add_argument("--sizes", type=int, nargs="*", default=[64, 96])
    of_train.add_argument("--model", default="unet-tiny")
    of_train.add_argument("--epochs", type=int, nargs=2, default=(1, 3), help="Of the shorter and of the longer training.")
    of_train.add_argument("--loops", nargs="*", default=["monai", "plain", "trust"])
    of_train.set_defaults(measure=lambda arguments: train(arguments.sizes, arguments.model, arguments.epochs, arguments.loops))
    of_trust = commands.add_parser("trust")
    of_trust.add_argument("--cases", type=int, default=500)
    of_trust.add_argument("--shape", type=int, nargs=3, default=(200, 256, 256))
    of_trust.set_defaults(measure=lambda arguments: trust(arguments.cases, tuple(arguments.shape)))
    of_mend = commands.add_parser("mend")
    of_mend.add_argument("--pairs", type=int, nargs="*", default=[6, 24])
    of_mend.add_argument("--shape", type=int, nargs=3, default=(96, 96, 96))
    of_mend.set_defaults(measure=lambda arguments: mend(arguments.pairs, tuple(arguments.shape)))
    of_mend_cts = commands.add_parser("mend-cts")
    of_mend_cts.add_argument("--pairs", type=int, default=5)
    of_mend_cts.add_argument("--shape", type=int, nargs=3, default=CT)
    of_mend_cts.set_defaults(measure=lambda arguments: mend_cts(arguments.pairs, tuple(arguments.shape)))
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True)
    if sys.argv[1:2] == ["monai"]:  # what `train` runs beside
        monai_loop(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return
    arguments = parser.parse_args()
    table = arguments.measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{arguments.command}.csv"
    if path.is_file():
        earlier = pd.read_csv(path, keep_default_na=False)
        named = list(table.columns[: min(table.columns.get_loc(name) for name in ("seconds", "cpu_seconds") if name in table)])
        again = earlier[named].astype(str).apply(tuple, axis=1).isin(table[named].astype(str).apply(tuple, axis=1))
        table = pd.concat([earlier[~again], table], ignore_index=True)
    table.to_csv(path, index=False)
    record = {name: value for name, value in describe_environment().items() if name != "command"}
    (arguments.out / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table.to_string(index=False))


def run(*words: object, program: tuple[str, ...] = ("-m", "pixeltrust.cli")) -> dict[str, float]:
    """Run a command of pixeltrust in a process of its own; return its wall and processor seconds and its peak memory, all and its own.

    Raises:
        CalledProcessError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    begun, own = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, *program, *map(str, words)], env=environment)
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        own = max(own, own_gib(process.pid))
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(map(str, words)))
    seconds, cpu_seconds = time.perf_counter() - begun, used.ru_utime + used.ru_stime
    taken = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gib": used.ru_maxrss / PEAK_UNIT, "own_gib": own}
    return {name: round(value, 2) for name, value in taken.items()}


def own_gib(process: int | str = "self") -> float:
    """Return the memory of a process without pages of mapped files, which are the system's to take back (Linux; 0 elsewhere)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) / 2**20


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


def write_cases(data: Path, cases: int, shape: tuple[int, int, int], *, every: int = 10, noisy: bool = False) -> None:
    """Write noisy cases, and every tenth of them clean: noise, and a ball in it.

    Args:
        every: in place of the tenth.
        noisy: write noisy masks of the clean ones too: of the ball without its lower half.
    """
    draws = np.random.default_rng(0)
    centred = [np.arange(extent) - extent / 2 for extent in shape]
    ball = (sum(axis**2 for axis in np.ix_(*centred)) < (min(shape) / 4) ** 2).astype(np.uint8)
    half = ball * (np.arange(shape[0]) < shape[0] / 2).astype(np.uint8)[:, None, None]
    for name in ("images", "noisy", "clean"):
        (data / name).mkdir(parents=True)
    for number in range(cases):
        image = draws.normal(100 * ball, 20).astype(np.int16)
        clean = number % every == 0
        masks = [("clean" if clean else "noisy", ball), *([("noisy", half)] if clean and noisy else [])]
        for folder, values in (("images", image), *masks):
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


# --- train ------------------------------------------------------------------------------------------------------------

CASES, BATCH, CLASSES = 10, 2, 2  # of the cases one is clean


def train(sizes: list[int], model: str, epochs: tuple[int, int], loops: list[str]) -> pd.DataFrame:
    """Return what an update takes, by our methods and MONAI's plain loop, for patches of several sizes."""
    rows = []
    for size in sizes:
        with TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            write_cases(data, CASES, (size + 16,) * 3)
            for loop in loops:
                taken, batches = {}, float("nan")
                for number in epochs:
                    out = Path(folder) / f"{loop}-{number}"
                    if loop == "monai":
                        taken[number] = run("monai", data, model, size, number, program=(__file__,))
                        continue
                    patches = {"image_size": [size] * 3, "spacing": list(SPACING), "batch_size": BATCH, "clean_batch_size": BATCH}
                    usual = {"method": loop, "model": model, "classes": CLASSES, "device": "cpu", "weight_map_cases": 0}
                    alike = {"loss": "cross-entropy", "augment": "flips-and-turns", "jitter": "none"}  # what the other loop does
                    settings = {**patches, **usual, **alike, "epochs": number, "updates_per_epoch": CASES // BATCH}
                    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
                    taken[number] = run("train", data, "--out", out, "--quiet", *words)
                    history = pd.read_csv(out / "history.csv")
                    batches = history["seconds_batches"].iloc[-1] / history["seconds"].iloc[-1]
                short, long = (taken[number] for number in epochs)
                updates = (epochs[1] - epochs[0]) * CASES // BATCH
                each = (long["cpu_seconds"] - short["cpu_seconds"]) / updates
                took = {"cpu_seconds": round(each, 3), "cpu_seconds_an_epoch": round(each * CASES / BATCH, 1), "peak_gib": long["peak_gib"]}
                rows.append({"size": size, "model": model, "loop": loop, **took, "waiting_for_batches": round(float(batches), 4)})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def monai_loop(data: Path, model: str, size: int, epochs: int) -> None:
    """Train as MONAI's tutorials do: every case once an epoch, a patch of it, cross-entropy, Adam."""
    from monai import transforms as of
    from monai.data import CacheDataset, DataLoader

    files = [
        {"image": data / "images" / mask.name, "mask": mask} for part in ("noisy", "clean") for mask in sorted((data / part).iterdir())
    ]
    both = ["image", "mask"]
    steps = [
        of.LoadImaged(both),
        of.EnsureChannelFirstd(both),
        of.NormalizeIntensityd("image"),
        of.RandCropByPosNegLabeld(both, "mask", [size] * 3, pos=1, neg=2, num_samples=1),
        *(of.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        of.RandRotate90d(both, prob=0.5, spatial_axes=(0, 1)),
    ]
    torch.manual_seed(0)
    loader = DataLoader(CacheDataset(files, of.Compose(steps), progress=False), batch_size=BATCH, shuffle=True, num_workers=0)
    network = build_model(model, channels=1, classes=CLASSES, axes=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            masks = batch["mask"].as_tensor()[:, 0].long()
            torch.nn.functional.cross_entropy(network(batch["image"].as_tensor()), masks).backward()
            optimizer.step()


# --- trust ------------------------------------------------------------------------------------------------------------


def trust(cases: int, shape: tuple[int, int, int]) -> pd.DataFrame:
    """Return the memory that `Trust` takes for so many cases of a shape in a file, and the time of a visit; and of a few in memory."""
    rows = []
    for where, number in (("file", cases), ("memory", 4)):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            taken = process.submit(visit, number, shape, where == "file").result()
        gib = round(2 * number * math.prod(shape) / 2**30, 2)
        rows.append({"where": where, "cases": number, "voxels": "x".join(map(str, reversed(shape))), "gib_of_trust": gib, **taken})
    return pd.DataFrame(rows)


def visit(cases: int, shape: tuple[int, int, int], in_file: bool, *, side: int = 96, visits: int = 40) -> dict[str, float]:
    """Show patches of random cases to a `Trust`; return the median wall and processor seconds of a visit, and the memory of the process."""
    draws = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        remembered = Trust(folder=folder if in_file else None)
        remembered.reserve([str(number) for number in range(cases)], shape)
        steps = []
        for _ in range(visits):
            corners = [[int(draws.integers(0, extent - side + 1)) for extent in shape] for _ in range(2)]
            axes = [np.ix_(*(start + np.arange(side) for start in corner)) for corner in corners]
            addresses = torch.from_numpy(np.stack([np.ravel_multi_index(np.broadcast_arrays(*axis), shape) for axis in axes]))
            where = Where([str(draws.integers(cases)) for _ in corners], addresses, shape)
            gains = torch.from_numpy(draws.normal(size=addresses.shape).astype(np.float32))
            begun, before = time.perf_counter(), time.process_time()
            remembered.learn(gains, where)
            steps.append((time.perf_counter() - begun, time.process_time() - before))
        own, begun, before = own_gib(), time.perf_counter(), time.process_time()
        RunWriter(Path(folder)).write_state("checkpoint.pt", {"memory": remembered.state_dict()})
        took, worked = time.perf_counter() - begun, time.process_time() - before
        again, begun = Trust(folder=Path(folder) / "again" if in_file else None), time.perf_counter()
        again.load_state_dict(Run(Path(folder)).read_state("checkpoint.pt")["memory"])
        of_checkpoint = {
            "write_seconds": took,
            "write_cpu_seconds": worked,
            "read_seconds": time.perf_counter() - begun,
            "after_gib": own_gib(),
        }
    seconds, cpu_seconds = np.median(steps, axis=0).round(3).tolist()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "own_gib": round(own, 2)} | {
        name: round(value, 2) for name, value in of_checkpoint.items()
    }


# --- mend -------------------------------------------------------------------------------------------------------------


def mend(pairs: list[int], shape: tuple[int, int, int]) -> pd.DataFrame:
    """Return what judging so many pairs holds in memory, by menders that give every label alike."""
    rows = []
    for number in pairs:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            taken = process.submit(judge, number, shape).result()
        rows.append({"pairs": number, "voxels": "x".join(map(str, reversed(shape))), "classes": 2, **taken})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


class Alike:
    """A mender that gives every label alike."""

    turns, batch_size = (0,), 2

    def __init__(self, config: Config) -> None:
        self.config = config

    def probabilities_over_turns(self, images: list[np.ndarray], *_: object) -> np.ndarray:
        return np.full((len(images), 2, *images[0].shape[1:]), 0.5, np.float32)


def judge(pairs: int, shape: tuple[int, int, int]) -> dict[str, float]:
    """Judge made-up pairs; return processor seconds, and the process's own memory before, at its peak and while the verdict is held."""
    with TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        write_cases(data, pairs + 2, shape, every=1, noisy=True)
        for name in ("0000", "0001"):  # noisy masks that are to be mended
            (data / "clean" / f"{name}.nii.gz").unlink()
        cases = read_cases(data, may_be_volumes=True, show_progress=False)
        config = settle(as_mender_config({"classes": 2, "image_size": list(shape)}), cases)
        menders = Menders(cases, out, config)
        before, cpu, ended, seen = own_gib(), time.process_time(), threading.Event(), [0.0]

        def watch() -> None:
            while not ended.wait(0.02):
                seen.append(own_gib())

        watching = threading.Thread(target=watch)
        watching.start()
        networks: list[Any] = [Alike(config)] * menders.count
        held = look_at_pairs(cases, menders, networks, out, ALONE, show_progress=False)
        after = own_gib()
        ended.set()
        watching.join()
        assert held.measured
    taken = {"cpu_seconds": time.process_time() - cpu, "own_gib_before": before, "own_gib_peak": max(seen), "own_gib_held": after}
    return {name: round(value, 2) for name, value in taken.items()}


def mend_cts(pairs: int, shape: tuple[int, int, int]) -> pd.DataFrame:
    """Return what a whole mending of one noisy mask from so many pairs takes, by menders that hardly learn."""
    with TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        write_cases(data, pairs + 1, shape, every=1, noisy=True)
        (data / "clean" / "0000.nii.gz").unlink()  # the noisy mask that is to be mended
        spacing = ("--set", "spacing=[4,4,4]", "--set", "image_size=[64,64,64]")
        taken = run("mend", data, "--out", out, "--quiet", *spacing, "--set", "epochs=1", "--set", "updates_per_epoch=4")
        written = sorted(path.relative_to(out).as_posix() for path in out.rglob("0000.nii.gz"))
        assert "mended/0000.nii.gz" in written, written
    return pd.DataFrame([{"pairs": pairs, "voxels": "x".join(map(str, reversed(shape))), **taken}])


if __name__ == "__main__":
    main()
