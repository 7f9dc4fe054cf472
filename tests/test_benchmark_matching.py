"""The same time for every method: epochs from what updates cost, worked by hand; measured once, and kept."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from pixeltrust.benchmarking import costs
from pixeltrust.benchmarking.cell_masks import SourceMasks
from pixeltrust.benchmarking.costs import one_long_epoch, phases_of
from pixeltrust.benchmarking.grid import Cell, Grid
from pixeltrust.benchmarking.jobs import Local, Workload
from pixeltrust.benchmarking.matching import add_methods, costs_of, match_time, trainings_of
from pixeltrust.benchmarking.question import question
from pixeltrust.config import Config
from pixeltrust.data.cases import read_cases
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.processes import ALONE
from test_benchmark import MENDER, TINY, Here, done, networks_of_the_tests, source  # noqa: F401  (fixtures)
from test_benchmark_question import SETTINGS
from tiny import draw

pytestmark = pytest.mark.usefixtures("no_figures")
NEW = {"unit": "processor", "base": "plain", "dearest": None, "epochs": None, "methods": {}}
MADE_UP = {"plain": 1.0, "clean": 0.5, "joint": 2.0, "pixel": 3.0, "trust": 4.0}


@pytest.fixture
def made_up_costs(monkeypatch):
    """Every training costs what its method's entry says; gives what was measured."""
    measured = []

    def seconds(folder, config):
        measured.append(config.method)
        return MADE_UP[config.method]

    monkeypatch.setattr(costs, "time_updates", seconds)
    return measured


def epochs_of(prices, *, record=NEW, noisy=100, beforehand=None, **configs):
    """The epochs of methods that cost so much, 10 for the dearest."""
    every = {method: configs.get(method, Config(epochs=10)) for method in prices}
    rounds = {method: list(price) if isinstance(price, tuple) else [price] for method, price in prices.items()}
    return add_methods(record, every, rounds, noisy, beforehand)


def numbers(out, value):
    return {method: numbers[value] for method, numbers in json.loads((out / "costs.json").read_text())["methods"].items()}


# Epochs


def test_a_method_that_costs_a_third_gets_three_times_the_epochs_and_the_dearest_keeps_the_grids():
    record = epochs_of({"plain": 0.2, "trust": 0.6, "joint": 0.4})
    assert {method: values["epochs"] for method, values in record["methods"].items()} == {"plain": 30, "trust": 10, "joint": 15}
    assert record["methods"]["plain"]["updates"] == 30 * 7  # 100 noisy cases in batches of 16
    assert (record["dearest"], record["epochs"]) == ("trust", 10)


def test_epochs_are_rounded_to_whole_ones_and_there_is_one_at_least():
    record = epochs_of({"plain": 0.3, "trust": 1.0}, trust=Config(epochs=2), plain=Config(epochs=2))
    assert record["methods"]["plain"]["epochs"] == 7  # 2 × 3.33
    later = epochs_of({"plain": 0.3, "enormous": 30.0}, record=record)
    assert later["methods"]["enormous"]["epochs"] == 1


def test_a_ratio_is_the_median_of_those_of_the_rounds_so_that_a_slow_round_changes_nothing():
    record = epochs_of({"plain": (1.0, 5.0, 1.0), "trust": (3.0, 15.0, 90.0)})
    assert record["methods"]["trust"]["ratio"] == 3
    assert record["methods"]["plain"]["epochs"] == 30


def test_what_counts_is_the_time_of_an_epoch_where_batches_differ():
    record = epochs_of({"plain": 1.0, "wide": 2.0}, noisy=96, wide=Config(epochs=10, batch_size=32))
    assert {method: values["epochs"] for method, values in record["methods"].items()} == {"plain": 10, "wide": 10}
    assert {method: values["updates"] for method, values in record["methods"].items()} == {"plain": 60, "wide": 30}


def test_a_method_that_comes_later_gets_the_time_that_was_fixed_even_if_it_is_dearer():
    first = epochs_of({"plain": 1.0, "pixel": 3.0})
    later = epochs_of({"plain": 2.0, "trust": 12.0, "clean": 2.0}, record=first)  # the machine is slower by now
    assert {method: values["epochs"] for method, values in later["methods"].items()} == {"plain": 30, "pixel": 10, "trust": 5, "clean": 30}
    assert later["dearest"] == "pixel"
    assert later["methods"]["plain"] == first["methods"]["plain"]


def test_a_mending_takes_its_seconds_from_the_time_of_the_training_after_it():
    one_epoch = 0.2 * 7  # seconds of plain
    record = epochs_of({"plain": 0.2, "mended": 0.2, "trust": 0.6}, beforehand={"mended": 12 * one_epoch})
    assert {method: values["epochs"] for method, values in record["methods"].items()} == {"plain": 30, "mended": 18, "trust": 10}
    assert record["dearest"] == "trust"
    alone = epochs_of({"plain": 0.2, "mended": 0.2}, beforehand={"mended": 12 * one_epoch})
    assert {method: values["epochs"] for method, values in alone["methods"].items()} == {"plain": 22, "mended": 10}
    assert alone["dearest"] == "mended"  # and a method that comes later has that time too
    assert epochs_of({"plain": 0.4, "joint": 0.8}, record=alone)["methods"]["joint"]["epochs"] == 11


def test_finetuned_is_a_mix_of_its_phases_and_pruned_trains_twice_as_much_beforehand():
    config = Config(method="finetuned", finetune_share=0.25)
    phases = {"finetuned": phases_of("finetuned", config), "plain": phases_of("plain", replace(config, method="plain"))}
    phases["pruned"] = phases_of("pruned", replace(config, method="plain"))
    assert list(trainings_of(phases)) == ["finetuned", "finetuned (clean)"]  # and that of the others is among them
    assert costs_of(phases, {"seconds": [[1.0, 2.0]]}) == {"finetuned": [1.25], "plain": [1.0], "pruned": [2.0]}


def test_an_epoch_lasts_as_long_as_the_measurement_with_any_number_of_cases():
    table = pd.DataFrame({"id": ["a", "b", "c"], "mask": ["A", "B", "C"], "role": ["noisy", "clean", "noisy"]})
    longer = one_long_epoch(table, 5)
    assert longer["id"].is_unique
    assert longer["mask"].tolist() == ["A", "C", "A", "C", "A", "B"]
    assert one_long_epoch(table, 1)["mask"].tolist() == ["A", "B"]


# In a benchmark


def test_cells_have_the_epochs_that_follow_and_tell_their_updates(source, tmp_path, made_up_costs):  # noqa: F811
    result = done(source, tmp_path / "out", methods=("plain", "finetuned", "pixel"), match="time")
    assert made_up_costs == ["plain", "clean", "pixel"] * costs.ROUNDS  # by turns
    assert numbers(tmp_path / "out", "epochs") == {"plain": 6, "finetuned": 7, "pixel": 2}  # 2 × 3 / (2/3 + .5/3) = 7.2
    assert result.cells["updates"].tolist() == [18, 21, 6]
    assert result.cells["match"].tolist() == ["time"] * 3
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["match"] == "time"
    steps = pd.read_csv(tmp_path / "out" / "cells" / "plain-triangle-4-0" / "run" / "steps.csv")
    assert steps["learning_rate"].iloc[-1] < 0.01 * steps["learning_rate"].iloc[0]  # the cosine spans the method's own updates


def test_a_whole_mending_is_measured_once(source, tmp_path, made_up_costs, monkeypatch):  # noqa: F811
    mended = []

    def seconds(folder, mender):
        mended.append((mender, read_cases(folder / "cases.csv", show_progress=False).pairs))
        return 4.5

    monkeypatch.setattr(costs, "time_mending", seconds)
    grid = Grid(methods=("plain", "mended", "pixel"), clean=(6,), mender={"epochs": 1}, match="time", settings={**TINY, "epochs": 9})
    masks = SourceMasks(source, tmp_path / "out", show_progress=False)
    work = Workload(
        cells=masks.complete(grid.filled(seeds=(0,))).cells(), grid=grid, masks=masks, out=tmp_path / "out", launcher=Here(), ranks=ALONE,
        show_progress=False,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    config_of = match_time(work)
    assert {cell.method: config_of(cell).epochs for cell in work.cells} == {"plain": 27, "mended": 25, "pixel": 9}  # 3 × 9 − 4.5 / 2
    ((mender, pairs),) = mended
    assert (mender.epochs, len(pairs)) == (1, 6)
    assert made_up_costs == ["plain", "pixel"] * costs.ROUNDS


def test_a_mending_is_really_measured_and_leaves_nothing(source, tmp_path):  # noqa: F811
    masks, cell = SourceMasks(source, tmp_path, show_progress=False), Cell(method="mended", noise="triangle", clean=6, seed=0)
    masks.prepare(cell)
    (tmp_path / "costs").mkdir()
    masks.table(cell).to_csv(tmp_path / "costs" / "cases.csv", index=False)
    grid = Grid(settings=TINY, mender=MENDER)
    assert costs.time_mending(tmp_path / "costs", grid.mender_config(grid.config(cell))) > 0
    assert not (tmp_path / "costs" / "mended").exists()


@pytest.mark.slow
def test_what_was_measured_is_kept_and_only_new_methods_are_measured(source, tmp_path, made_up_costs, monkeypatch):  # noqa: F811
    done(source, tmp_path / "out", methods=("plain", "pixel"), match="time")
    made_up_costs.clear()
    monkeypatch.setitem(MADE_UP, "pixel", 30.0)
    again = Here()
    done(source, tmp_path / "out", again, methods=("plain", "pixel"), match="time", seeds=(0, 1))
    assert made_up_costs == []
    assert again.ran == ["plain-triangle-4-1", "pixel-triangle-4-1"]
    done(source, tmp_path / "out", methods=("trust", "pixel"), match="time")
    assert made_up_costs == ["plain", "trust"] * costs.ROUNDS
    assert numbers(tmp_path / "out", "epochs") == {"plain": 6, "pixel": 2, "trust": 2}  # 2 × 3 / 4 = 1.5


def test_another_match_in_the_same_folder_is_refused_and_an_old_folder_matched_updates(source, tmp_path, made_up_costs):  # noqa: F811
    out = tmp_path / "out"
    done(source, out, methods=("plain",))
    record = json.loads((out / "benchmark.json").read_text())
    del record["match"]
    (out / "benchmark.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"was started with another match = 'updates', now 'time'"):
        done(source, out, methods=("plain",), match="time")
    assert done(source, out, methods=("plain",)).cells["match"].tolist() == ["updates"]
    assert made_up_costs == []


def test_a_method_that_cannot_be_measured_is_named_before_any_training(source, tmp_path):  # noqa: F811
    variants = {"broken": {"method": "plain", "model": "tiny:two_logits"}}
    launcher = Here()
    with pytest.raises(RunError, match=r"the cost of an update of broken cannot be measured: .*needs logits.* leave the method out"):
        done(source, tmp_path / "out", launcher, methods=("plain", "broken"), variants=variants, match="time")
    assert launcher.ran == ["costs"]
    assert done(source, tmp_path / "out", methods=("plain",), variants=variants, match="time").cells["status"].tolist() == ["done"]


def test_costs_that_cannot_be_read_are_named(source, tmp_path, made_up_costs):  # noqa: F811
    done(source, tmp_path / "out", methods=("plain",), match="time")
    for text in ("{", "[]", '{"methods": {}}', '{"methods": {"plain": {}}}'):
        (tmp_path / "out" / "costs.json").write_text(text)
        with pytest.raises(RunError, match=r"costs.json: cannot be read as the costs of a benchmark"):
            done(source, tmp_path / "out", methods=("plain",), match="time")
    assert made_up_costs


@pytest.mark.slow
def test_networks_are_really_measured_in_a_process_like_that_of_a_cell(source, tmp_path):  # noqa: F811
    methods = ("ceiling", "plain", "finetuned", "trust")
    result = done(source, tmp_path / "out", Local(1), methods=methods, match="time")
    assert result.cells["status"].tolist() == ["done"] * 4
    record = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert record["unit"] == "processor"
    assert record["base"] == "plain"
    assert set(record["methods"]) == set(methods)
    assert record["methods"]["plain"]["ratio"] == record["methods"]["ceiling"]["ratio"] == 1
    assert all(numbers["seconds"] > 0 for numbers in record["methods"].values())
    assert record["methods"][record["dearest"]]["epochs"] == 2
    assert result.cells["updates"].tolist() == [record["methods"][method]["updates"] for method in methods]
    assert not (tmp_path / "out" / "costs").exists()


@pytest.mark.slow
def test_a_question_can_be_asked_at_equal_time_too(tmp_path, made_up_costs):
    data = draw(tmp_path / "data", noisy=8, clean=12, test=0)
    grid = Grid(methods=("plain", "joint"), match="time", settings={**SETTINGS, "epochs": 2})
    assert question(data, out=tmp_path / "out", grid=grid, launcher=Here(), show_progress=False).cases == 12
    assert numbers(tmp_path / "out", "epochs") == {"plain": 4, "joint": 2}
    assert set(made_up_costs) == {"plain", "joint"}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"match": "money"}, "match must be updates or time, not 'money'"),
        ({"match": "time", "variants": {"mine": {"method": "plain", "epochs": 3}}}, "variants.mine: epochs follow from match = 'time'"),
    ],
)
def test_a_match_that_cannot_be_is_refused(axes, said):
    with pytest.raises(ConfigError, match=said):
        Grid(methods=("plain",), **axes)
