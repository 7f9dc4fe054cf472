"""The demo: the whole job in a folder, told as it came out, and continued where it was stopped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from pixeltrust.config import read_config
from pixeltrust.data.images import read_labels
from pixeltrust.demonstration import demo as demo_module
from pixeltrust.demonstration.demo import Demo, DemoRow, Plan, demo, demo_data
from pixeltrust.mending.estimate import read_estimate
from pixeltrust.metrics import bootstrap_interval
from pixeltrust.plumbing.errors import RunError
from pixeltrust.reports import report
from pixeltrust.training.run_folder import Run


def tiny_network(in_channels, out_channels):
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


pytestmark = pytest.mark.usefixtures("small_pictures")
SMALL = {"image_size": 16, "mender_updates": 3, "epochs": 1}
TOY = Plan(cases=24, test_share=0.25, pairs=6, size=32, model=f"{__name__}:tiny_network", **SMALL, seed=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixeltrust.pages.charts.to_svg", lambda figure: "<svg/>")  # test_report has them
        return out, demo(out, plan=TOY, show_progress=False)


def stamps(out):
    """When every file but the page was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "report.html"}


def test_the_whole_job_leaves_its_files(toy):
    out, _ = toy
    for name in (
        "source/split.csv",
        "data/simulation.json",
        "mended/estimate.json",
        "mended/report.html",
        "runs/given/model.pt",
        "runs/mended/model.pt",
        "report.html",
    ):
        assert (out / name).is_file(), name
    test = {path.name for path in (out / "data" / "test").iterdir()}
    assert len(test) == 6
    for masks in ("given", "mended"):
        assert {path.name for path in (out / "predictions" / masks).iterdir()} == test
        assert len(pd.read_csv(out / f"{masks}.csv")) == 6


def test_both_trainings_differ_in_nothing_but_the_noisy_masks(toy):
    out, _ = toy
    given, mended = (Run(out / "runs" / masks) for masks in ("given", "mended"))
    assert given.config() == mended.config()
    assert given.config().method == "plain"
    assert given.config().jitter == "all"
    updates = [run.read_table("history.csv")["update"].iloc[-1] for run in (given, mended)]
    assert updates[0] == updates[1] > 0
    before, after = (run.read_table("cases.csv").set_index("id").sort_index() for run in (given, mended))
    assert before["role"].equals(after["role"])
    noisy = before["role"] == "noisy"
    assert {Path(file).parent for file in before.loc[noisy, "mask"]} == {out / "data" / "noisy"}
    assert {Path(file).parent for file in after.loc[noisy, "mask"]} == {out / "mended" / "mended"}
    assert before.loc[~noisy, "mask"].tolist() == after.loc[~noisy, "mask"].tolist()


def test_menders_learn_from_the_pairs_alone(toy):
    out, _ = toy
    config = read_config(out / "mended" / "menders" / "1" / "config.toml")
    assert (config.method, config.image_size, config.seed) == ("mender", 16, 3)
    assert config.epochs * config.updates_per_epoch == 3
    clean = {path.stem for path in (out / "data" / "clean").iterdir()}
    assert len(clean) == 6
    assert set(pd.read_csv(out / "mended" / "pairs.csv", dtype={"id": str})["id"]) == clean


def test_summary_and_page_hold_the_numbers_of_the_tables(toy):
    out, found = toy
    page = (out / "report.html").read_text(encoding="utf-8")
    for row in found.rows:
        scores = pd.read_csv(out / f"{row.masks}.csv")["dice"]
        assert (row.dice, row.low, row.high) == (scores.mean(), *bootstrap_interval(scores.to_numpy()))
        assert f"{row.dice:.3f}" in str(found)
        assert f'<p class="value">{row.dice:.3f}</p>' in page
    assert str(out / "report.html") in str(found)


def test_masks_are_measured_against_the_truth_as_given_and_as_mended(toy):
    out, found = toy
    table = pd.read_csv(out / "masks.csv", dtype={"id": str}).set_index("id")
    noisy, clean = ({path.stem for path in (out / "data" / role).iterdir()} for role in ("noisy", "clean"))
    assert set(table.index) == noisy - clean
    assert clean < noisy
    for one, row in table.iterrows():
        true = read_labels(out / "source" / "masks" / f"{one}.png") > 0
        for name, folder in (("given", "data/noisy"), ("mended", "mended/mended")):
            mask = read_labels(out / folder / f"{one}.png") > 0
            assert row[name] == pytest.approx(2 * (mask & true).sum() / (mask.sum() + true.sum()))
    assert (found.given, found.mended) == (table["given"].mean(), table["mended"].mean())
    assert f"pixeltrust review {out / 'mended'}" in str(found)


def test_what_was_expected_stands_beside_the_truth(toy):
    out, found = toy
    assert found.estimate == read_estimate(out / "mended")
    page, summary = (out / "report.html").read_text(encoding="utf-8"), str(found)
    for true, told in ((found.given, found.estimate.ways["given"]), (found.mended, found.estimate.expected)):
        assert re.search(rf"{true:.3f} +{told.dice:.3f} \({told.low:.3f} … {told.high:.3f}\)", summary)
        assert f'<p class="value">{true:.3f}</p>' in page
        assert f"expected {told.dice:.3f} ({told.low:.3f} … {told.high:.3f})" in page
    table = pd.read_csv(out / "masks.csv", dtype={"id": str}).set_index("id")
    cases = pd.read_csv(out / "mended" / "cases.csv", dtype={"id": str}).set_index("id").loc[table.index]
    assert table["expected"].tolist() == pytest.approx(cases["expected"].tolist())


def test_the_data_alone_are_those_of_the_demo_which_goes_on_from_there(tmp_path, toy):
    def files(out):
        return {path.relative_to(out): path.read_bytes() for part in ("data", "source") for path in (out / part).rglob("*.*")}

    made = demo_data(tmp_path, plan=TOY, show_progress=False)
    assert files(tmp_path) == files(toy[0])
    assert {path.name for path in tmp_path.iterdir()} == {"data", "source", "demo.json"}
    assert str(made).startswith(f"the data folder is {tmp_path / 'data'}\n")
    before = stamps(toy[0])
    demo_data(toy[0], plan=TOY, show_progress=False)
    assert stamps(toy[0]) == before


@pytest.mark.slow
def test_a_finished_demo_is_not_done_again(toy):
    out, found = toy
    before = stamps(out)
    (out / "report.html").unlink()
    assert demo(out, plan=TOY, show_progress=False) == found
    assert stamps(out) == before
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_demo_stopped_in_training_goes_on_where_it_was(tmp_path, monkeypatch, toy):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(demo_module, "predict", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path, plan=TOY, show_progress=False)
    before = stamps(tmp_path)
    found = demo(tmp_path, plan=TOY, show_progress=False)
    kept = {path: stamp for path, stamp in stamps(tmp_path).items() if path.parts[-2] in ("given", "mended", "images") and path in before}
    assert kept
    assert all(before[path] == stamp for path, stamp in kept.items())
    assert [row.dice for row in found.rows] == [row.dice for row in toy[1].rows]


@pytest.mark.slow
def test_stages_are_announced_on_standard_error(toy, capsys):
    demo(toy[0], plan=TOY, show_progress=True)
    told = capsys.readouterr()
    assert re.findall(r"^(\d)/7 ", told.err, flags=re.MULTILINE) == list("1234567")
    assert "1/7 drawing 24 made-up images" in told.err
    assert told.out == ""


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="has something in it that is not a demo"):
        demo(tmp_path, plan=TOY, show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_of_other_settings_is_left_alone(toy):
    before = stamps(toy[0])
    with pytest.raises(RunError, match="with other settings"):
        demo(toy[0], plan=replace(TOY, epochs=2), show_progress=False)
    assert stamps(toy[0]) == before


@pytest.mark.parametrize("record", ["{", "[]", '{"format": 3}', '{"format": "3", "plan": {}, "finished": true}'])
def test_a_record_that_is_no_demos_is_refused(tmp_path, record):
    (tmp_path / "demo.json").write_text(record)
    with pytest.raises(RunError, match=r"demo\.json: cannot be read"):
        demo(tmp_path, plan=TOY, show_progress=False)


@pytest.mark.parametrize(("made", "version"), [(2, "an earlier"), (99, "a later")])
def test_a_demo_of_another_version_says_so(tmp_path, made, version):
    (tmp_path / "demo.json").write_text(json.dumps({"format": made, "plan": {"clean": 50}, "finished": True}))
    told = f"this demo was made by {version} version of pixeltrust, whose page this one cannot draw; choose another --out"
    with pytest.raises(RunError, match=told):
        demo(tmp_path, plan=TOY, show_progress=False)
    with pytest.raises(RunError, match=told):
        report(tmp_path)


def test_a_file_in_the_way_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RunError):
            demo(out, plan=TOY, show_progress=False)


def test_the_summary_is_plain_about_a_loss(tmp_path, toy):
    rows = (
        DemoRow(masks="given", dice=0.9, low=0.85, high=0.95, seconds=30),
        DemoRow(masks="mended", dice=0.8, low=0.7, high=0.9, seconds=100),
    )
    numbers = {"difference": -0.1, "difference_low": -0.15, "difference_high": -0.05, "given": 0.9, "mended": 0.8}
    text = str(Demo(rows=rows, **numbers, estimate=toy[1].estimate, folder=tmp_path, page=tmp_path))
    assert "-0.100 [-0.150 … -0.050]" in text
    lines = text.splitlines()
    assert len({len(line) for line in lines[4:7]}) == 1
