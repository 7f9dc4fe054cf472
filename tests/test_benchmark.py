"""Grids that run, stop, fail and go on; what a cell keeps; what weights do to pixels that are truly wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pixeltrust.benchmarking import run as run_module
from pixeltrust.benchmarking.cell_masks import SourceMasks
from pixeltrust.benchmarking.cells import measure_wrong_pixels, try_cell, write_json
from pixeltrust.benchmarking.grid import Cell, Grid
from pixeltrust.benchmarking.jobs import Local, launcher_of
from pixeltrust.benchmarking.outcome.reading import read_json_record
from pixeltrust.benchmarking.run import benchmark
from pixeltrust.config import read_config
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train
from waiting import TOO_LONG, wait_for

pytestmark = pytest.mark.usefixtures("no_figures")  # test_benchmark_outcome has them
HERE = Path(__file__).parent
TINY = {
    "model": "tiny:network",
    "image_size": 16,
    "batch_size": 4,
    "clean_batch_size": 3,
    "epochs": 2,
    "weight_map_cases": 2,
    "device": "cpu",
}


class Here:
    """A launcher that runs the cells in this process, one after the other, and knows which."""

    jobs = 1

    def __init__(self):
        self.ran = []

    def __call__(self, folder):
        self.ran.append(folder.name)
        return try_cell(folder)

    def stop(self):
        pass


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """14 training and 6 test cases with known truth."""
    folder = tmp_path_factory.mktemp("made") / "source"
    write_source(folder, cases=20, size=32, test_share=0.3, seed=0, show_progress=False)
    return folder


@pytest.fixture(autouse=True)
def networks_of_the_tests(monkeypatch):
    """Processes find `tiny:network` too."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


def grid(**axes):
    settings = {**TINY, **axes.pop("settings", {})}
    return Grid(**{"methods": ("plain", "pixel"), "noise": ("triangle",), "clean": (4,), "seeds": (0,), "settings": settings, **axes})


def done(source, out, launcher=None, **axes):
    return benchmark(source, out=out, grid=grid(**axes), launcher=launcher or Here(), show_progress=False)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A benchmark of every kind of masks, run to its end."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return done(source, out, methods=("plain", "image", "pixel", "ceiling"), seeds=(0, 1))


# What is kept


def test_every_cell_has_its_row_with_what_was_measured(finished):
    table = pd.read_csv(finished.out / "cells.csv")
    assert table.columns[:7].tolist() == ["method", "noise", "clean", "seed", "dice", "seconds", "status"]
    assert table["status"].tolist() == ["done"] * 8
    assert table["updates"].tolist() == [2 * 3] * 8  # 10 noisy cases in batches of 4
    for row in table.itertuples():
        cases = pd.read_csv(finished.out / "cells" / f"{row.method}-triangle-4-{row.seed}" / "test.csv")
        assert len(cases) == 6
        assert row.dice == pytest.approx(cases["dice"].mean())
    assert (table["seconds"] > 0).all()
    assert "8 cells done" in str(finished)


def test_a_cell_keeps_its_settings_its_clean_cases_and_its_history(finished):
    folder = finished.out / "cells" / "pixel-triangle-4-1"
    config = read_config(folder / "run" / "config.toml")
    assert (config.method, config.seed, config.image_size) == ("pixel", 1, 16)
    cases = Run(folder / "run").read_table("cases.csv")
    assert (cases["role"] == "clean").sum() == 4
    assert len(pd.read_csv(folder / "run" / "history.csv")) == 2
    assert len(list((folder / "predicted").glob("*.png"))) == 6
    assert not (folder / "run" / "checkpoint.pt").exists()
    assert read_json_record(folder / "cell.json")["method"] == "pixel"


def test_all_methods_of_a_seed_start_from_the_same_clean_cases(finished):
    for seed in (0, 1):
        folders = finished.out.glob(f"cells/*-{seed}")
        clean = [Run(folder / "run").read_table("cases.csv").query("role == 'clean'")["id"].tolist() for folder in folders]
        assert len(clean) == 4
        assert all(ids == clean[0] for ids in clean)


def test_the_ceiling_is_plain_training_on_the_true_masks(finished, source):
    cases = Run(finished.out / "cells" / "ceiling-triangle-4-0" / "run").read_table("cases.csv")
    assert {Path(mask).parent for mask in cases["mask"]} == {source / "masks"}
    assert read_config(finished.out / "cells" / "ceiling-triangle-4-0" / "run" / "config.toml").method == "plain"


# What the weights do


def test_the_weight_of_wrong_pixels_by_hand():
    masks = torch.tensor([[[1, 1, 0, 255]], [[0, 0, 1, 1]]])
    truth = torch.tensor([[[1, 0, 0, 0]], [[1, 0, 1, 255]]])  # wrong: the second of the first, the first of the second
    weights = torch.tensor([[[0.3, 0.1, 0.0, 0.9]], [[0.0, 0.2, 0.4, 0.5]]])
    shares = measure_wrong_pixels(weights, masks, truth)
    assert shares["wrong_pixels"] == pytest.approx(2 / 6)
    assert shares["wrong_weight"] == pytest.approx(0.1 / 1.0)
    assert shares["wrong_weighed"] == pytest.approx(1 / 2)
    assert shares["right_weighed"] == pytest.approx(3 / 4)


def test_without_any_weight_wrong_pixels_have_no_share_of_it():
    shares = measure_wrong_pixels(torch.zeros(1, 2, 2), torch.ones(1, 2, 2).long(), torch.zeros(1, 2, 2).long())
    assert shares["wrong_weight"].isnan()
    assert shares["wrong_weighed"] == 0


@pytest.mark.parametrize("method", ["pixel", "image"])
def test_steps_that_weigh_pixels_tell_how_they_weigh_wrong_ones(finished, source, method):
    """The share of wrong pixels is that of the noisy masks, taken from the files; over an epoch every noisy case is seen once."""
    folder = finished.out / "cells" / f"{method}-triangle-4-0"
    steps = pd.read_csv(folder / "run" / "steps.csv")
    assert steps[["wrong_weight", "wrong_weighed", "right_weighed"]].apply(lambda values: values.between(0, 1)).all(axis=None)
    cases = Run(folder / "run").read_table("cases.csv").query("role == 'noisy'")
    small = lambda path: np.asarray(Image.open(path).convert("L").resize((16, 16), Image.Resampling.BILINEAR)) > 127  # noqa: E731
    wrong = [(small(row.mask) != small(source / "masks" / f"{row.id}.png")).mean() for row in cases.itertuples()]
    seen = np.average(steps["wrong_pixels"][:3], weights=[4, 4, 2])
    assert seen == pytest.approx(np.mean(wrong), abs=0.01)
    assert "wrong_weight" in pd.read_csv(folder / "run" / "history.csv")


def test_watching_the_weights_changes_nothing_that_is_learned(finished, tmp_path):
    from pixeltrust.training.train import train

    folder = finished.out / "cells" / "pixel-triangle-4-0"
    config = read_config(folder / "run" / "config.toml")
    train(folder / "cases.csv", out=tmp_path / "run", config=config, show_progress=False)
    one, other = (Run(run).read_state("model.pt")["model"] for run in (tmp_path / "run", folder / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# Going on


def test_what_is_finished_is_not_run_again_and_axes_may_grow(source, tmp_path):
    first = Here()
    done(source, tmp_path / "out", first, methods=("plain",))
    assert first.ran == ["plain-triangle-4-0"]
    second = Here()
    result = done(source, tmp_path / "out", second, methods=("clean", "plain"), seeds=(0, 2))
    assert second.ran == ["clean-triangle-4-0", "clean-triangle-4-2", "plain-triangle-4-2"]
    assert result.cells["status"].tolist() == ["done"] * 4


def test_other_settings_or_another_source_in_the_same_folder_are_refused(source, tmp_path):
    done(source, tmp_path / "out", methods=("plain",))
    with pytest.raises(RunError, match=r"was started with another settings = .*'epochs': 2.*, now .*'epochs': 3"):
        done(source, tmp_path / "out", methods=("plain",), settings={"epochs": 3})


def test_a_folder_of_earlier_versions_held_a_fifth_of_the_clean_cases_out(source, tmp_path):
    out = tmp_path / "out"
    done(source, out, methods=("plain",))
    record = json.loads((out / "benchmark.json").read_text())
    assert record["settings"].pop("val_fraction") == 0
    (out / "benchmark.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"another settings = .*'val_fraction': 0.2.*, now .*'val_fraction': 0.0"):
        done(source, out, methods=("plain",))
    again = Here()
    done(source, out, again, methods=("plain",), settings={**record["settings"], "val_fraction": 0.2})
    assert again.ran == []


def test_a_folder_with_something_else_in_it_is_refused_and_not_touched(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="has something in it that is not a benchmark"):
        done(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_grid_that_cannot_run_leaves_no_folder(source, tmp_path):
    with pytest.raises(Exception, match="99 clean cases"):
        done(source, tmp_path / "out", clean=(99,))
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_work_on_one_benchmark(source, tmp_path):
    with (
        run_module.claim_folder(tmp_path / "out", source, grid()),
        pytest.raises(RunError, match="another process works on this benchmark"),
    ):
        done(source, tmp_path / "out")


# What fails


def test_a_cell_that_fails_is_told_of_and_does_not_stop_the_others(source, tmp_path):
    variants = {"broken": {"method": "plain", "model": "tiny:two_logits"}}
    result = done(source, tmp_path / "out", methods=("broken", "plain"), variants=variants)
    table = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert table["status"].tolist() == ["failed", "done"]
    assert "classes = 1 needs logits (1, 1, 16, 16)" in table["error"][0]
    assert "broken, triangle, 4 clean, seed 0 failed: " in str(result)
    assert "1 failed (the same command tries them again)" in str(result)
    again = Here()
    done(source, tmp_path / "out", again, methods=("broken", "plain"), variants=variants)
    assert again.ran == ["broken-triangle-4-0"]


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_of_and_does_not_stop_the_others(source, tmp_path):
    variants = {"fatal": {"method": "plain", "model": "tiny:fatal"}}
    result = done(source, tmp_path / "out", Local(2), methods=("fatal", "plain"), variants=variants)
    assert result.cells["status"].tolist() == ["failed", "done"]
    assert result.cells["error"][0] == "its process was killed (SIGKILL): out of memory?"


def test_an_unknown_place_and_a_wrong_number_of_jobs_are_refused():
    with pytest.raises(ConfigError, match="--on must be local or ray, not 'moon'"):
        launcher_of("moon", None)
    with pytest.raises(ConfigError, match="--jobs must be 1 or more, not 0"):
        launcher_of("local", 0)


# Killed and continued


COMMAND = [sys.executable, "-m", "pixeltrust.cli", "benchmark"]


def started(source, out, seeds=(0, 1)):
    """The command line as a process of its own."""
    words = [f"--set={name}={value}" for name, value in {**TINY, "epochs": 40}.items()]
    axes = [f"--set=seeds={list(seeds)}", '--set=methods=["plain", "pixel"]', "--set=clean=[4]"]
    return subprocess.Popen([*COMMAND, str(source), "--out", str(out), "--jobs=2", *axes, *words], stderr=subprocess.PIPE, text=True)


def run_to_its_end(source, out):
    process = started(source, out)
    _, error = process.communicate()
    assert process.returncode == 0, error


def results(out):
    table = pd.read_csv(out / "cells.csv")
    return table.drop(columns=["seconds", "cpu_seconds"])


@pytest.mark.slow
def test_a_grid_killed_three_times_gives_the_same_table_as_one_that_nothing_disturbed(source, tmp_path):
    run_to_its_end(source, tmp_path / "straight")
    for file in ("run/config.toml", "run/checkpoint.pt", "cell.json"):
        process = started(source, tmp_path / "killed")
        wait_for(lambda file=file: list((tmp_path / "killed" / "cells").glob(f"*/{file}")), process)
        process.kill()
        process.communicate()
    run_to_its_end(source, tmp_path / "killed")
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "straight"), check_exact=True)
    for name in ("plain-triangle-4-0", "pixel-triangle-4-1"):
        one, other = (Run(tmp_path / where / "cells" / name / "run").read_state("model.pt")["model"] for where in ("killed", "straight"))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_ctrl_c_stops_the_cells_after_their_update_and_says_so(source, tmp_path):
    process = started(source, tmp_path / "out")
    wait_for(lambda: list((tmp_path / "out" / "cells").glob("*/run/checkpoint.pt")), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=TOO_LONG)
    assert process.returncode == 130
    assert error.strip().startswith("stopped at benchmark ")
    assert "what is finished is kept" in error
    begun = [folder for folder in (tmp_path / "out" / "cells").iterdir() if (folder / "run" / "config.toml").exists()]
    assert any((folder / "run" / "checkpoint.pt").exists() or (folder / "cell.json").exists() for folder in begun)
    assert not any((folder / "failed.json").exists() for folder in begun)


# Mending

MENDER = {"model": "tiny:network", "image_size": 16, "epochs": 1, "updates_per_epoch": 10, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def mended(source, tmp_path_factory):
    """A benchmark with cells whose masks are mended, run to its end."""
    out = tmp_path_factory.mktemp("mended") / "out"
    done(source, out, methods=("plain", "mended", "mended+finetuned"), clean=(6,), mender=MENDER)
    return out


@pytest.mark.slow
def test_a_network_is_trained_on_mended_masks_whose_quality_is_told_beside_the_estimate(mended):
    folder = mended / "cells" / "mended-triangle-6-0"
    record, estimate = read_json_record(folder / "cell.json"), read_json_record(folder / "mended" / "estimate.json")
    assert (record["way"], record["changed"], record["expected"]) == (estimate["way"], estimate["changed"], estimate["expected"]["dice"])
    assert estimate["pairs"] == 6
    noisy = Run(folder / "run").read_table("cases.csv").query("role == 'noisy'")
    assert {Path(mask).parent for mask in noisy["mask"]} == {(folder / "mended").resolve() / "mended"}
    simulated = pd.read_csv(mended / "noise" / "triangle-0" / "simulation.csv", dtype={"id": str}).set_index("id")["dice"]
    masks = pd.read_csv(folder / "masks.csv", dtype={"id": str}).set_index("id")
    assert sorted(masks.index) == sorted(noisy["id"])
    assert masks["given"].to_numpy() == pytest.approx(simulated[masks.index], abs=1e-4)
    assert (record["masks_given"], record["masks_mended"]) == (pytest.approx(masks["given"].mean()), pytest.approx(masks["mended"].mean()))
    listed = pd.read_csv(folder / "mended" / "cases.csv", dtype={"id": str}).set_index("id")
    assert masks["expected"].to_dict() == listed["expected"].to_dict()
    table = pd.read_csv(mended / "cells.csv").set_index("method")
    assert table["masks_mended"].isna().to_dict() == {"plain": True, "mended": False, "mended+finetuned": False}


@pytest.mark.slow
def test_cells_of_the_same_cases_share_a_mending_and_each_counts_its_time(mended):
    (shared,) = (mended / "mendings").iterdir()
    assert shared.name.startswith("triangle-6-0-")
    took = read_json_record(shared / "mending.json")
    for method in ("mended", "mended+finetuned"):
        folder = mended / "cells" / f"{method}-triangle-6-0"
        assert (folder / "mended").resolve() == (shared / "mended").resolve()
        assert not (folder / "mended").readlink().is_absolute()  # the benchmark may be moved
        record = read_json_record(folder / "cell.json")
        assert record["seconds"] > took["seconds"]
        assert record["cpu_seconds"] > took["cpu_seconds"]
    trained = [
        read_config(mended / "cells" / f"{method}-triangle-6-0" / "run" / "config.toml") for method in ("mended", "mended+finetuned")
    ]
    assert [config.method for config in trained] == ["plain", "finetuned"]


@pytest.mark.slow
def test_menders_have_the_settings_of_the_grid_and_of_the_cell(mended):
    folder = mended / "cells" / "mended-triangle-6-0"
    mender = read_config(folder / "mended" / "menders" / "1" / "config.toml")
    assert (mender.method, mender.model, mender.updates_per_epoch, mender.device) == ("mender", "tiny:network", 10, "cpu")


@pytest.mark.slow
def test_a_mending_that_was_stopped_goes_on_and_the_seconds_of_all_its_goes_count(mended, tmp_path, monkeypatch):
    folder = tmp_path / "cells" / "mended-triangle-6-0"
    shutil.copytree(mended / "cells" / folder.name, folder, symlinks=True, ignore=shutil.ignore_patterns("run", "mended", "cell.json"))
    (shared,) = (tmp_path / "mendings" / each.name for each in (mended / "mendings").iterdir())
    shared.mkdir(parents=True)
    write_json(shared / "mending.json", {"seconds": 1000.0, "cpu_seconds": 2000.0})  # of an earlier go
    trained = []

    def train_but_stop(data, *, out, **options):
        trained.append(out.name)
        if trained == ["1", "2"]:
            raise KeyboardInterrupt
        return train(data, out=out, **options)

    monkeypatch.setattr("pixeltrust.mending.menders.train", train_but_stop)
    with pytest.raises(KeyboardInterrupt):
        try_cell(folder)
    before = read_json_record(shared / "mending.json")
    assert before["seconds"] > 1000
    assert before["cpu_seconds"] > 2000
    first = shared / "mended" / ".mending" / "next" / "menders" / "1" / "history.csv"
    made = first.stat().st_mtime_ns
    assert try_cell(folder) is None
    assert (folder / "mended" / "menders" / "1" / "history.csv").stat().st_mtime_ns == made
    record, took = read_json_record(folder / "cell.json"), read_json_record(shared / "mending.json")
    assert record["seconds"] > took["seconds"] > before["seconds"]
    assert record["cpu_seconds"] > took["cpu_seconds"] > before["cpu_seconds"]
    assert record["masks_mended"] == read_json_record(mended / "cells" / folder.name / "cell.json")["masks_mended"]


# Pruning and Ray


@pytest.mark.slow
def test_pruning_ignores_pixels_that_contradict_networks_that_never_saw_them(source, tmp_path):
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    out = tmp_path / "out"
    settings = {"epochs": 40, "learning_rate": 1e-2}
    result = done(source, out, methods=("pruned",), noise=("erode",), settings=settings)
    assert result.cells["status"].tolist() == ["done"]
    folder = out / "cells" / "pruned-erode-4-0"
    cases = pd.read_csv(folder / "cases.csv", dtype={"id": str})
    ignored = {
        row.id: np.asarray(Image.open(folder / "pruned" / f"{row.id}.png")) == 255 for row in cases.query("role != 'test'").itertuples()
    }
    clean = set(cases.query("role == 'clean'")["id"])
    assert not any(ignored[one].any() for one in clean)
    assert any(mask.any() for one, mask in ignored.items() if one not in clean)
    assert read_config(folder / "run" / "config.toml").ignore_label == 255
    table = read_json_record(folder / "cell.json")
    assert table["seconds"] > float(pd.read_csv(folder / "run" / "history.csv")["seconds"].iloc[-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:An input array is constant")  # so short a training sees nothing in any image
def test_an_audit_is_measured_beside_its_rivals_on_the_cells_of_a_grid(source, tmp_path, monkeypatch):
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    import audit_quality

    done(source, tmp_path / "out", methods=("trust",), noise=("erode",))
    cell, work, file = tmp_path / "out" / "cells" / "trust-erode-4-0", tmp_path / "work", tmp_path / "quality.csv"
    words = [str(cell), str(work), str(file), "--ways"]
    audit_quality.main([*words, *audit_quality.WAYS])
    table = pd.read_csv(file).set_index("way")
    assert list(table.index) == ["audit", "disagreement", "loss", "cleanlab"]
    assert table["auroc"].between(0, 1).all()
    assert table["dice"].drop("loss").between(0, 1).all()
    assert set(table["noise"]) == {"erode"}
    made = {one: one.stat().st_mtime_ns for one in work.rglob("*") if one.is_file() and one.name != "cases.csv"}
    audit_quality.main([*words, *audit_quality.WAYS])  # what was made is found, and no row is there twice
    assert {one: one.stat().st_mtime_ns for one in made} == made
    pd.testing.assert_frame_equal(pd.read_csv(file).set_index("way"), table)


@pytest.mark.slow
def test_the_whole_way_is_walked_and_measured_and_goes_on_where_it_stopped(source, tmp_path, capfd):
    import whole_way

    words = [str(source), str(tmp_path / "out"), "--noise", "erode", "--clean", "4", "--results", str(tmp_path / "walk.csv")]
    words += ["--set", "model=unet-small", "image_size=16", "epochs=1", "batch_size=4"]
    whole_way.main(words)
    table = pd.read_csv(tmp_path / "walk.csv")
    assert list(table["stage"].unique()) == list(whole_way.STAGES)
    given = pd.read_csv(tmp_path / "out" / "lesions" / "simulation.csv").set_index("id")["dice"]
    of_given = table.query("stage == 'given masks'").set_index("id")["dice"]
    assert np.abs(of_given - given.reindex(of_given.index)).max() < 1e-4  # as the simulation measured them
    assert table["dice"].between(0, 1).all()
    capfd.readouterr()
    whole_way.main(words)
    assert "pixeltrust" not in capfd.readouterr().out  # no command was run again


def test_pruning_without_cleanlab_names_the_extra(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    result = done(source, tmp_path / "out", methods=("pruned",))
    assert result.cells["error"][0] == "methods: 'pruned' needs cleanlab: install the extra, pip install 'pixeltrust[rivals]'"


def test_ray_without_ray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'pixeltrust\[ray\]'"):
        launcher_of("ray", None)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_grid_on_ray_gives_the_same_table(source, tmp_path, finished):
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra is [ray]")
    variants = {"broken": {"method": "plain", "model": "tiny:two_logits"}}
    try:
        result = done(source, tmp_path / "out", launcher_of("ray", 2), methods=("plain", "broken"), variants=variants)
    finally:
        ray.shutdown()
    assert result.cells["status"].tolist() == ["done", "failed"]
    assert "classes = 1 needs logits" in result.cells["error"][1]
    assert result.cells["dice"][0] == finished.cells.query("method == 'plain' and seed == 0")["dice"].item()


def test_a_cell_names_its_folder():
    assert Cell(method="pixel+clean", noise="axes-3", clean=10, seed=2).name == "pixel+clean-axes-3-10-2"
    assert Cell(method="plain", noise="given", clean=10, seed=0, fold=3).name == "plain-given-10-0-fold3"


def test_the_record_of_a_benchmark_is_readable(finished, source):
    record = json.loads((finished.out / "benchmark.json").read_text())
    assert record["source"] == str(source)
    assert record["grid"]["methods"] == ["plain", "image", "pixel", "ceiling"]
    assert SourceMasks(source, finished.out, show_progress=False).knows_truth
