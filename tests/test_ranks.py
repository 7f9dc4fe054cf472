"""n processes with a part of each batch do what one process does with all of it: trained here by torchrun, in float64."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from joined_runs import run, use
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.method.trust import Trust
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.processes import Ranks
from tiny import draw, draw_volumes
from waiting import TOO_LONG

TESTS = Path(__file__).parent
CLOSE = {"rtol": 0, "atol": 1e-10}  # sums of float64 in another order, over 21 updates
SETTINGS = {"model": "tiny:in_float64", "epochs": 4, "val_fraction": 0.7}
"""24 updates of 4 noisy images, 3 in every sixth, with 3 clean ones: one of 4 ranks has no clean image, and in every sixth no noisy one."""
METHODS_TRIED = ("trust", "pixel", "image", "plain", "joint", "finetuned", "dice-ce", "gce", "nr-dice", "t-loss", "mean-teacher")
JOBS = [{"name": method, "settings": SETTINGS | {"method": method}} for method in METHODS_TRIED] + [
    {"name": "nr-dice-of-3-classes", "settings": SETTINGS | {"method": "nr-dice", "classes": 3}},
    {"name": "pixel-by-sgd", "settings": SETTINGS | {"method": "pixel", "optimizer": "sgd", "learning_rate": 0.1, "clean_weight": 0.5}},
    {"name": "pixel-along", "settings": SETTINGS | {"method": "pixel", "along": "network.5"}},
    {"name": "trust-dice", "settings": SETTINGS | {"method": "trust", "loss": "dice-ce"}},
    {"name": "trust-jittered", "settings": SETTINGS | {"method": "trust", "jitter": "all"}},
    {"name": "trust-mapped", "settings": SETTINGS | {"method": "trust", "cache_gib": 0}},
]
ON = {2: [JOBS[0], *JOBS[len(METHODS_TRIED) :]], 4: [job for job in JOBS if job["name"] in (*METHODS_TRIED, "trust-dice")]}
"""What so many processes train: `trust` both."""
STOPPED = {"name": "stopped", "settings": SETTINGS | {"method": "trust"}}


def torchrun(processes, *arguments, **environment):
    """What torchrun gives, its processes finding this project's modules and the tests'."""
    paths = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TOO_LONG,
        check=False,
    )


def joined(processes, data, out, jobs):
    out.mkdir(exist_ok=True)
    ended = torchrun(processes, TESTS / "joined_runs.py", data, out, json.dumps(jobs))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """23 noisy cases, 14 clean ones of which 10 are held out, and ignored pixels, so that the counted ones differ from image to image.

    Beside it the same with two images and two masks that cannot be read.
    """
    folder = draw(tmp_path_factory.mktemp("ranks") / "data", noisy=23, clean=14, foreground=1)
    for number, path in enumerate(sorted([*(folder / "noisy").iterdir(), *(folder / "clean").iterdir()])):
        mask = np.array(Image.open(path))
        mask[: number % 5, :7] = 255
        Image.fromarray(mask).save(path)
    shutil.copytree(folder, folder.parent / "broken")
    for name in ("images/002", "images/003", "noisy/006", "noisy/007"):
        whole = (folder / f"{name}.png").read_bytes()
        (folder.parent / "broken" / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The trainings of one process; `stopped` after 8 updates."""
    out = tmp_path_factory.mktemp("alone")
    for job in JOBS:
        assert not run(data, out, job)
    assert run(data, out, STOPPED | {"stop_at": 8})
    (out / "rank-0.json").write_text(json.dumps({"faults": use(data, out, "trust")}))
    return out


@pytest.fixture(scope="module", params=[pytest.param(number, marks=pytest.mark.slow) for number in ON])
def together(request, data, alone, tmp_path_factory):
    """The trainings of ON, of 2 or of 4 processes; `stopped` too, and `continued` from where one process had stopped."""
    out = tmp_path_factory.mktemp("together")
    shutil.copytree(alone / "stopped", out / "continued")
    jobs = [ON[request.param][0] | {"used": True}, *ON[request.param][1:], STOPPED | {"stop_at": 8}, STOPPED | {"name": "continued"}]
    joined(request.param, data, out, jobs)
    assert [told(out, rank)["stopped"] for rank in range(request.param)] == [["stopped"]] * request.param  # though one alone had the signal
    return out


def told(out, rank):
    return json.loads((out / f"rank-{rank}.json").read_text())


def parts(folder, name="model.pt"):
    return torch.load(folder / name, weights_only=True)


def assert_alike(these, those):
    torch.testing.assert_close(parts(these)["model"], parts(those)["model"], **CLOSE)
    for table in ("steps.csv", "history.csv"):
        rows = [pd.read_csv(folder / table).filter(regex="^(?!seconds)").astype(float) for folder in (these, those)]
        pd.testing.assert_frame_equal(*rows, **CLOSE)


def of_ranks(*names):
    """The jobs of these names, or all, with the number of processes that train them."""
    pairs = [(number, job["name"]) for number, jobs in ON.items() for job in jobs]
    chosen = [pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs if not names or pair[1] in names]
    return pytest.mark.parametrize(("together", "name"), chosen, indirect=["together"], scope="module")


@of_ranks()
def test_ranks_train_as_one_process_does(together, alone, name):
    assert_alike(together / name, alone / name)
    memory = [parts(out / name, "checkpoint.pt")["memory"] for out in (together, alone)]
    trust = [kept.pop("trust._extra_state", None) for kept in memory]
    torch.testing.assert_close(*memory, **CLOSE)
    if trust[0] is not None:
        assert trust[0].keys() == trust[1].keys()
        assert all(trust[0][key] == trust[1][key] for key in ("format", "memory", "ids", "shapes"))
        assert torch.equal(trust[0]["pixels"], trust[1]["pixels"])
    images = [parts(out / name, "checkpoint.pt")["images"] for out in (together, alone)]
    assert images[0] == images[1]


@of_ranks("trust", "pixel", "image", "trust-mapped")
def test_every_visit_to_a_case_is_in_the_trust_of_every_rank(together, name):
    trust = Trust()
    trust.load_state_dict({"_extra_state": parts(together / name, "checkpoint.pt")["memory"]["trust._extra_state"]})
    visits = torch.stack([trust.visits(case) for case in trust.ids])
    assert visits.amax((1, 2)).tolist() == [4] * 23
    assert (visits == 4).double().mean() > 0.9  # not where a mask is ignored


@pytest.mark.slow
def test_two_processes_train_as_one_does(data, tmp_path):
    job = {"name": "trust", "settings": SETTINGS | {"method": "trust", "epochs": 1}}
    assert not run(data, tmp_path, job)
    assert_alike(joined(2, data, tmp_path / "together", [job]) / "trust", tmp_path / "trust")


@pytest.mark.slow
def test_two_processes_train_on_volumes_as_one_does(tmp_path):
    data = draw_volumes(tmp_path / "data", noisy=5, clean=4)
    volumes = {"model": "tiny:in_float64_3d", "classes": 3, "image_size": [8, 16, 16], "val_fraction": 0.0, "batch_size": 4}
    job = {"name": "trust", "settings": volumes | {"method": "trust", "jitter": "all", "clean_batch_size": 3}}
    run(data, tmp_path, job)
    assert_alike(joined(2, data, tmp_path / "together", [job]) / "trust", tmp_path / "trust")
    maps = [sorted((folder / "trust" / "helped").iterdir()) for folder in (tmp_path, tmp_path / "together")]
    assert [path.read_bytes() for path in maps[0]] == [path.read_bytes() for path in maps[1]]


def test_a_run_continues_with_any_number_of_processes(together, alone, data):
    assert_alike(together / "continued", alone / "trust")
    assert not run(data, together, STOPPED)
    assert_alike(together / "stopped", alone / "trust")


# --- what the network is used for ---------------------------------------------------------------------------------


def files_of(folder):
    return sorted(
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name not in ("report.html", "audit.json")
    )


@pytest.mark.parametrize("folder", ["predicted", "audit", "audit-by-files"])
def test_cases_are_shared_and_merged_in_order(together, alone, folder):
    names = files_of(alone / folder)
    assert files_of(together / folder) == names
    tables = [name for name in names if name.suffix == ".csv"]
    for name in tables:
        here, there = ((out / folder / name).read_text().replace(str(out), "OUT") for out in (together, alone))
        assert here == there
    pictures = [name for name in names if name.suffix == ".png"]
    assert filecmp.cmpfiles(together / folder, alone / folder, pictures, shallow=False)[0] == pictures


def test_faults_of_all_ranks_are_listed_in_order(together, alone):
    here, there = ([text.replace(str(out), "OUT") for text in told(out, 0)["faults"]] for out in (together, alone))
    assert here == there
    assert told(together, 1)["faults"] == told(together, 0)["faults"]
    assert [text.count(".png: ") for text in told(alone, 0)["faults"]] == [2, 4]


def test_what_stops_one_rank_is_told_beside_the_faults_of_another(monkeypatch):
    outcomes = [(None, RunError("out: cannot be written: the disk is full")), (None, DataError("1 fault", ["a.png: broken"]))]
    monkeypatch.setattr(Ranks, "all_gather_objects", lambda _ranks, _own: outcomes)
    with pytest.raises(DataError, match="1 fault") as told:
        Ranks(0, 2).gather_results(lambda: [])
    assert told.value.faults == ["out: cannot be written: the disk is full", "a.png: broken"]


@pytest.mark.slow
@pytest.mark.parametrize("match", ["updates", "time"])
def test_a_benchmarks_cells_are_shared(tmp_path, match):
    write_source(tmp_path / "source", cases=40, size=32, show_progress=False)
    settings = ["methods=['plain','pixel']", "seeds=[0,1]", "clean=[12]", "model=tiny:without_dropout", "image_size=32", "epochs=1"]
    settings += ["val_fraction=0", "device=cpu", f"match={match}"]
    words = [*(f"--set={setting}" for setting in settings), "--jobs", 1]
    ended = torchrun(2, "-m", "pixeltrust.cli", "benchmark", tmp_path / "source", "--out", tmp_path / "out", *words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("4 cells done") == 1
    assert pd.read_csv(tmp_path / "out" / "cells.csv")["status"].tolist() == ["done"] * 4
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "costs.json").is_file() == (match == "time")  # measured by the first


# --- faults -------------------------------------------------------------------------------------------------------


def command(data, out, **settings):
    """`train` as a person calls it."""
    chosen = {"image_size": 16, "batch_size": 4, "clean_batch_size": 3, "device": "cpu", **settings}
    return ["-m", "pixeltrust.cli", "train", data, "--out", out, *(f"--set={name}={value}" for name, value in chosen.items())]


@pytest.mark.slow
def test_a_fault_on_one_rank_ends_all_with_one_message(data, tmp_path):
    out = tmp_path / "run"
    ended = torchrun(2, *command(data, out, model="tiny:failing_on_one_rank"), TINY_FAILING_RANK="1")
    assert ended.returncode == 1
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert "out of memory in update 2" in message


def test_of_all_ranks_one_tells(together):
    assert sum(told(together, rank)["tells"] for rank in range(len(list(together.glob("rank-*.json"))))) == 1


# --- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10, 11])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_parts_follow_one_another_and_shares_merge(ranks, count):
    values = np.arange(count)
    cut = [Ranks(rank, ranks).part(values) for rank in range(ranks)]
    assert np.concatenate(cut).tolist() == values.tolist()
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert sorted(value for rank in range(ranks) for value in Ranks(rank, ranks).share(values)) == values.tolist()
