"""The scripts of the laboratory run, at toy size, and their figures are of the right kind. (No test says how fast anything is.)"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import framework_cost
import gpu
import keep_results
import kinds
import measuring
import review_speed
import step
import trust_cost
import trust_search
from pixeltrust import Batch
from pixeltrust.benchmarking.grid import read_grid
from reference import NETWORKS, seeded
from test_benchmark_outcome import write_benchmark

TINY = ["--networks", "kinds:tiny", "--sizes", "16", "--shapes", "2+3", "--device", "cpu", "--rounds", "2", "--warm-updates", "2"]


@pytest.mark.slow
def test_every_kind_of_step_is_measured_and_in_the_table(tmp_path):
    step.main([*TINY, "--out", str(tmp_path)])
    (record,) = json.loads((tmp_path / "cells.json").read_text())
    assert record["failures"] == {}
    assert list(record["seconds"]) == list(record["cpu_seconds"]) == list(record["peak_mib"]) == list(kinds.KINDS)
    assert all(len(times) == 2 and min(times) > 0 for times in record["seconds"].values())
    assert step.ratios(record, "both") == [1, 1]
    assert json.loads((tmp_path / "environment.json").read_text())["cpu"]
    table = (tmp_path / "table.md").read_text()
    assert "kinds:tiny, 16x16, 2+3, fp32" in table
    assert all(f"| `{kind}` |" in table for kind in kinds.KINDS)


@pytest.mark.slow
def test_a_cell_is_measured_again_only_when_asked(tmp_path):
    words = [*TINY, "--out", str(tmp_path), "--kinds", "plain"]
    step.main(words)
    first = (tmp_path / "cells.json").read_text()
    step.main(words)
    assert (tmp_path / "cells.json").read_text() == first
    step.main([*words, "--again"])
    assert (tmp_path / "cells.json").read_text() != first
    step.main([*words, "--sizes", "24"])
    assert [record["size"] for record in json.loads((tmp_path / "cells.json").read_text())] == [16, 24]


@pytest.mark.parametrize(  # what rounding leaves of a cosine, and to spare
    ("precision", "far"), [pytest.param("fp64", 1e-12, marks=pytest.mark.slow), ("fp32", 1e-4)]
)
def test_all_exact_kinds_have_the_weights_of_the_textbook(precision, far):
    cell = kinds.Cell(network="kinds:tiny", size=16, noisy=2, clean=2, precision=precision)
    record = measuring.measure(cell, rounds=1, warm_rounds=0, memory=False)
    assert record["reference"] == "float64"
    for kind in ("exact", "exact-unfused", "torch-duals", "two-reverse", "differentiated"):
        assert record["agreement"][kind]["cosine"] > 1 - far, kind
        assert record["agreement"][kind]["same_sign"] > 0.99, kind
    assert set(record["agreement"]) == {"exact", "exact-unfused", "torch-duals", "two-reverse", "differentiated", "finite-difference"}


@pytest.mark.slow
@pytest.mark.parametrize("some", [("plain", "both", "exact", "finite-difference"), tuple(kinds.KINDS)])
def test_what_fails_is_said_in_a_word_and_the_rest_is_measured(some):
    refused = measuring.measure(kinds.Cell(network="kinds:tiny", size=16, precision="bf16"), kinds=some, rounds=1, memory=False)
    assert refused["failures"]["finite-difference"]["word"] == "refused"
    assert "refused" in step.table([refused])
    assert set(some) - set(refused["seconds"]) == {"finite-difference"}
    no_forward_mode = measuring.measure(kinds.Cell(network="tiny:without_forward_mode", size=16), kinds=some, rounds=1, memory=False)
    assert no_forward_mode["failures"]["exact"]["word"] == "no forward mode"
    assert {"plain", "both", "finite-difference"} <= set(no_forward_mode["seconds"])


def test_a_process_that_dies_takes_only_its_kind_with_it():
    with pytest.raises(measuring.Failure) as failure:
        measuring._in_fresh_process(sys.exit, 3)
    assert failure.value.word == "died"


def test_the_textbook_step_leaves_modules_that_are_registered_twice_as_they_were():
    network = seeded(NETWORKS["dyn-unet"], 2, 1, dtype=torch.float32)
    before = [(name, id(p)) for name, p in network.named_parameters(remove_duplicate=False)]
    noisy, clean = (Batch(torch.randn(1, 1, 16, 16), torch.randint(0, 2, (1, 16, 16))) for _ in range(2))
    kinds.differentiated(network, noisy, clean)
    assert [(name, id(p)) for name, p in network.named_parameters(remove_duplicate=False)] == before
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
def test_the_gpu_benchmark_runs_as_a_toy(tmp_path, capsys):
    gpu.main(["--toy", "--device", "cpu", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["method"] for row in results["training"]] == ["pixel", "plain", "joint", "pixel"]
    assert all(row["images_a_second"] > 0 for row in results["training"])
    assert results["training"][0]["papers_training_minutes"] > 0
    assert [row["kind"] for row in results["share"]["rows"]] == ["plain", "both", "exact"]
    flop = {row["kind"]: row["flop"] for row in results["share"]["rows"]}
    assert flop["both"] == 2 * flop["plain"]
    assert 1 < flop["exact"] / flop["both"] < 8 / 6  # less, for the images have no tangent
    assert [row["variant"] for row in results["variants"]] == ["as it is", "channels last"]
    assert len(results["steps"]) == 1
    assert "images/s" in capsys.readouterr().out


def test_the_gpu_benchmark_says_what_its_budget_had_no_room_for(tmp_path, capsys):
    gpu.main(["--toy", "--device", "cpu", "--out", str(tmp_path), "--budget-seconds", "0"])
    assert capsys.readouterr().out.count("not measured") == len(gpu.PARTS)


@pytest.mark.slow
def test_the_benchmark_of_the_review_runs_as_a_toy(tmp_path, capsys):
    review_speed.main(["--cases", "60", "--size", "32", "--requests", "4", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "review.json").read_text())
    assert (record["cases"], record["number"]) == (60, 4)
    assert all(0 < found["median"] <= found["p99"] for found in record["requests"].values())
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_trust_is_measured_in_a_toy(tmp_path, capsys, monkeypatch):
    words = ["--size", "16", "16", "--rounds", "2", "--out", str(tmp_path / "cost.csv")]
    monkeypatch.setattr(sys, "argv", ["trust_cost.py", *words])
    monkeypatch.setattr(trust_cost, "CASES", 20)
    trust_cost.main()
    assert "16 + 16 images of 16x16" in capsys.readouterr().out
    assert len((tmp_path / "cost.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the frameworks' own
def test_the_cost_in_every_framework_is_measured_in_a_toy(tmp_path, capsys, monkeypatch):
    for framework in ("lightning", "ignite", "accelerate"):
        pytest.importorskip(framework, reason=f"{framework} is not installed")
    words = ["--model", "unet-tiny", "--size", "16", "16", "--batch", "1", "--steps", "2", "--rounds", "1", "--out"]
    monkeypatch.setattr(sys, "argv", ["framework_cost.py", *words, str(tmp_path / "cost.csv")])
    framework_cost.main()
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if " s a step" in line] == list(framework_cost.LOOPS)
    assert len((tmp_path / "cost.csv").read_text().splitlines()) == 5


VARIANTS = ["pixel", "trust:power=3,jitter=all", "trust:split=True,smooth=5", "finetuned:jitter=clean"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_search_for_trust_runs_as_a_toy(variant, monkeypatch):
    for name, value in {"DEVELOPMENT": 4, "NOISY": 8, "BATCH": 4, "EPOCHS": 3, "SIDE": 16}.items():
        monkeypatch.setattr(trust_search, name, value)
    draws = np.random.default_rng(0)
    side = trust_search.SIDE
    data = {name: draws.integers(0, 2, (20, side, side), np.uint8) for name in ("truth", "noisy")}
    data["images"] = draws.integers(0, 256, (20, 3, side, side), np.uint8)
    epochs = list(trust_search.Search(data, trust_search.variant_of(variant), clean=6, seed=0).train())
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert all(0 <= epoch["dice"] <= 1 for epoch in epochs)


ROOT = Path(__file__).parents[1]
LABORATORY = ("benchmarks", "experiments", "tests/reliability", "docs/make")


@pytest.mark.parametrize("name", sorted(file.stem for folder in LABORATORY for file in (ROOT / folder).glob("*.py")))
def test_every_script_of_the_laboratory_fits_the_library(name):
    if name in ("website", "docstrings"):
        pytest.importorskip("mkdocs", reason="`make docs` has an environment of its own")
    importlib.import_module(name)


@pytest.mark.parametrize("script", sorted((ROOT / "experiments").glob("*.sh")), ids=lambda script: script.stem)
def test_the_script_of_a_table_is_on_the_page_and_runs_grids_and_keeps_results_that_are_there(script, tmp_path):
    for program in ("pixeltrust", "python"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run([script, "SOURCE", "OUT", "--jobs", "2"], env=environment, capture_output=True, text=True, check=True).stdout
    grids, kept = re.findall(r"^pixeltrust benchmark SOURCE --config (\S+)", ran, re.M), re.findall(r"^python (\S+) (\S+)", ran, re.M)
    assert len(grids) == len(kept) == ran.count("--jobs 2") > 0
    assert all(read_grid(Path(grid)).methods for grid in grids)
    assert all(Path(program).is_file() and (Path(folder) / "cells.csv").is_file() for program, folder in kept)
    assert f"\n    experiments/{script.name} SOURCE OUT\n" in (ROOT / "docs/results.md").read_text(encoding="utf-8")


def test_results_that_are_kept_grow_by_what_is_finished_and_stand_for_every_noise_they_did_not_see():
    columns = ["method", "noise", "clean", "seed", "status", "dice", "jaccard", "seconds", "updates", "cpu_seconds"]
    rows = [("clean", "box", 0), ("trust", "box", 0), ("trust", "axes", 0), ("trust", "axes", 1)]
    cells = pd.DataFrame([(*row[:2], 100, row[2], "done", 0.5, 0.4, 9, 9, 9) for row in rows], columns=columns)
    kept = cells.assign(status=["done", "done", "not run", "not run"])
    assert list(keep_results.with_cells(kept, cells.drop(index=3))["status"]) == ["done", "done", "done", "not run"]
    assert keep_results.with_cells(kept, cells.assign(status="not run"))["status"].eq(kept["status"]).all()
    cases = pd.DataFrame([(*row[:2], 100, row[2], one, 0.5 + 0.1 * row[2], 0.4) for row in rows for one in "ab"])
    cases.columns = ["method", "noise", "clean", "seed", "id", "dice", "jaccard"]
    summary = keep_results.summary_of(cells, cases).set_index(["noise", "method"])
    assert list(summary.index) == [("box", "clean"), ("box", "trust"), ("axes", "clean"), ("axes", "trust")]
    assert summary.loc[("axes", "trust"), ["seeds", "dice", "rival"]].tolist() == [2, pytest.approx(0.55), "clean"]
    assert summary.loc[("axes", "clean"), "dice"] == summary.loc[("box", "clean"), "dice"]


def test_every_mask_of_a_finished_mending_is_kept(tmp_path):
    rows = [("mended", 0, "done"), ("mended", 1, "failed"), ("plain", 0, "done")]
    cells = pd.DataFrame(
        [(method, "box", 10, seed, status, tmp_path / f"{method}-{seed}") for method, seed, status in rows],
        columns=["method", "noise", "clean", "seed", "status", "folder"],
    )
    for folder in cells["folder"]:
        folder.mkdir()
        if folder.name.startswith("mended"):
            (folder / "masks.csv").write_text("id,given,mended,expected\n007,0.5,0.9,0.8\n")
    kept = keep_results.mended_masks(cells)
    assert kept.to_dict("records") == [
        {"method": "mended", "noise": "box", "clean": 10, "seed": 0, "id": "007", "given": 0.5, "mended": 0.9, "expected": 0.8}
    ]
    assert not len(keep_results.mended_masks(cells[cells["method"] == "plain"]))


def test_results_at_equal_time_are_not_kept_among_those_of_equal_updates(tmp_path, monkeypatch, capsys):
    for match in ("updates", "time"):
        folder = write_benchmark(tmp_path / match)
        record = json.loads((folder / "benchmark.json").read_text())
        (folder / "benchmark.json").write_text(json.dumps({**record, "match": match}))
    (tmp_path / "time" / "costs.json").write_text("{}")

    def keep(where, match):
        monkeypatch.setattr(sys, "argv", ["keep_results.py", str(tmp_path / where), str(tmp_path / match)])
        keep_results.main()

    keep("kept", "updates")
    with pytest.raises(SystemExit, match=r"has match = 'time', .*kept has 'updates': choose another folder"):
        keep("kept", "time")
    keep("kept-time", "time")
    assert (tmp_path / "kept-time" / "costs-time.json").exists()
    assert set(pd.read_csv(tmp_path / "kept-time" / "summary.csv")["match"]) == {"time"}
    assert "**All methods have the same time**" in (tmp_path / "kept-time" / "tables.md").read_text()


@pytest.mark.slow
def test_what_volumes_cost_is_measured_in_a_toy(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "volumes.py"
    for words in (
        ["check", "--cases", "20"],
        ["predict", "--shape", "20", "24", "28", "--settings", "same"],
        ["predict", "--shape", "20", "24", "28", "--settings", "same, probabilities"],
        ["train", "--sizes", "16", "--epochs", "1", "2"],
        ["trust", "--cases", "3", "--shape", "100", "100", "100"],
    ):
        subprocess.run([sys.executable, script, *words, "--out", tmp_path], check=True, capture_output=True)
    tables = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in ("check", "predict", "train", "trust")}
    assert {name: len(table) for name, table in tables.items()} == {"check": 2, "predict": 2, "train": 3, "trust": 2}
    assert (tables["predict"]["peak_gib"] > 0).all()
    assert tables["trust"]["gib_of_trust"].tolist() == [0.01, 0.01]
