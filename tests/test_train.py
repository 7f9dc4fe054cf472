"""Training: the number of updates, to-the-bit continuation after any stop, what chooses and what never does, that each setting counts."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import tiny
from pixeltrust.config import Config, to_toml
from pixeltrust.data import batches as data_module
from pixeltrust.data import fitting
from pixeltrust.data.batches import Streams, smallest_batch
from pixeltrust.data.cases import Case, read_cases
from pixeltrust.data.masks import decode_labels
from pixeltrust.data.prefetch import Prefetcher
from pixeltrust.data.resizing import resize_labels
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import pixel_weights
from pixeltrust.method_table import METHODS
from pixeltrust.metrics import confusion, dice
from pixeltrust.plumbing import progress as progress_module
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.training import display as display_module
from pixeltrust.training import loop as loop_module
from pixeltrust.training import train as train_module
from pixeltrust.training import weight_maps as weight_maps_module
from pixeltrust.training.helped_maps import has_helped_maps, read_helped_map
from pixeltrust.training.history import PARTS
from pixeltrust.training.methods import ByTrust, StepOutcome, pixel, step_of
from pixeltrust.training.model_card import FILL_IN, model_card
from pixeltrust.training.optimizers import build_optimizer
from pixeltrust.training.page import run_page
from pixeltrust.training.run_folder import Run
from pixeltrust.training.run_writer import RunWriter
from pixeltrust.training.train import train
from pixeltrust.training.warning_signs import MANY, Idle, warning_signs
from pixeltrust.training.weight_maps import map_epochs
from tiny import acting_at, configured, draw
from waiting import TOO_LONG

SCHEDULES = ("cosine", "constant", "step")
SIZES = [(4, 3), (5, 2), (16, 1)]  # of a batch, and how many of them the 10 noisy images fill
ON_THE_POOL = ("plain", "dice-ce", "gce", "mae", "sce", "nr-dice", "t-loss")
UPDATES = 9  # of `configured()`: 3 epochs of 4, 4 and 2 noisy images
FILES = {"README.md", "config.toml", "environment.json", "cases.csv", "history.csv", "steps.csv", "checkpoint.pt", "best.pt", "model.pt"}
HOURS = 1e4  # in seconds
HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("small_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Settings to the folder of a run of them that nothing stopped; each is trained once."""
    root, done = tmp_path_factory.mktemp("straight"), {}

    def run(**settings):
        key = to_toml(configured(**settings))
        if key not in done:
            done[key] = root / str(len(done))
            trained(data, done[key], **settings)
        return done[key]

    return run


def trained(data, out, *, resume=False, **settings):
    return train(data, out=out, config=configured(**settings), resume=resume, show_progress=False)


def state_of(run, name="model.pt"):
    return Run(run).read_state(name)["model"]


def same_weights(one, other, name="model.pt"):
    one, other = state_of(one, name), state_of(other, name)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def history(run):
    table = pd.read_csv(run / "history.csv")
    return table.drop(columns=[name for name in table if name.startswith("seconds")])


def assert_same_run(one, other, *, apart_from=frozenset()):
    """Bitwise the same, but for the seconds, and for files that one of them need not have."""
    assert same_weights(one, other)
    pd.testing.assert_frame_equal(history(one), history(other), check_exact=True)
    for name in ("steps.csv", "config.toml", "cases.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert {path.name for path in one.iterdir()} - apart_from == {path.name for path in other.iterdir()} - apart_from
    for path in (one / "helped").glob("*"):
        assert path.read_bytes() == (other / "helped" / path.name).read_bytes()
    if (one / "best.pt").exists():
        assert same_weights(one, other, "best.pt")
    if (one / "weight_maps.npz").exists():
        maps, others = Run(one).weight_maps(), Run(other).weight_maps()
        assert all(np.array_equal(maps[name], others[name]) for name in maps)


def at_update(monkeypatch, number, act):
    """Call `act` in the middle of update `number` of this process."""
    monkeypatch.setattr(train_module, "build_step", acting_at(number, act, train_module.build_step))


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def interrupted(data, out, update, resume=False, **settings):
    """Train, with Ctrl-C in the middle of an update (counted from where this sitting begins)."""
    with pytest.MonkeyPatch.context() as patch:
        at_update(patch, update, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            trained(data, out, resume=resume, **settings)


OF_EACH_KIND = ("plain", "clean", "mender", "finetuned", "trust", "mean-teacher")
"""Methods of every kind of batches."""


def slow_but_for(one, *quick):
    """The marks of a case that is in the quick lane where it is one of these."""
    return () if one in quick else pytest.mark.slow


def quick(*methods):
    """All methods, these of them in the quick lane."""
    return [pytest.param(method, marks=slow_but_for(method, *methods)) for method in METHODS]


def streams_of(method):
    """What its steps ask for."""
    if method in ON_THE_POOL:
        return ["pool"]
    return {"clean": ["clean"], "mender": ["pairs"], "finetuned": ["pool", "clean"]}.get(method, ["noisy", "clean"])


# How many updates, of what


@pytest.mark.parametrize(
    ("method", "batch_size", "per_epoch"),
    [pytest.param(method, *size, marks=slow_but_for(method, *OF_EACH_KIND)) for method, size in zip(METHODS, cycle(SIZES))],
)
def test_every_method_makes_as_many_updates_as_noisy_batches_fill_the_epochs_and_asks_for_its_streams(
    data, tmp_path, monkeypatch, method, batch_size, per_epoch
):
    asked, batch = set(), Streams.batch
    monkeypatch.setattr(Streams, "batch", lambda self, stream, *rest: asked.add(stream) or batch(self, stream, *rest))
    done = trained(data, tmp_path / "run", method=method, batch_size=batch_size, epochs=2, weight_map_cases=0)
    assert asked == set(METHODS[method].streams)
    assert done.updates == 2 * per_epoch
    assert history(tmp_path / "run")["update"].tolist() == [per_epoch, 2 * per_epoch]
    assert len(pd.read_csv(tmp_path / "run" / "steps.csv")) == 2 * per_epoch
    pool, first = 2 * per_epoch * batch_size, round(2 / 3 * 2 * per_epoch)
    in_stream = {"noisy": 2 * 10, "clean": 2 * per_epoch * 3, "pairs": 2 * per_epoch * 3, "pool": pool}
    finetuned = first * batch_size + (2 * per_epoch - first) * 3
    assert done.images == (finetuned if method == "finetuned" else sum(in_stream[stream] for stream in streams_of(method)))


def test_an_update_is_the_optimisers_step_along_the_methods_gradient(data, tmp_path, monkeypatch):
    seen = {}

    def looking(model, feed, config):
        batch = feed.pool()
        seen["before"] = {name: p.detach().clone() for name, p in model.named_parameters()}
        logits = model(batch.images)[:, 0]
        losses = F.binary_cross_entropy_with_logits(logits, batch.masks.float())
        losses.backward()
        seen["gradients"] = {name: p.grad.clone() for name, p in model.named_parameters()}
        return StepOutcome(loss=float(losses.detach()))

    monkeypatch.setattr(train_module, "build_step", lambda *_: looking)
    sgd = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 0.3, "epochs": 1, "batch_size": 16}
    trained(data, tmp_path / "run", method="plain", **sgd)
    for name, value in state_of(tmp_path / "run").items():
        gradient = seen["gradients"][name.removeprefix("module.")]
        torch.testing.assert_close(value, seen["before"][name] - 0.3 * gradient)


def test_the_learning_rate_follows_its_schedule(straight):
    rates = {name: pd.read_csv(straight(method="plain", schedule=name) / "steps.csv")["learning_rate"].to_numpy() for name in SCHEDULES}
    np.testing.assert_allclose(rates["cosine"], 1e-3 * (1 + np.cos(np.pi * np.arange(UPDATES) / UPDATES)) / 2)
    np.testing.assert_allclose(rates["constant"], 1e-3)
    np.testing.assert_allclose(rates["step"], np.repeat([1e-3, 1e-4, 1e-5], 3))


def test_another_step_than_the_methods_can_be_given(data, straight, tmp_path):
    seen = []

    def clean_twice(model, feed, config):
        seen.append((len(feed.clean().images), config))
        return step_of("clean")(model, feed, config)

    out = tmp_path / "run"
    done = train(data, out=out, config=configured(method="plain"), method=clean_twice, show_progress=False)
    assert seen == [(3, configured(method="plain"))] * UPDATES
    assert done.images == 3 * UPDATES  # a batch that is asked for twice is made once
    assert same_weights(out, straight(method="clean"))
    assert Run(out).config().method == "plain"


def test_a_step_of_ones_own_that_takes_gains_has_what_pixel_has(data, straight, tmp_path):
    def mine(model, feed, config):
        return pixel(model, feed, config)

    mine.takes_gains = mine.weighs_pixels = True
    mine.streams = ("noisy", "clean")
    settings = {"epochs": 1, "clean_batch_size": 1}
    with pytest.raises(ConfigError, match="batch of one image"):
        train(
            data,
            out=tmp_path / "one",
            config=configured(method="plain", model="tiny:pooling", **settings),
            method=mine,
            show_progress=False,
        )
    config = configured(method="plain", model="tiny:without_forward_mode", epochs=1)
    with pytest.raises(ConfigError, match="a step that takes gains cannot weigh pixels"):
        train(data, out=tmp_path / "none", config=config, method=mine, show_progress=False)
    train(data, out=tmp_path / "run", config=configured(method="plain"), method=mine, show_progress=False)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in straight(method="pixel").iterdir()}
    maps, others = Run(tmp_path / "run").weight_maps(), Run(straight(method="pixel")).weight_maps()
    assert all(np.array_equal(maps[name], others[name]) for name in maps)
    for path in (tmp_path / "run" / "helped").iterdir():
        assert path.read_bytes() == (straight(method="pixel") / "helped" / path.name).read_bytes()


def test_a_step_of_ones_own_may_keep_its_own_trust_and_weights(data, tmp_path):
    pixels = SimpleNamespace(gib=0, cases=read_cases(data).of("noisy"), shapes=[(16, 16)] * 10)
    step = ByTrust(
        tiny.network(in_channels=3, out_channels=1),
        configured(),
        SimpleNamespace(noisy=range(10), clean=range(3), pixels=pixels, cache=None),
    )
    step.takes_gains = step.weighs_pixels = True
    train(data, out=tmp_path / "run", config=configured(method="plain", epochs=1, clean_weight=1.0), method=step, show_progress=False)
    trained(data, tmp_path / "trust", method="trust", epochs=1)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in (tmp_path / "trust").iterdir()}
    maps = [Run(tmp_path / name).weight_maps()["maps"] for name in ("run", "trust")]
    assert maps[0].shape == maps[1].shape


def test_a_step_may_report_tensors_and_the_tables_hold_numbers(data, straight, tmp_path):
    def reporting(model, feed, config):
        numbers = pixel(model, feed, config).numbers()
        kinds = {bool: torch.bool, float: torch.float64}
        return StepOutcome(**{name: torch.tensor(value, dtype=kinds[type(value)]) for name, value in numbers.items()})

    reporting.weighs_pixels = True
    train(data, out=tmp_path / "run", config=configured(method="pixel"), method=reporting, show_progress=False)
    assert_same_run(tmp_path / "run", straight(method="pixel"), apart_from={"helped"})


# Continuing


REMEMBERING = ("trust", "mean-teacher", "t-loss", "finetuned")
"""Methods that have something of their own to continue with."""


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        pytest.param(method, schedule, marks=() if method in REMEMBERING else pytest.mark.slow)
        for method, schedule in zip(METHODS, cycle(SCHEDULES))
    ],
)
def test_a_run_stopped_by_ctrl_c_twice_continues_to_the_bit(data, straight, tmp_path, method, schedule):
    settings = {"method": method, "schedule": schedule}
    out = tmp_path / "run"
    interrupted(data, out, 2, **settings)
    assert Run(out).read_state("checkpoint.pt")["update"] == len(pd.read_csv(out / "steps.csv")) == 2
    assert not (out / "model.pt").exists()
    interrupted(data, out, 4, resume=True, **settings)
    done = trained(data, out, resume=True, **settings)
    assert done.updates == UPDATES
    assert "continued after update 6" in str(done)
    assert_same_run(out, straight(**settings))


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_every_other_optimiser_continues_to_the_bit(data, straight, tmp_path, optimizer):
    settings = {"method": "plain", "optimizer": optimizer}
    interrupted(data, tmp_path / "run", 5, **settings)
    trained(data, tmp_path / "run", resume=True, **settings)
    assert_same_run(tmp_path / "run", straight(**settings))


def test_ctrl_c_in_the_last_update_changes_nothing(data, straight, tmp_path, monkeypatch):
    at_update(monkeypatch, UPDATES, press_ctrl_c)
    trained(data, tmp_path / "run", method="plain")
    assert_same_run(tmp_path / "run", straight(method="plain"))


def test_a_second_ctrl_c_breaks_off_at_once_and_the_run_continues(data, straight, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_update(patch, 5, lambda: (press_ctrl_c(), press_ctrl_c()))
        with pytest.raises(KeyboardInterrupt):
            trained(data, tmp_path / "run", method="plain")
    assert Run(tmp_path / "run").read_state("checkpoint.pt")["update"] == 3
    trained(data, tmp_path / "run", resume=True, method="plain")
    assert_same_run(tmp_path / "run", straight(method="plain"))


def test_ctrl_c_works_as_before_when_training_has_ended(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    interrupted(data, tmp_path / "run", 1, method="plain")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("cache_gib", [0.0, 4.0])
def test_ctrl_c_while_decoding_leaves_no_run_folder(data, tmp_path, monkeypatch, cache_gib):
    def pressed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(data_module.CaseCache, "decode", pressed)
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "run", cache_gib=cache_gib)
    # Cases in a mapped file are decoded when first asked for: by then the run has begun.
    assert (tmp_path / "run").exists() == (cache_gib == 0)
    assert not (tmp_path / "run" / ".cache").exists()


KILLS = [
    *[(method, ["update", number]) for method in ("plain", "pixel") for number in (1, 5)],
    ("pixel", ["half", "checkpoint.pt", 1]),
    ("pixel", ["half", "checkpoint.pt", 2]),
    ("pixel", ["before", "checkpoint.pt", 3]),
    ("plain", ["after", "checkpoint.pt", 2]),
    ("plain", ["half", "best.pt", 1]),
    ("pixel", ["half", "weight_maps.npz", 2]),
    ("plain", ["after", "history.csv", 3]),
    ("pixel", ["half", "steps.csv", 1]),
    ("pixel", ["half", "steps.csv", 2]),
    ("t-loss", ["after", "steps.csv", 2]),
    ("plain", ["half", "config.toml", 1]),
    ("plain", ["after", "environment.json", 1]),
    ("plain", ["after", "config.toml", 1]),
    ("pixel", ["half", "model.pt", 1]),
    ("plain", ["after", "model.pt", 1]),
    ("mean-teacher", ["update", 5]),
    ("mean-teacher", ["half", "checkpoint.pt", 2]),
    ("t-loss", ["update", 5]),
    *[("pixel", ["seconds", seconds]) for seconds in np.random.default_rng(0).uniform(0.02, 0.4, 3).round(3).tolist()],
]


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """Runs that were killed up to twice at the moments of KILLS, as (folder, deaths) by the number of the moment."""
    root = tmp_path_factory.mktemp("killed")
    moments = [
        {"name": str(number), "settings": {"method": method, "checkpoint_minutes": 0.0 if number % 2 else 5.0}, "at": at}
        for number, (method, at) in enumerate(KILLS)
    ]
    command = [sys.executable, str(HERE / "killed_runs.py"), str(data), str(root), json.dumps(moments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG, check=False)
    assert ended.returncode == 0, ended.stderr
    deaths = {line["name"]: line["deaths"] for line in map(json.loads, ended.stdout.splitlines())}
    return [(root / moment["name"], deaths[moment["name"]], moment["settings"]) for moment in moments]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed runs are forked")
@pytest.mark.parametrize("number", range(len(KILLS)), ids=[f"{method} {' '.join(map(str, at))}" for method, at in KILLS])
def test_a_run_killed_at_any_moment_continues_to_the_bit(data, straight, killed, number):
    out, deaths, settings = killed[number]
    assert deaths >= 1 or KILLS[number][1][0] == "seconds"
    trained(data, out, resume=True, **settings)
    for unfinished in out.glob(".*.unfinished"):  # of a file that is not written again
        unfinished.unlink()
    assert_same_run(out, straight(**settings))


def command_line(*arguments, **environment):
    command = [sys.executable, "-m", "pixeltrust.cli", "train", *map(str, arguments)]
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG, env=environment, check=False)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_exits_with_130_and_resume_finishes(data, tmp_path, straight):
    settings = {"method": "pixel", "model": "tiny:signalling"}
    (tmp_path / "settings.toml").write_text(to_toml(configured(**settings)))
    arguments = [data, "--out", tmp_path / "run", "--config", tmp_path / "settings.toml", "--quiet"]
    stopped = command_line(*arguments, TINY_SIGINT_AT="9")
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.startswith("stopped")
    assert stopped.stderr.splitlines()[1].endswith("--quiet --resume")
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "run" / "model.pt").exists()
    trained(data, tmp_path / "run", resume=True, **settings)
    assert_same_run(tmp_path / "run", straight(**settings))


def test_a_finished_run_is_resumed_by_saying_so(data, straight, tmp_path):
    shutil.copytree(straight(method="plain"), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    done = trained(tmp_path / "data that is gone", tmp_path / "run", resume=True, method="plain")
    assert "finished already" in str(done)
    assert done.updates == UPDATES
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "settings", "a cache", "tables"])
def test_resume_without_a_checkpoint_starts_over(data, straight, tmp_path, left):
    out = tmp_path / "run"
    if left != "nothing":
        out.mkdir()
    if left == "settings":
        (out / "config.toml").write_text(to_toml(configured(method="plain")))
    if left == "a cache":
        (out / ".cache").mkdir()
        (out / ".cache" / "images.uint8").write_bytes(b"half")
    if left == "tables":
        shutil.copy(straight(method="plain") / "cases.csv", out)
    assert "continued" not in str(trained(data, out, resume=True, method="plain"))
    assert_same_run(out, straight(method="plain"))


def test_a_run_ends_with_a_model_card_of_what_is_known_and_what_is_to_be_filled_in(data, straight, tmp_path):
    card = (straight(method="plain") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: other\n")
    counts = read_cases(data, show_progress=False)
    assert f"`{data.name}`: {len(counts.of('noisy'))} noisy masks and {len(counts.of('clean'))} clean masks" in card
    assert f"by the method `plain`: {METHODS['plain'].help}. {UPDATES} updates at 16 × 16 pixels" in card
    assert "| `learning_rate` |" in card
    assert "how wrong they are is not known here" in card
    assert "not measured on test cases" in card
    assert card.count(FILL_IN) == 4
    assert str(data.parent) not in card
    (tmp_path / "simulation.json").write_text('{"noise": "triangle", "strength": 1.0, "mean_dice": 0.5}')
    told = model_card(Run(straight(method="plain")), tmp_path, own_step=True)
    assert "simulated: `triangle` at strength 1; their mean Dice to the truth is 0.500" in told
    assert "by a training step of its own" in told


def test_resume_needs_no_settings_again(data, straight, tmp_path, run_command, blank_charts):
    interrupted(data, tmp_path / "run", 3, method="plain")
    words = ["train", data, "--out", tmp_path / "run", "--resume", "--quiet"]
    code, _, error = run_command(*words, "--set", "seed=1")
    assert code == 2
    assert "seed = 0, now 1); leave them out to continue" in error
    code, output, _ = run_command(*words, "--set", "method=plain")
    assert code == 0
    assert "continued after update 3" in output
    assert_same_run(tmp_path / "run", straight(method="plain"), apart_from={"report.html", "test"})
    assert "test cases, which training has not looked at: a mean Dice of" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_resume_with_other_settings_names_them(data, tmp_path):
    interrupted(data, tmp_path / "run", 1, method="plain")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match=r"method = 'plain', now 'pixel'.*seed = 0, now 1") as caught:
        trained(data, tmp_path / "run", resume=True, method="pixel", seed=1)
    assert "epochs" not in str(caught.value)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("change", ["one gone", "one more", "another role"])
def test_resume_with_other_cases_names_them(tmp_path, change):
    data = draw(tmp_path / "data")
    interrupted(data, tmp_path / "run", 1, method="plain")
    if change == "one gone":
        (data / "noisy" / "003.png").unlink()
    elif change == "another role":
        (data / "noisy" / "003.png").rename(data / "test" / "003.png")
    else:
        shutil.copy(data / "images" / "004.png", data / "images" / "003b.png")
        shutil.copy(data / "noisy" / "004.png", data / "noisy" / "003b.png")
    with pytest.raises(RunError, match=r"other cases.*003"):
        trained(data, tmp_path / "run", resume=True, method="plain")
    assert not (tmp_path / "run" / ".cache").exists()


def test_data_may_move_between_two_sittings(data, straight, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    interrupted(tmp_path / "data", tmp_path / "run", 4, method="plain")
    (tmp_path / "data").rename(tmp_path / "moved")
    trained(tmp_path / "moved", tmp_path / "run", resume=True, method="plain")
    assert same_weights(tmp_path / "run", straight(method="plain"))


def test_resume_with_a_network_that_has_changed_is_one_line(data, tmp_path, monkeypatch):
    interrupted(data, tmp_path / "run", 2, method="plain")
    monkeypatch.setattr(tiny, "network", lambda *, in_channels, out_channels: torch.nn.Conv2d(in_channels, out_channels, 1))
    with pytest.raises(RunError, match=r"checkpoint\.pt: does not fit") as caught:
        trained(data, tmp_path / "run", resume=True, method="plain")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18)])
def test_resume_with_a_broken_checkpoint_is_one_line(data, tmp_path, content):
    interrupted(data, tmp_path / "run", 1, method="plain")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        trained(data, tmp_path / "run", resume=True, method="plain")


def test_a_checkpoint_that_knows_only_the_sum_of_the_seconds_continues(data, straight, tmp_path):
    interrupted(data, tmp_path / "run", 4, method="plain")
    packed = Run(tmp_path / "run").read_state("checkpoint.pt")
    RunWriter(tmp_path / "run").write_state("checkpoint.pt", packed | {"seconds": HOURS})
    done = trained(data, tmp_path / "run", resume=True, method="plain")
    assert HOURS < sum(done.seconds.values()) < 2 * HOURS
    assert done.seconds["other"] >= HOURS
    assert_same_run(tmp_path / "run", straight(method="plain"))


@pytest.mark.parametrize("update", [pytest.param(2, marks=pytest.mark.slow), 3, 7])
def test_a_checkpoint_that_holds_all_rows_of_the_steps_continues(data, straight, tmp_path, update):
    run, table = RunWriter(tmp_path / "run"), tmp_path / "run" / "steps.csv"
    interrupted(data, run.folder, update, method="plain")
    rows = pd.read_csv(table).to_dict("records")
    assert len(rows) == update
    run.write_state("checkpoint.pt", run.read_state("checkpoint.pt") | {"steps": rows})
    table.write_text("".join(table.read_text().splitlines(keepends=True)[: 1 + update // 3 * 3]))  # it was written after every epoch
    trained(data, run.folder, resume=True, method="plain")
    assert_same_run(run.folder, straight(method="plain"))


def test_rows_that_no_checkpoint_knows_are_cut_off(data, straight, tmp_path):
    interrupted(data, tmp_path / "run", 4, method="plain")
    with (tmp_path / "run" / "steps.csv").open("a") as table:
        table.write("5,0.5,0.5,,,,False\n6,0.5,0.")
    trained(data, tmp_path / "run", resume=True, method="plain")
    assert_same_run(tmp_path / "run", straight(method="plain"))


@pytest.mark.parametrize("left", ["no file", "one row less", "half of the last row", "other rows"])
def test_resume_without_rows_that_the_checkpoint_counts_on_is_one_line(data, tmp_path, left):
    interrupted(data, tmp_path / "run", 4, method="plain")
    table = tmp_path / "run" / "steps.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join({"one row less": lines[:-1], "other rows": lines[:2] + lines[1:-1]}.get(left, lines)))
    if left == "half of the last row":
        os.truncate(table, table.stat().st_size - 3)
    if left == "no file":
        table.unlink()
    with pytest.raises(RunError, match=r"steps\.csv: lacks rows up to update 4, where the checkpoint is; bring the file back") as caught:
        trained(data, tmp_path / "run", resume=True, method="plain")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_does_not_grow_with_the_steps(data, tmp_path):
    sizes = []
    for update in (2, 9):
        out = tmp_path / str(update)
        interrupted(data, out, update, method="trust", batch_size=1)
        assert len(pd.read_csv(out / "steps.csv")) == update
        sizes.append((out / "checkpoint.pt").stat().st_size)
    assert sizes[1] - sizes[0] < 64  # the seven rows more are 150 bytes each


# Where a run may go


def test_an_existing_folder_is_refused_without_resume(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        trained(data, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_folder_that_is_no_run_is_refused_with_resume_and_not_touched(data, tmp_path):
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "precious").write_text("mine")
    (tmp_path / "home" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run that could continue"):
        trained(data, tmp_path / "home", resume=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == ["home/.cache", "home/notes.txt"]
    assert (tmp_path / "home" / ".cache" / "precious").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_below_a_file_is_one_error_before_any_decoding(data, tmp_path, monkeypatch, resume):
    monkeypatch.setattr(fitting, "read_image", None)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(RunError) as caught:
            trained(data, out, resume=resume)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_one_error_before_any_decoding(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "read_image", None)
    (tmp_path / "locked").mkdir(mode=0o500)
    for out in (tmp_path / "locked", tmp_path / "locked" / "run"):
        with pytest.raises(RunError, match="cannot be written"):
            trained(data, out)


def test_a_fault_found_while_decoding_leaves_no_run_folder(tmp_path):
    data = draw(tmp_path / "data")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(data / "noisy" / "002.png")
    with pytest.raises(DataError, match=r"002\.png"):
        trained(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fault_in_a_mapped_case_is_said_as_elsewhere_and_leaves_no_thread(tmp_path):
    data = draw(tmp_path / "data")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(data / "noisy" / "002.png")
    before = threading.active_count()
    with pytest.raises(DataError, match=r"1 of \d cases cannot be used(.|\n)*002\.png"):
        trained(data, tmp_path / "run", method="joint", cache_gib=0)
    assert threading.active_count() == before
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(data / "noisy" / "002.png")
    assert trained(data, tmp_path / "run", resume=True, method="joint", cache_gib=0).updates == UPDATES


def test_a_disk_that_is_full_is_one_error_and_the_run_continues(data, straight, tmp_path, monkeypatch):
    real, saved = torch.save, Counter()

    def full(state, file):
        saved[Path(file.name).name] += 1
        if saved[".checkpoint.pt.unfinished"] == 2:
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="No space left"):
        trained(data, tmp_path / "run", method="plain")
    monkeypatch.undo()
    trained(data, tmp_path / "run", resume=True, method="plain")
    assert_same_run(tmp_path / "run", straight(method="plain"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files have no limit that this process can set")
def test_a_disk_without_room_for_decoded_cases_is_one_error_and_leaves_no_run_folder(data, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RunError, match=r"images\.uint8: cannot be written: File too large"):
            trained(data, tmp_path / "run", cache_gib=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "run").exists()


# Every setting counts

CHANGES = {
    "method": {"method": "joint"},
    "model": {"model": "tiny:wider"},
    "classes": {"classes": 2},
    "channels": {"channels": 1},
    "ignore_label": {"ignore_label": 0},
    "image_size": {"image_size": 24},
    "batch_size": {"batch_size": 5},
    "clean_batch_size": {"clean_batch_size": 2},
    "loss": {"loss": "dice-ce"},
    "clean_weight": {"clean_weight": 0.5},
    "trust_memory": {"trust_memory": 0.2},
    "trust_sharpness": {"trust_sharpness": 1.0},
    "gains": {"gains": "finite-difference"},
    "along": {"along": "5"},
    "finetune_share": {"finetune_share": 0.5},
    "epochs": {"epochs": 2},
    "updates_per_epoch": {"updates_per_epoch": 4},
    "learning_rate": {"learning_rate": 2e-3},
    "optimizer": {"optimizer": "sgd"},
    "momentum": {"momentum": 0.5},
    "weight_decay": {"weight_decay": 0.1},
    "schedule": {"schedule": "constant"},
    "augment": {"augment": "none"},
    "jitter": {"jitter": "none"},
    "colour_jitter": {"colour_jitter": 0.9},
    "grey_share": {"grey_share": 0.5},
    "precision": {"precision": "bf16"},
    "seed": {"seed": 1},
    "val_fraction": {"val_fraction": 0.75},  # 10 of 14 held out, not 11
}
BASES = {
    **{name: {"method": "pixel"} for name in ("method", "clean_weight", "gains", "along")},
    **{name: {"method": "clean"} for name in ("jitter", "colour_jitter", "grey_share")},
    "trust_memory": {"method": "trust", "epochs": 2},  # the second visit is the first to know what was learned of a pixel
    "trust_sharpness": {"method": "trust", "epochs": 2},
    "momentum": {"optimizer": "sgd"},
    "finetune_share": {"method": "finetuned", "epochs": 2},
}
ONCE = {"epochs": 1, "weight_map_cases": 0}
NOT_NUMBERS = {"device", "cache_gib", "checkpoint_minutes", "weight_map_cases"}
OF_VOLUMES = {"spacing", "normalise"}  # tested in test_train_volumes.py
OF_MENDERS = {"given_dropped", "coarse_share", "crop_around_given", "stronger_below"}  # tested in test_mending.py


def test_every_setting_has_its_test():
    assert {field.name for field in dataclasses.fields(Config)} == CHANGES.keys() | NOT_NUMBERS | OF_MENDERS | OF_VOLUMES


@pytest.fixture(scope="module")
def small_labels(tmp_path_factory):
    """The same data with masks of 0 and 1, which any number of classes can read."""
    return draw(tmp_path_factory.mktemp("labels") / "data", foreground=1)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_is_learned(straight, small_labels, tmp_path, name):
    base = {"method": "joint", **ONCE, **BASES.get(name, {})}
    done = trained(small_labels, tmp_path / "run", **{**base, **CHANGES[name]})
    assert not same_weights(tmp_path / "run", straight(**base))
    if name != "classes":
        assert all(value.isfinite().all() for value in state_of(tmp_path / "run").values())
    assert done.updates == {"batch_size": 2, "epochs": 6, "updates_per_epoch": 4}.get(name, 3 * base["epochs"])


@pytest.mark.parametrize(
    ("name", "method"), [("momentum", "plain"), ("clean_weight", "plain"), ("gains", "joint"), ("clean_batch_size", "plain")]
)
def test_a_setting_that_the_method_has_no_use_for_changes_nothing(data, straight, tmp_path, name, method):
    trained(data, tmp_path / "run", method=method, **ONCE, **CHANGES[name])
    assert same_weights(tmp_path / "run", straight(method=method, **ONCE))


def test_decoded_cases_in_a_mapped_file_train_the_same(data, straight, tmp_path, monkeypatch):
    made = []
    real = np.memmap
    monkeypatch.setattr(np, "memmap", lambda path, *rest, **options: made.append(path.parent) or real(path, *rest, **options))
    trained(data, tmp_path / "run", method="plain", cache_gib=0)
    assert set(made) == {tmp_path / "run" / ".cache"}
    assert same_weights(tmp_path / "run", straight(method="plain"))
    pd.testing.assert_frame_equal(history(tmp_path / "run"), history(straight(method="plain")), check_exact=True)
    assert not (tmp_path / "run" / ".cache").exists()


@pytest.mark.parametrize(("minutes", "written"), [(0.0, UPDATES), (1e-9, UPDATES), (HOURS, 3)])
def test_a_checkpoint_is_written_after_every_epoch_and_within_one_after_some_time(data, straight, tmp_path, monkeypatch, minutes, written):
    real, names = RunWriter.write_state, Counter()

    def counting(run, name, state):
        names[name] += 1
        real(run, name, state)

    monkeypatch.setattr(RunWriter, "write_state", counting)
    trained(data, tmp_path / "run", method="plain", checkpoint_minutes=minutes)
    assert names["checkpoint.pt"] == written
    assert same_weights(tmp_path / "run", straight(method="plain"))
    names.clear()
    monkeypatch.setattr(loop_module, "LONG", -1.0)  # a checkpoint that takes long is not written after every epoch
    monkeypatch.setattr(loop_module, "REST", 1e9)
    trained(data, tmp_path / "large", method="plain", checkpoint_minutes=minutes)
    assert names["checkpoint.pt"] == 2


def test_cpu_is_what_auto_means_where_there_is_nothing_else(data, straight, tmp_path):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is an accelerator here")
    trained(data, tmp_path / "run", method="plain", device="auto")
    assert same_weights(tmp_path / "run", straight(method="plain"))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent_is_refused_before_the_data_is_read(tmp_path, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device = '{device}'"):
        trained(tmp_path / "absent", tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_finite_differences_in_bf16_are_refused_where_they_would_be_taken(data, tmp_path):
    settings = {"gains": "finite-difference", "precision": "bf16"}
    with pytest.raises(ConfigError, match=r"finite-difference.*use gains = 'exact', or precision = '32'") as caught:
        trained(tmp_path / "absent", tmp_path / "pixel", method="pixel", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pixel").exists()
    trained(data, tmp_path / "plain", method="plain", epochs=1, **settings)
    assert (tmp_path / "plain" / "model.pt").exists()


@pytest.mark.parametrize(("processor", "lacking"), [({"avx2": True}, True), ({"avx512_bf16": True}, False), ({"bf16": True}, False)])
def test_bf16_on_a_processor_without_it_is_remarked_on_before_training(data, tmp_path, monkeypatch, capsys, processor, lacking):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(train_module, "read_cases", lambda *_, **__: pytest.fail(capsys.readouterr().err or "nothing was said"))
    with pytest.raises(pytest.fail.Exception, match="slower.*use precision = '32'" if lacking else "nothing was said"):
        train(data, out=tmp_path / "run", config=configured(precision="bf16"))
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    done = trained(data, tmp_path / "run", method="plain", precision="bf16", epochs=1)
    assert ("use precision = '32'" in str(done)) == lacking
    if lacking:
        assert "use precision" not in str(trained(data, tmp_path / "32", method="plain", epochs=1))


def test_mixed_precision_keeps_the_parameters_in_float32(data, tmp_path):
    trained(data, tmp_path / "run", method="pixel", precision="bf16", epochs=1)
    assert {value.dtype for value in state_of(tmp_path / "run").values()} == {torch.float32}


def test_a_teacher_runs_in_the_precision_of_its_student(data, tmp_path, monkeypatch):
    passes, real = [], tiny.network

    def watched(**settings):
        model = real(**settings)
        model[0].register_forward_hook(lambda module, _, out: passes.append((torch.is_grad_enabled(), module.training, out.dtype)))
        return model

    monkeypatch.setattr(tiny, "network", watched)
    trained(data, tmp_path / "run", method="mean-teacher", precision="bf16", epochs=1)
    teachers, students = (False, True, torch.bfloat16), (True, True, torch.bfloat16)
    assert [made for made in passes if made[1]] == [students, teachers, students] * 3  # on clean images; both on noisy ones
    assert not any("teacher" in name for name in state_of(tmp_path / "run"))


def test_what_is_kept_of_a_mean_teachers_run_is_the_student(data, straight, tmp_path, monkeypatch):
    students = []
    monkeypatch.setattr(train_module, "build_optimizer", lambda both, *rest: students.append(both[0]) or build_optimizer(both, *rest))
    trained(data, tmp_path / "run", method="mean-teacher")
    assert all(torch.equal(value, students[0].state_dict()[name]) for name, value in state_of(tmp_path / "run").items())
    assert state_of(tmp_path / "run").keys() == state_of(straight(method="plain")).keys()
    assert same_weights(tmp_path / "run", straight(method="mean-teacher"))


def test_what_a_method_reports_beyond_the_usual_is_in_the_tables(straight):
    for method, name in (("t-loss", "nu"), ("mean-teacher", "consistency")):
        steps = pd.read_csv(straight(method=method) / "steps.csv")
        assert (steps[name] > 0).all()
        assert steps[name].nunique() == UPDATES
        assert history(straight(method=method))[name][0] == pytest.approx(steps[name][:3].mean())


# Randomness


@pytest.mark.parametrize("method", quick("plain"))
def test_the_same_seed_gives_the_same_bits(data, straight, tmp_path, method):
    torch.manual_seed(123)  # what went on before does not matter
    trained(data, tmp_path / "run", method=method)
    assert_same_run(tmp_path / "run", straight(method=method))


class AllAtOnce(Prefetcher):
    """Makes no batch before it is asked for."""

    def batch(self, stream, update):
        return self._make(stream, update)


@pytest.mark.parametrize(("threads", "loader", "cache_gib"), [(1, AllAtOnce, 4.0), (13, Prefetcher, 0.0)])
def test_the_number_of_threads_that_load_does_not_matter(data, straight, tmp_path, monkeypatch, threads, loader, cache_gib):
    monkeypatch.setattr(progress_module, "THREADS", threads)
    monkeypatch.setattr(progress_module, "AHEAD", 4 * threads)
    monkeypatch.setattr(loop_module, "Prefetcher", loader)
    trained(data, tmp_path / "run", method="trust", cache_gib=cache_gib)
    whole = straight(method="trust")
    for name in ("steps.csv", "cases.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert same_weights(tmp_path / "run", whole)
    assert same_weights(tmp_path / "run", whole, "best.pt")
    maps = {path.name: path.read_bytes() for path in (tmp_path / "run" / "helped").iterdir()}
    assert maps == {path.name: path.read_bytes() for path in (whole / "helped").iterdir()}


class _Seen:
    """What the steps saw: (stream, update) → the ids of the batch and its images."""

    def __init__(self, monkeypatch, data):
        self.ids_of = {}
        for path in (data / "images").iterdir():
            self.ids_of[int(np.asarray(Image.open(path)).astype(int).sum())] = path.stem
        assert len(self.ids_of) == len(list((data / "images").iterdir()))
        self.batches, self.images = {}, {}
        real = data_module.Streams.batch

        def looking(streams, stream, update, device):
            result = real(streams, stream, update, device)
            sums = (result.images * 255).round().long().flatten(1).sum(1).tolist()
            self.batches[stream, update] = [self.ids_of[value] for value in sums]
            self.images[stream, update] = result.images
            return result

        monkeypatch.setattr(data_module.Streams, "batch", looking)


def test_the_noisy_batches_do_not_change_with_what_happens_to_the_clean_cases(data, tmp_path, monkeypatch):
    seen = []
    for number, settings in enumerate(({}, {"val_fraction": 0.0}, {"clean_batch_size": 7}, {"method": "joint"}, {"model": "tiny:wider"})):
        seen.append(_Seen(monkeypatch, data))
        trained(data, tmp_path / str(number), **{"method": "pixel", "jitter": "none", **ONCE, **settings})
        monkeypatch.undo()
    for other in seen[1:]:
        for update in range(3):
            assert other.batches["noisy", update] == seen[0].batches["noisy", update]
            assert torch.equal(other.images["noisy", update], seen[0].images["noisy", update])


def test_the_initial_network_depends_on_the_seed_alone(data, tmp_path):
    firsts = []
    for number, settings in enumerate(({}, {"val_fraction": 0.0}, {"method": "joint"}, {"batch_size": 5}, {"seed": 1})):
        out = tmp_path / str(number)
        trained(data, out, **{"optimizer": "sgd", "learning_rate": 1e-30, "epochs": 1, "method": "plain", **settings})
        firsts.append(state_of(out)["0.weight"])
    assert all(torch.equal(first, firsts[0]) for first in firsts[1:-1])
    assert not torch.equal(firsts[-1], firsts[0])


# What chooses, and what never does


@pytest.mark.parametrize("method", quick("plain", "clean", "mender", "finetuned", "trust"))
def test_held_out_and_test_cases_are_in_no_batch_and_all_others_are(data, tmp_path, monkeypatch, method):
    seen = _Seen(monkeypatch, data)
    trained(data, tmp_path / "run", method=method, jitter="none")
    cases = Run(tmp_path / "run").read_table("cases.csv")
    roles = {role: set(cases["id"][(cases["role"] == role) & ~cases["held_out"]]) for role in ("noisy", "clean")}
    assert (len(roles["noisy"]), len(roles["clean"]), cases["held_out"].sum()) == (10, 3, 11)
    used = {stream: {name for (s, _), names in seen.batches.items() if s == stream for name in names} for stream, _ in seen.batches}
    expected = {"noisy": roles["noisy"], "clean": roles["clean"], "pairs": roles["clean"], "pool": roles["noisy"] | roles["clean"]}
    assert used == {stream: expected[stream] for stream in streams_of(method)}


def test_test_masks_are_never_decoded_nor_matter(data, straight, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data" / "test").iterdir():
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)  # no mask at all, of the right size
    decoded = []
    for module, name in ((fitting, "read_image"), (data_module, "decode_labels")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *a, real=real, **k: decoded.append(path) or real(path, *a, **k))
    trained(tmp_path / "data", tmp_path / "run", method="pixel")
    tested = {path.stem for path in (data / "test").iterdir()}
    assert len(decoded) == 2 * 24
    assert not {path.stem for path in decoded} & tested
    assert same_weights(tmp_path / "run", straight(method="pixel"))
    pd.testing.assert_frame_equal(history(tmp_path / "run"), history(straight(method="pixel")), check_exact=True)


def held_out_cases(data, run):
    cases = Run(run).read_table("cases.csv")
    for identity in cases["id"][cases["held_out"]]:
        image = torch.tensor(np.asarray(Image.open(data / "images" / f"{identity}.png")).copy()).permute(2, 0, 1)[None] / 255
        yield image, np.asarray(Image.open(data / "clean" / f"{identity}.png")) // 255


def test_the_history_measures_the_last_weights_on_the_held_out_cases(data, straight):
    run = straight(method="clean", learning_rate=0.03, epochs=15)
    model = Run(run).model()
    losses, scores = [], []
    for image, mask in held_out_cases(data, run):
        logits = model(image).detach()
        losses.append(F.binary_cross_entropy_with_logits(logits[0, 0], torch.tensor(mask).float()).item())
        found = logits[0, 0].numpy() > 0
        scores.append(2 * (found & (mask == 1)).sum() / (found.sum() + mask.sum()))
    last = history(run).iloc[-1]
    assert last["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)  # float32, in another order
    assert last["val_dice"] == pytest.approx(np.mean(scores), rel=1e-9)
    assert 0.1 < last["val_dice"] < 1


def test_the_best_weights_are_those_of_the_epoch_with_the_highest_dice(data, tmp_path, monkeypatch):
    dices = iter([0.3, 0.7, 0.7, float("nan"), 0.6])
    kept = []

    def validated(model, streams, *, device):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"val_loss": 0.1, "val_dice": next(dices), "one_label": math.nan}

    monkeypatch.setattr(loop_module, "validate", validated)
    done = trained(data, tmp_path / "run", method="plain", epochs=5)
    best = Run(tmp_path / "run").read_state("best.pt")
    assert (best["epoch"], best["val_dice"]) == (2, 0.7)
    assert all(torch.equal(value, best["model"][name]) for name, value in kept[1].items())
    assert all(torch.equal(value, state_of(tmp_path / "run")[name]) for name, value in kept[4].items())
    assert done.val_dice == 0.6


def test_with_fewer_than_10_held_out_nothing_chooses_and_that_is_said(data, tmp_path):
    done = trained(data, tmp_path / "run", method="plain", val_fraction=0.5)
    assert not (tmp_path / "run" / "best.pt").exists()
    assert "the last weights count" in str(done)
    assert math.isnan(done.val_dice)
    assert history(tmp_path / "run")[["val_loss", "val_dice"]].isna().all(axis=None)
    assert not Run(tmp_path / "run").read_table("cases.csv")["held_out"].any()


def test_all_clean_cases_train_by_default_and_what_measures_the_network_is_said(data, tmp_path):
    done = trained(data, tmp_path / "run", method="plain", val_fraction=Config.val_fraction)
    assert "10 noisy and 14 clean cases to train on, none held out: test masks (`evaluate`) or folds" in str(done)
    assert not any("val_fraction" in note for note in done.notes)
    assert not (tmp_path / "run" / "best.pt").exists()
    assert history(tmp_path / "run")[["val_loss", "val_dice"]].isna().all(axis=None)
    assert not Run(tmp_path / "run").read_table("cases.csv")["held_out"].any()


def test_few_clean_masks_are_warned_of_before_training_and_at_its_end(tmp_path, capsys):
    few = draw(tmp_path / "few", noisy=4, clean=3, test=0)
    done = train(few, out=tmp_path / "run", config=configured(epochs=1), show_progress=True)
    assert "warning: 3 clean masks" in capsys.readouterr().err
    assert any(note.startswith("warning: 3 clean masks") for note in done.notes)


def test_no_warning_of_few_clean_masks_where_some_are_held_out(data, tmp_path):
    assert not any("clean masks: " in note for note in trained(data, tmp_path / "run", epochs=1).notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 9}, "batch_size = 9 and 10 noisy cases make a batch of one image"),
        ({"batch_size": 3, "method": "joint"}, "choose another batch_size, such as 2"),
        ({"batch_size": 9, "method": "mean-teacher"}, "such as 8"),
        ({"batch_size": 1, "method": "plain"}, "batch_size = 1 make a batch of one image"),
        ({"clean_batch_size": 1, "method": "clean"}, "choose another clean_batch_size, such as 2"),
        ({"clean_batch_size": 1, "method": "trust", "batch_size": 5}, "clean_batch_size = 1"),
    ],
)
def test_a_batch_of_one_image_that_the_network_cannot_be_trained_on_is_refused_before_the_first_update(data, tmp_path, settings, said):
    with pytest.raises(ConfigError, match="more than 1 value per channel") as caught:
        trained(data, tmp_path / "run", **{"model": "tiny:pooling", "epochs": 1, **settings})
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 9, "method": "plain"},
        {"batch_size": 9, "method": "finetuned"},
        {"clean_batch_size": 1, "method": "plain"},
        {"batch_size": 1, "method": "clean"},
        {"batch_size": 4, "method": "trust"},
        {"batch_size": 9, "method": "trust", "model": "tiny:with_batch_norm"},
    ],
)
def test_what_sees_no_such_batch_is_trained(data, tmp_path, settings):
    done = trained(data, tmp_path / "run", **{"model": "tiny:pooling", "epochs": 1, **settings})
    assert done.updates == -(-10 // settings.get("batch_size", 4))


@pytest.mark.parametrize(
    ("batch_size", "cases", "processes", "images"),
    [
        (4, None, 1, 4),
        (4, 10, 1, 2),
        (4, 9, 1, 1),
        (4, 8, 1, 4),
        (4, None, 2, 2),
        (5, None, 3, 1),
        (4, 7, 2, 1),
        (16, 3, 1, 3),
        (2, None, 4, 1),
    ],
)
def test_the_smallest_batch_is_what_is_left_or_a_part_of_it(batch_size, cases, processes, images):
    assert smallest_batch(batch_size, cases=cases, processes=processes) == images


# What is written


@pytest.mark.parametrize("method", quick("plain", "trust", "pixel", "mean-teacher", "finetuned", "mender"))
def test_a_run_folder_holds_what_it_promises(straight, method):
    names = {path.name for path in straight(method=method).iterdir()}
    gains = {"helped"} if method in ("image", "pixel", "trust") else set()
    assert names - {"warnings.txt"} == FILES | gains | ({"weight_maps.npz"} if method in ("pixel", "trust") else set())
    assert Run(straight(method=method)).config() == configured(method=method)


def test_history_has_a_row_per_epoch_and_steps_one_per_update(straight):
    rows, steps = pd.read_csv(straight(method="pixel") / "history.csv"), pd.read_csv(straight(method="pixel") / "steps.csv")
    measured = ["loss", "clean_loss", "zero_share", "effective_pixels"]
    assert steps.columns.tolist() == ["update", "learning_rate", *measured, "all_zero"]
    ends = ["val_loss", "val_dice", "one_label", "seconds", *(f"seconds_{part}" for part in PARTS)]
    assert rows.columns.tolist() == ["epoch", "update", "learning_rate", *measured, "all_zero_steps", *ends]
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert rows["update"].tolist() == [3, 6, 9]
    assert steps["update"].tolist() == list(range(1, UPDATES + 1))
    for epoch in range(3):
        part = steps.iloc[3 * epoch : 3 * epoch + 3]
        for name in measured:
            assert rows[name][epoch] == pytest.approx(part[name].mean(), rel=1e-9)
    assert rows["seconds"].is_monotonic_increasing
    assert steps[measured].notna().all(axis=None)


def test_measures_that_a_method_does_not_have_stay_empty(straight):
    rows = history(straight(method="plain"))
    assert rows[["clean_loss", "zero_share", "effective_pixels"]].isna().all(axis=None)
    assert rows[["loss", "val_loss", "val_dice"]].notna().all(axis=None)
    assert history(straight(method="joint"))["clean_loss"].notna().all()


def test_the_summary_tells_updates_speed_dice_and_place(data, tmp_path):
    done = trained(data, tmp_path / "run", method="plain")
    for part in ("10 noisy and 3 clean", "11 clean ones held out", "9 updates", "images/s", f"{done.val_dice:.3f}", str(tmp_path / "run")):
        assert part in str(done)


def test_the_time_is_told_by_part_over_all_sittings(data, tmp_path):
    out = tmp_path / "run"
    interrupted(data, out, 4, method="plain")
    first = Run(out).read_state("checkpoint.pt")["seconds"]
    done = trained(data, out, resume=True, method="plain")
    assert all(done.seconds[part] > first[part] > 0 for part in PARTS)
    rows = pd.read_csv(out / "history.csv")
    parts = rows[[f"seconds_{part}" for part in PARTS]]
    np.testing.assert_allclose(parts.sum(axis=1), rows["seconds"], atol=0.005)  # each is rounded to milliseconds
    assert all(parts[name].is_monotonic_increasing for name in parts)
    assert rows["seconds"].iloc[-1] <= sum(done.seconds.values()) + 0.001
    lines = str(done).splitlines()
    assert lines[-2].startswith("time: step ")
    assert "images/s" in lines[-3]


def passing(monkeypatch):
    """A function that makes the clock of this process jump by HOURS at its first call."""
    real, jumped = time.perf_counter, threading.Event()
    monkeypatch.setattr(time, "perf_counter", lambda: real() + HOURS * jumped.is_set())
    return jumped.set


@pytest.mark.parametrize(
    ("part", "module", "name"),
    [
        ("batches", data_module, "draw_views"),
        ("validation", loop_module, "validate"),
        pytest.param("validation", loop_module, "keep_weight_maps", marks=pytest.mark.slow),
        ("saving", RunWriter, "write_state"),
        pytest.param("saving", RunWriter, "write_table", marks=pytest.mark.slow),
        pytest.param("saving", RunWriter, "append_rows", marks=pytest.mark.slow),
        ("optimiser", torch.optim.Adam, "step"),
    ],
)
def test_what_takes_long_is_found_in_its_part(data, tmp_path, monkeypatch, part, module, name):
    real, pass_time = getattr(module, name), passing(monkeypatch)

    def slow(*arguments, **options):
        pass_time()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, slow)
    method = "pixel" if name == "keep_weight_maps" else "plain"
    seconds = trained(data, tmp_path / "run", method=method, epochs=1).seconds
    assert seconds[part] >= HOURS


def test_a_slow_step_is_found_in_step(data, tmp_path, monkeypatch):
    at_update(monkeypatch, 2, passing(monkeypatch))
    assert trained(data, tmp_path / "run", method="plain", epochs=1).seconds["step"] >= HOURS


@pytest.mark.parametrize(("seconds", "looks"), [(HOURS, 3), (0.0, UPDATES)])
def test_the_bar_looks_at_the_loss_after_an_epoch_and_within_one_after_some_time(data, tmp_path, monkeypatch, seconds, looks):
    notes = []

    class Bar:
        shown = True

        def add_task(self, *_, **__):
            return 0

        def update(self, task, *, completed, note):
            notes.append((completed, note))

    monkeypatch.setattr(display_module, "progress_bar", lambda shown: nullcontext(Bar()))
    monkeypatch.setattr(display_module, "SHOWN_EVERY", seconds)
    trained(data, tmp_path / "run", method="plain")
    assert len(notes) == looks
    last = history(tmp_path / "run").iloc[-1]
    loss = pd.read_csv(tmp_path / "run" / "steps.csv")["loss"].iloc[-1]
    assert notes[-1] == (UPDATES, f"epoch 3/3, loss {loss:.3f}, val Dice {last['val_dice']:.3f}")


@pytest.mark.parametrize("ended", ["well", "by ctrl-c"])
def test_no_thread_is_left_when_training_ends(data, tmp_path, ended):
    before = threading.active_count()
    if ended == "well":
        trained(data, tmp_path / "run", method="joint")
    else:
        interrupted(data, tmp_path / "run", 2, method="joint")
    assert threading.active_count() == before


def test_weight_maps_are_multiples_of_the_average_weight_by_all_clean_cases(data, straight):
    run = Run(straight(method="pixel", weight_map_cases=3))
    kept = run.weight_maps()
    assert kept["maps"].shape == (3, 3, 16, 16)
    assert kept["epochs"].tolist() == [1, 2, 3]
    assert set(kept["ids"]) < {f"{number:03}" for number in range(10)}
    np.testing.assert_allclose(kept["maps"].astype(float).mean((1, 2, 3)), 1, rtol=1e-3)  # they are kept in half precision
    assert (kept["maps"] >= 0).all()
    cases = run.read_table("cases.csv")
    clean = cases["id"][(cases["role"] == "clean") & ~cases["held_out"]]
    chosen = [(identity, "noisy") for identity in kept["ids"]] + [(identity, "clean") for identity in clean]
    cases = [Case(name, data / "images" / f"{name}.png", data / role / f"{name}.png", role) for name, role in chosen]
    read = data_module.CaseCache(cases, configured(), data)
    weights = pixel_weights(run.model(), noisy=read.batch(np.arange(3)), clean=read.batch(np.arange(3, 6)))
    np.testing.assert_allclose(kept["maps"][-1].astype(float), weights.numpy() * weights.numel(), rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_weight_maps_by_batches_equal_those_by_all_at_once(data, straight, tmp_path):
    settings = {"method": "pixel", "optimizer": "sgd", "learning_rate": 1e-30, "val_fraction": 0.0, "weight_map_cases": 10, "epochs": 1}
    maps = []
    for sizes in ({"batch_size": 3, "clean_batch_size": 4}, {"batch_size": 10, "clean_batch_size": 14}):
        trained(data, tmp_path / str(len(maps)), **settings, **sizes)
        maps.append(Run(tmp_path / str(len(maps))).weight_maps()["maps"].astype(float))
    np.testing.assert_allclose(maps[0], maps[1], rtol=5e-3, atol=1e-3)


def test_no_weight_maps_are_kept_where_none_are_asked_for(straight):
    assert Run(straight(method="pixel", **ONCE)).weight_maps() is None


def test_one_pixel_may_have_all_the_weight(data, tmp_path, monkeypatch):
    def on_one(gains):
        weights = torch.zeros_like(gains)
        weights[0, 0, 0] = 1
        return weights

    monkeypatch.setattr(weight_maps_module, "normalise_gains", on_one)
    trained(data, tmp_path / "run", method="pixel", image_size=96, epochs=1, weight_map_cases=10)
    maps = Run(tmp_path / "run").weight_maps()["maps"]  # 92,160 times the average is beyond half precision
    assert np.isfinite(maps).all()
    assert (maps > 0).sum() == 1


@pytest.mark.parametrize(("epochs", "kept"), [(1, [1]), (3, [1, 2, 3]), (12, [*range(1, 13)]), (50, 12), (1000, 12)])
def test_weight_maps_are_kept_after_at_most_12_epochs_evenly_from_first_to_last(epochs, kept):
    chosen = sorted(map_epochs(epochs))
    if isinstance(kept, list):
        assert chosen == kept
    else:
        assert len(chosen) == kept
        assert (chosen[0], chosen[-1]) == (1, epochs)
        assert np.ptp(np.diff(chosen)) <= 1


def test_steps_in_which_no_noisy_pixel_helps_are_counted_and_said(tmp_path):
    data = draw(tmp_path / "data")
    for path in (data / "noisy").iterdir():
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path)
    done = trained(data, tmp_path / "run", method="pixel", ignore_label=255)
    assert "in 9 of 9 steps no noisy pixel helped" in str(done)
    assert history(tmp_path / "run")["all_zero_steps"].tolist() == [3, 3, 3]
    assert pd.read_csv(tmp_path / "run" / "steps.csv")["all_zero"].all()


# Wrong results are caught


@pytest.mark.parametrize("method", quick("plain", "trust"))
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch_and_the_step(data, tmp_path, method):
    with pytest.raises(RunError, match="not finite in update 1, whose batch is") as caught:
        trained(data, tmp_path / "run", method=method, model="tiny:overflowing")
    assert "\n" not in str(caught.value)
    assert "nothing had been saved yet" in str(caught.value)
    for stream in streams_of(method) if method != "finetuned" else ["pool"]:
        assert re.search(rf"{stream} \d\d\d(, \d\d\d)+", str(caught.value))
    assert not {"checkpoint.pt", "best.pt", "model.pt", "history.csv"} & {path.name for path in (tmp_path / "run").iterdir()}


def spoiling(method, number, spoil):
    """The method, whose step `number` of this process reports or leaves what `spoil` makes of it."""
    steps = []

    def step(model, feed, config):
        outcome = step_of(method)(model, feed, config)
        steps.append(feed)
        return spoil(model, outcome) if len(steps) == number else outcome

    step.takes_gains = step.weighs_pixels = True
    return step, steps


def with_a_lost_gain(model, outcome):
    gains = outcome.gains.clone()
    gains[-1, 3, 4] = -torch.inf  # which the weights would clamp to 0
    return dataclasses.replace(outcome, gains=gains)


def with_a_lost_gradient(model, outcome):
    next(model.parameters()).grad[0] = torch.nan
    return outcome


@pytest.mark.parametrize("spoil", [with_a_lost_gain, pytest.param(with_a_lost_gradient, marks=pytest.mark.slow)])
def test_nothing_bad_is_saved_and_the_run_goes_on_from_the_last_good_checkpoint(data, straight, tmp_path, spoil):
    settings = configured(method="pixel", jitter="none")
    step, steps = spoiling("pixel", 6, spoil)  # at the end of an epoch: the next thing is to save
    with pytest.raises(RunError, match="in update 6, whose batch is") as caught:
        train(data, out=tmp_path / "run", config=settings, method=step, show_progress=False)
    named = set(re.findall(r"\d\d\d", re.search("whose batch is (.*); the checkpoint", str(caught.value))[1]))
    sums = {path.stem: int(np.asarray(Image.open(path)).astype(int).sum()) for path in (data / "images").iterdir()}
    shown = {round(float(image.double().sum() * 255)) for batch in (steps[-1].noisy(), steps[-1].clean()) for image in batch.images}
    assert {sums[name] for name in named} == shown
    assert "the checkpoint of update 3 is good" in str(caught.value)
    assert len(pd.read_csv(tmp_path / "run" / "steps.csv")) == 3
    assert Run(tmp_path / "run").read_state("best.pt")["epoch"] == 1
    train(data, out=tmp_path / "run", config=settings, resume=True, show_progress=False)
    assert_same_run(tmp_path / "run", straight(method="pixel", jitter="none"))


@pytest.mark.slow
def test_the_same_batch_leads_to_the_same_end_and_the_message_says_so(data, tmp_path):
    def lost(model, outcome):
        return dataclasses.replace(outcome, loss=math.nan)

    said = []
    for resume, number in ((False, 5), (True, 2)):
        step, _ = spoiling("pixel", number, lost)
        with pytest.raises(RunError, match="otherwise the same error returns") as caught:
            train(data, out=tmp_path / "run", config=configured(method="pixel"), method=step, resume=resume, show_progress=False)
        said.append(str(caught.value))
    assert said[0] == said[1]


def steps_with_zeros(*updates):
    idle = Idle()
    for number in range(1, 61):
        idle.count(number, all_zero=number in updates)
    return idle


def test_where_all_is_well_there_is_no_alarm():
    epochs = [{"epoch": 1, "one_label": math.nan}, {"epoch": 2}]  # older checkpoints do not know
    zeros = steps_with_zeros(*range(2, 60, 2), *range(5, 5 + MANY - 4))
    assert warning_signs(idle=zeros, epochs=epochs, clean=5, clean_label=None, classes=1) == {}


def test_the_longest_row_of_steps_without_weights_is_remarked_on():
    zeros = steps_with_zeros(*range(1, MANY + 1), *range(31, 31 + MANY + 5), 60)
    found = warning_signs(idle=zeros, epochs=[], clean=5, clean_label=None, classes=1)
    assert found.keys() == {"weights"}
    assert f"in {MANY + 5} steps in a row, updates 31 to {30 + MANY + 5}, no noisy pixel helped" in found["weights"]


def test_an_epoch_after_which_the_network_sees_several_labels_is_not_remarked_on(straight):
    run = straight(method="clean", learning_rate=0.03, epochs=15)
    rows = history(run)
    assert (rows["val_dice"] > 0).any()
    assert rows["one_label"][rows["val_dice"] > 0].isna().all()
    alike = int(rows["one_label"].notna().sum())
    assert len(Run(run).warnings()) == bool(alike)
    assert all(f"after {alike} of 15 epochs" in line for line in Run(run).warnings())


def warned(data, out, *said, **settings):
    """In the log at its end, at once on standard error, in a file and on the page."""
    done = trained(data, out, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixeltrust.pages.charts.to_svg", lambda figure: "<svg/>")
        page = run_page(Run(out))
    for text in said:
        assert any(note.startswith("warning: ") and text in note for note in done.notes)
        assert any(text in line for line in Run(out).warnings())
        assert f"Warning: {text}" in page or f", {text}" in page or f"Warning: the {text}" in page
    return done


def test_a_clean_set_of_one_class_is_warned_of(tmp_path, capsys):
    data = draw(tmp_path / "data")
    for path in (data / "clean").iterdir():
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    warned(data, tmp_path / "run", "3 clean masks to train on have the label 0 (background) alone", method="joint", epochs=1)
    train(data, out=tmp_path / "mapped", config=configured(method="joint", cache_gib=0, epochs=1))
    assert "warning: the 3 clean masks to train on have the label 0 (background) alone" in " ".join(capsys.readouterr().err.split())


def test_a_clean_set_of_ignored_pixels_is_warned_of_and_teaches_nothing(tmp_path):
    data = draw(tmp_path / "data")
    for path in (data / "clean").iterdir():
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path)
    for method, idle in (("trust", 0), ("pixel", 1)):
        said = "3 clean masks to train on have the label 255 (ignored) alone"
        warned(data, tmp_path / method, said, method=method, epochs=1, ignore_label=255)
        steps = pd.read_csv(tmp_path / method / "steps.csv")
        assert (steps["clean_loss"] == 0).all()
        assert (steps["all_zero"] == idle).all()


@pytest.mark.parametrize(("changes", "said"), [(None, "it has no update, images"), ({"update": -5}, "update is -5")])
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_that_no_run_writes_is_refused(data, straight, tmp_path, changes, said, finished):
    shutil.copytree(straight(method="plain"), tmp_path / "run")
    run = RunWriter(tmp_path / "run")
    run.write_state("checkpoint.pt", {} if changes is None else run.read_state("checkpoint.pt") | changes)
    if not finished:
        (run.folder / "model.pt").unlink()
    with pytest.raises(RunError, match=f"{re.escape(str(run.folder / 'checkpoint.pt'))}: not a checkpoint of a run: {said}"):
        trained(data, tmp_path / "run", resume=True, method="plain")


@pytest.mark.parametrize("val_fraction", [0.8, 0.0])
def test_a_network_that_predicts_one_class_is_warned_of(data, tmp_path, val_fraction):
    said = "after 3 of 3 epochs, epoch 3 the last of them, the network gave all pixels the label 0 (background)"
    warned(data, tmp_path / "run", said, method="plain", model="tiny:blind", val_fraction=val_fraction)
    assert history(tmp_path / "run")["one_label"].tolist() == [0, 0, 0]


def test_weights_that_are_zero_for_many_steps_are_warned_of(tmp_path):
    data = draw(tmp_path / "data")
    for path in (data / "noisy").iterdir():
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path)
    warned(
        data, tmp_path / "run", "in 24 steps in a row, updates 1 to 24", method="pixel", ignore_label=255, epochs=1, updates_per_epoch=24
    )


def test_too_few_held_out_cases_to_choose_by_are_in_the_log_and_on_the_page(data, tmp_path, blank_charts):
    done = trained(data, tmp_path / "run", method="plain", val_fraction=0.5)
    assert "none held out (10 at least): the last weights count" in str(done)
    assert "nothing was chosen, the last weights count" in run_page(Run(tmp_path / "run"))


@pytest.mark.slow
def test_warnings_come_again_when_a_run_goes_on(tmp_path):
    data = draw(tmp_path / "data")
    for path in (data / "clean").iterdir():
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    trained(data, tmp_path / "whole", method="joint")
    interrupted(data, tmp_path / "run", 5, method="joint")
    trained(data, tmp_path / "run", resume=True, method="joint")
    assert Run(tmp_path / "run").warnings() == Run(tmp_path / "whole").warnings()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_ids_that_look_like_numbers_continue(tmp_path):
    data = draw(tmp_path / "data", prefix="0")
    interrupted(data, tmp_path / "run", 2, method="plain")
    assert trained(data, tmp_path / "run", resume=True, method="plain").updates == UPDATES


def test_training_in_a_thread_is_the_same(data, straight, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(trained(data, tmp_path / "run", method="plain")))
    thread.start()
    thread.join()
    assert done
    assert_same_run(tmp_path / "run", straight(method="plain"))


# That it learns


@pytest.mark.slow
def test_pixel_learns_what_the_clean_masks_show_where_plain_learns_what_the_noisy_ones_do(tmp_path):
    data = draw(tmp_path / "data", noisy=60, clean=8, test=20)
    settings = {"model": "tiny:without_dropout", "learning_rate": 0.02, "batch_size": 6, "clean_batch_size": 8, "epochs": 25}
    settings["jitter"] = "none"  # these masks follow from how bright a pixel is
    scores = {}
    for method in ("plain", "pixel"):
        trained(data, tmp_path / method, method=method, weight_map_cases=0, **settings)
        model = Run(tmp_path / method).model()
        each = []
        for path in sorted((data / "test").iterdir()):
            image = torch.tensor(np.asarray(Image.open(data / "images" / path.name)).copy()).permute(2, 0, 1)[None] / 255
            found = (model(image)[0, 0].detach().numpy() > 0).astype(np.uint8)
            each.append(dice(confusion(predicted=found, truth=np.asarray(Image.open(path)) // 255)))
        scores[method] = np.mean(each)
    assert scores["pixel"] > scores["plain"] + 0.1
    assert scores["pixel"] > 0.85


# --- trust, from visit to visit --------------------------------------------------------------------------------------


def test_trust_goes_into_the_checkpoint_and_goes_on_from_there(data, straight, tmp_path, monkeypatch):
    whole = Run(straight(method="trust")).read_state("checkpoint.pt")
    assert whole["memory"]["trust._extra_state"]["pixels"].dtype == torch.int16
    assert whole["memory"]["trust._extra_state"]["pixels"].any()

    class Stopped(Exception): ...

    real, calls = ByTrust.forward, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == UPDATES - 1:
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ByTrust, "forward", stopping)
        with pytest.raises(Stopped):
            trained(data, tmp_path / "run", method="trust")
    trained(data, tmp_path / "run", method="trust", resume=True)
    assert same_weights(tmp_path / "run", straight(method="trust"))
    resumed = Run(tmp_path / "run").read_state("checkpoint.pt")
    assert torch.equal(resumed["memory"]["trust._extra_state"]["pixels"], whole["memory"]["trust._extra_state"]["pixels"])


def test_steps_are_told_which_pixels_of_which_cases_they_see(data, tmp_path):
    """The mask of a case, put back to its addresses from every batch, is always the same."""
    masks: dict[int, list[torch.Tensor]] = {}

    def looking(model, feed, config):
        where = feed.where()
        for case, addresses, mask in zip(where.ids, where.addresses, feed.noisy().masks, strict=True):
            upright = torch.empty_like(mask).flatten()
            upright[addresses.flatten()] = mask.flatten()
            masks.setdefault(case, []).append(upright)
        return step_of("plain")(model, feed, config)

    train(data, out=tmp_path / "run", config=configured(method="plain"), method=looking, show_progress=False)
    assert sorted(masks) == sorted(case.id for case in read_cases(data).of("noisy"))
    for seen in masks.values():
        assert len(seen) == 3
        assert all(torch.equal(mask, seen[0]) for mask in seen)


def test_a_watcher_adds_its_numbers_and_changes_nothing(data, tmp_path):
    def watch(feed, outcome):
        return {"images": float(len(feed.noisy().images)), "sum": outcome.weights.sum()}

    trained(data, tmp_path / "alone", method="trust")
    train(data, out=tmp_path / "run", config=configured(method="trust"), watch=watch, show_progress=False)
    assert same_weights(tmp_path / "run", tmp_path / "alone")
    assert history(tmp_path / "run")["sum"].to_numpy() == pytest.approx(1, abs=1e-5)


def test_a_watcher_may_leave_numbers_out_and_bring_no_new_ones(data, tmp_path):
    def at(*updates):
        return lambda feed, outcome: {"seen": 1.0} if feed.update in updates else {}

    config = configured(method="plain")
    train(data, out=tmp_path / "run", config=config, watch=at(0, 4), show_progress=False)
    assert pd.read_csv(tmp_path / "run" / "steps.csv")["seen"].notna().to_numpy().nonzero()[0].tolist() == [0, 4]
    assert history(tmp_path / "run")["seen"].notna().tolist() == [True, True, False]
    with pytest.raises(RunError, match="update 5 reports 'seen', which the first one did not"):
        train(data, out=tmp_path / "new", config=config, watch=at(4), show_progress=False)


def test_weight_maps_of_trust_are_its_own(data, tmp_path):
    trained(data, tmp_path / "run", method="trust", weight_map_cases=4)
    maps = Run(tmp_path / "run").weight_maps()
    assert maps["maps"].shape[:2] == (3, 4)
    assert maps["maps"].astype(float).mean((1, 2, 3)) == pytest.approx(1, abs=1e-2)
    assert state_of(tmp_path / "run")


@pytest.mark.parametrize("method", ["trust", "pixel", "image"])
def test_every_method_with_gains_leaves_a_helped_map_of_every_noisy_mask(data, tmp_path, method):
    trained(data, tmp_path / "run", method=method, trust_memory=0.5)
    run = Run(tmp_path / "run")
    assert sorted(path.name for path in (run.folder / "helped").iterdir()) == [f"{case.id}.png" for case in read_cases(data).of("noisy")]
    memory = run.read_state("checkpoint.pt")["memory"]
    remembered = Trust()
    remembered.load_state_dict({"_extra_state": memory["trust._extra_state"]})
    values = set()
    for case in read_cases(data).of("noisy"):
        trust = remembered.values(case.id).numpy()
        assert (remembered.visits(case.id) == 3).float().mean() > 0.9  # but where a gain was exactly 0
        labels = resize_labels(decode_labels(case.mask, classes=1, ignore_label=None)[0], run.config().size)
        shares = read_helped_map(run, case.id, labels)
        np.testing.assert_allclose(shares, (trust - 0.5**3) / (1 - 0.5**3), atol=0.003)
        values |= set(np.unique(shares.round(2)))
        assert read_helped_map(run, case.id, 1 - labels) is None  # another mask
        assert read_helped_map(run, f"{case.id} of another", labels) is None
    assert len(values) > 1
    assert has_helped_maps(run)


def test_the_helped_maps_of_earlier_versions_are_read(data, tmp_path):
    trained(data, tmp_path / "run", method="trust", epochs=1)
    run, case = Run(tmp_path / "run"), read_cases(data).of("noisy")[0]
    labels = resize_labels(decode_labels(case.mask, classes=1, ignore_label=None)[0], run.config().size)
    shares = read_helped_map(run, case.id, labels)
    (run.folder / "helped").rename(run.folder / "trust")
    assert has_helped_maps(run)
    assert np.array_equal(read_helped_map(run, case.id, labels), shares)


def test_a_method_without_gains_leaves_no_helped_maps(straight):
    assert not has_helped_maps(Run(straight(method="plain")))


def test_a_broken_helped_map_is_named(data, tmp_path):
    trained(data, tmp_path / "run", method="trust")
    case = read_cases(data).of("noisy")[0]
    path = tmp_path / "run" / "helped" / f"{case.id}.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_helped_map(Run(tmp_path / "run"), case.id, np.zeros((16, 16), np.uint8))
