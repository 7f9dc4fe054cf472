"""Training by several processes under torchrun, against one.

    python benchmarks/ranks.py speed --out results/ranks
    sudo python benchmarks/ranks.py machines --out results/ranks

`speed`: images per second of `trust` and `plain`, `unet-small`, by one process with one thread, by one with two, and by two with one
thread each, in turns; and what each is to the first of its round (medians). What counts is the time from the end of the first epoch to the
end of the last.

`machines`: two network namespaces with an address each, joined by a virtual cable, stand for two machines; torchrun in each, a process
under each, the commands of docs/how-to/several-machines.md. Its last weights are compared with those of one process.

Both on made-up lesions with triangles for masks. A table goes to OUT under the name of its command, and the machine to environment.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.noise.simulate import simulate
from pixeltrust.training.run_writer import describe_environment

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = ["-m", "pixeltrust.cli", "train"]
CELLS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
METHODS = ("trust", "plain")
MACHINES = {"pixeltrust-a": "10.77.0.1", "pixeltrust-b": "10.77.0.2"}
PORT = 29500


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("speed", "machines"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="unet-small")
    arguments = parser.parse_args(words)
    settings = {"model": arguments.model, "image_size": arguments.size, "epochs": arguments.epochs, "val_fraction": 0, "device": "cpu"}
    with TemporaryDirectory() as scratch:
        data = lesions(Path(scratch), arguments.cases, arguments.size)
        if arguments.command == "speed":
            table = speed(data, Path(scratch), settings, arguments.rounds)
        else:
            table = machines(data, Path(scratch), settings)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / f"{arguments.command}.csv", index=False)
    record = {name: value for name, value in describe_environment().items() if name != "command"}
    (arguments.out / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table.to_string(index=False))


def lesions(folder: Path, cases: int, size: int) -> Path:
    """Make a data folder in which a fifth of the training cases are clean."""
    write_source(folder / "source", cases=cases, size=size, show_progress=False)
    simulate(folder / "source", folder / "data", noise="triangle", clean=cases * 3 // 20, show_progress=False)
    return folder / "data"


def training(data: Path, out: Path, settings: dict[str, object], method: str) -> list[str]:
    """Return the arguments of pixeltrust."""
    chosen = {**settings, "method": method}
    return [*TRAIN, str(data), "--out", str(out), "--quiet", *(f"--set={name}={value}" for name, value in chosen.items())]


def speed(data: Path, scratch: Path, settings: dict[str, object], rounds: int) -> pd.DataFrame:
    """Return a row per method and cell: medians over the rounds."""
    rows = []
    for number in range(rounds):
        for method in METHODS:
            for processes, threads in CELLS:
                run = scratch / f"{method}-{processes}-{threads}-{number}"
                launcher = [*TORCHRUN, "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else [sys.executable]
                words = [*launcher, *training(data, run, settings, method)]
                subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
                cell = {"method": method, "processes": processes, "threads": threads}
                rows.append(cell | {"round": number, "images_per_second": images_per_second(run)})
    table = pd.DataFrame(rows)
    first = table.groupby(["method", "round"])["images_per_second"].transform("first")
    table["ratio"] = table["images_per_second"] / first
    medians = table.groupby(["method", "processes", "threads"], sort=False)[["images_per_second", "ratio"]].median()
    return medians.round({"images_per_second": 1, "ratio": 2}).reset_index()


def images_per_second(run: Path) -> float:
    """After the first epoch."""
    history = pd.read_csv(run / "history.csv")
    images = torch.load(run / "checkpoint.pt", weights_only=True)["images"]
    updates, seconds = (history[name].iloc[-1] - history[name].iloc[0] for name in ("update", "seconds"))
    return images * updates / history["update"].iloc[-1] / seconds


def machines(data: Path, scratch: Path, settings: dict[str, object]) -> pd.DataFrame:
    """Return a row per method: how far the weights of two machines are from those of one process."""
    rows = []
    for method in METHODS:
        alone, together = scratch / f"{method}-alone", scratch / f"{method}-together"
        subprocess.run([sys.executable, *training(data, alone, settings, method)], check=True, capture_output=True)
        endpoint = f"--rdzv-endpoint={next(iter(MACHINES.values()))}:{PORT}"
        words = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", endpoint]
        with namespaces():
            agents = [
                subprocess.Popen(
                    ["ip", "netns", "exec", name, *words, *here_of(number, address), *training(data, together, settings, method)],
                    env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"},
                )
                for number, (name, address) in enumerate(MACHINES.items())
            ]
            if any([agent.wait() for agent in agents]):
                raise SystemExit("torchrun failed in a namespace")
        here, there = (torch.load(run / "model.pt", weights_only=True)["model"] for run in (alone, together))
        largest = max(float((here[name] - there[name]).abs().max()) for name in here)
        updates = torch.load(together / "checkpoint.pt", weights_only=True)["update"]
        rows.append({"method": method, "machines": len(MACHINES), "updates": updates, "largest_difference": f"{largest:.1e}"})
    return pd.DataFrame(rows)


def here_of(number: int, address: str) -> list[str]:
    """Return the settings that differ between machines; torchrun looks at host names to find the endpoint, and these have none."""
    return [f"--local-addr={address}", f"--rdzv-conf=is_host={int(number == 0)}"]


@contextmanager
def namespaces() -> Iterator[None]:
    """Two, with a virtual cable between them."""
    first, second = MACHINES
    try:
        for name in MACHINES:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for name, address in MACHINES.items():
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in MACHINES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    main()
