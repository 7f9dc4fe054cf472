"""Broken and odd files are handled rightly or named in one line: the corpus of tests/reliability/odd_files.py, alone and by commands."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import odd_files
from odd_files import LONG
from odd_making import COLOUR, HARM, case, content, half, harmful, put, saved
from pixeltrust.auditing.run import _Auditor
from pixeltrust.auditing.run_source import RunSource
from pixeltrust.data.cases import read_cases
from pixeltrust.data.image_files import image_suffix
from pixeltrust.data.images import read_labels
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.processes import ALONE
from pixeltrust.training.checkpoints import State
from pixeltrust.training.optimizers import build_optimizer, build_schedule
from pixeltrust.training.run_folder import Run
from pixeltrust.training.run_writer import RunWriter
from pixeltrust.training.train import train
from tiny import configured, draw, network
from waiting import TOO_LONG

pytestmark = pytest.mark.usefixtures("small_pictures")
MOST_MIB = 1536  # of memory for one file: a picture of 100 million pixels takes 11 bytes of each


@pytest.fixture(scope="module")
def outcomes():
    """What came of each, by number; tried by another process, with a limit to its memory and without a console."""
    ended = subprocess.run(
        [sys.executable, str(Path(odd_files.__file__)), "--outcomes"], capture_output=True, text=True, timeout=TOO_LONG, check=False
    )
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"at {odd_files.ODD[len(found)].what}: {ended.stderr[-2000:]}"
    assert "Traceback" not in ended.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(odd_files.ODD)), ids=lambda number: f"{odd_files.ODD[number].kind}: {odd_files.ODD[number].what}"
)
def test_an_odd_file_is_handled_rightly_or_named_in_one_line(outcomes, number):
    odd, outcome = odd_files.ODD[number], outcomes[number]
    assert outcome["outcome"] == ("refused" if odd.gives is None else "read")
    assert outcome["mib"] < MOST_MIB


def test_no_two_of_the_corpus_are_called_alike_and_there_are_many():
    assert len(odd_files.ODD) >= 60
    assert Counter((odd.kind, odd.what) for odd in odd_files.ODD).most_common(1)[0][1] == 1


@pytest.mark.slow
def test_the_page_has_the_table_that_the_corpus_gives(outcomes):
    table = odd_files.markdown([odd_files.Outcome(**outcome) for outcome in outcomes])
    page = Path(__file__).parents[1] / "docs/reference/inputs.md"
    assert table in page.read_text(encoding="utf-8"), "python tests/reliability/odd_files.py prints the table"


# Through the commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder, and the folder of a run on it."""
    root = tmp_path_factory.mktemp("trained")
    train(draw(root / "data"), out=root / "run", config=configured(epochs=1), show_progress=False)
    return root


def test_predict_writes_the_masks_of_all_it_can_read_and_names_the_others(trained, tmp_path, run_command):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    sizes, refused = {}, []
    for number, odd in enumerate((*odd_files.IMAGES, *odd_files.NIFTI)):
        made = tmp_path / "made" / str(number)
        made.mkdir(parents=True)
        path = odd.make(made)
        if odd.as_user or path.is_dir() or "bomb within" in odd.what:
            continue
        name = f"{number:03}{image_suffix(path)}"
        path.rename(images / name)
        if odd.gives is None:
            refused.append(name)
        else:
            sizes[f"{number:03}.png"] = tuple(np.shape(odd.gives)[:2] if isinstance(odd.gives, np.ndarray) else odd.gives[:2])
    saved(f"{LONG}.png", COLOUR)(images)
    sizes[f"{LONG}.png"] = (12, 20)
    (images / "folder.png").mkdir()
    code, _, error = run_command("predict", trained / "run", images, "--out", out, "--quiet")
    assert code == 2
    assert "Traceback" not in error
    listed = [line for line in error.splitlines() if line.startswith("  ")]
    assert [Path(line.strip().split(": ")[0]).name for line in listed] == refused
    assert {path.name: read_labels(path).shape for path in out.iterdir()} == sizes


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (put("images", content("n3.png", b"broken")), "n3.png"),
        (put("noisy", odd_files.changed(saved("000.png", COLOUR[..., 0]), half)), "000.png"),
        (put("clean", saved("010.png", COLOUR[:, :12])), "010.png"),
        (case("a\nb"), "a\\nb"),
    ],
    ids=["image", "half a mask", "a mask of another size", "a name of two lines"],
)
def test_train_names_what_is_odd_and_leaves_no_run(tmp_path, spoil, named, run_command):
    where = draw(tmp_path / "data", noisy=3, clean=2, test=0)
    (where / "images/n3.png").write_bytes((where / "images/000.png").read_bytes())
    (where / "noisy/n3.png").write_bytes((where / "noisy/000.png").read_bytes())
    spoil(where)
    code, _, error = run_command(
        "train", where, "--out", tmp_path / "run", "--set", "model=tiny:network", "--set", "image_size=16", "--quiet"
    )
    assert code == 2
    assert named in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_an_audit_names_a_mask_that_broke_after_training_and_does_not_come_to_its_end(trained, tmp_path, run_command):
    where = draw(tmp_path / "data")
    mask = where / "noisy/003.png"
    mask.write_bytes(half(mask.read_bytes()))
    code, _, error = run_command("audit", trained / "run", where, "--out", tmp_path / "audit", "--quiet")
    assert code == 2
    assert str(mask) in error
    assert "Traceback" not in error
    assert not (tmp_path / "audit" / "audit.json").exists()


# A run folder of a stranger


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_continuing_from_a_checkpoint_that_runs_code_is_refused_and_runs_none(trained, tmp_path, how):
    run = RunWriter(tmp_path / "run")
    run.create(configured(), pd.read_csv(trained / "run" / "cases.csv"))
    harmful("checkpoint.pt", how)(run.folder)
    with pytest.raises(RunError, match=r"checkpoint\.pt: refused"):
        train(trained / "data", out=run.folder, config=configured(), resume=True, show_progress=False)
    assert not (tmp_path / HARM).exists()


@pytest.fixture
def state():
    """Of a network after one step, and what it would save."""
    config, model = configured(), network(in_channels=3, out_channels=1)
    optimizer = build_optimizer(model, config)
    model(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    return State(model, optimizer, build_schedule(optimizer, config, 9))


@pytest.mark.parametrize("shape", [(3,), (6, 3, 3, 4), ()])
def test_an_optimisers_state_of_another_shape_is_refused_as_its_kernel_would_write_beyond(state, tmp_path, shape):
    packed = state.pack()
    packed["optimizer"]["state"][0]["exp_avg"] = torch.zeros(shape)
    with pytest.raises(RunError, match=r"checkpoint\.pt: does not fit .* exp_avg has the shape"):
        state.unpack(packed, Run(tmp_path))


def test_an_optimisers_state_has_memory_of_its_own_for_every_value(state, tmp_path):
    packed = state.pack()
    one = torch.full((1,), 0.25)
    packed["optimizer"]["state"][0]["exp_avg"] = one.expand(6, 3, 3, 3)  # one value in memory
    state.unpack(packed, Run(tmp_path))
    kept = state.optimizer.state[state.optimizer.param_groups[0]["params"][0]]["exp_avg"]
    assert kept.is_contiguous()
    assert (kept == 0.25).all()


def test_an_audit_and_a_report_of_a_run_with_harmful_arrays_run_no_code(trained, tmp_path, run_command):
    shutil.copytree(trained / "run", tmp_path / "run")
    harmful("weight_maps.npz", "numpy")(tmp_path / "run")
    code, _, error = run_command("report", tmp_path / "run")
    assert code == 2
    assert "weight_maps.npz" in error
    assert "Traceback" not in error
    assert not (tmp_path / HARM).exists()


def auditor_of(trained, out, *, cases=None):
    """An audit of the first cases, or of all."""
    found = read_cases(trained / "data", show_progress=False)
    noisy = found.of("noisy")[:cases]
    source = RunSource(Run(trained / "run"), "last", None)
    return _Auditor(source, trained / "data", noisy, found.pairs[:0], out, 9, 0.5, ALONE, show_progress=False)


def test_what_an_audit_has_seen_is_read_without_running_code(trained, tmp_path, run_command):
    """A half-finished audit of a stranger, resumed."""
    words = ("audit", trained / "run", trained / "data", "--out", tmp_path / "audit", "--quiet")
    assert run_command(*words)[0] == 0
    finished = tmp_path / "audit"
    (finished / "audit.json").unlink()
    with ExitStack() as held:
        auditor_of(trained, finished).begin(held)
    harmful("000.npz", "numpy")(finished / ".seen")
    code, _, error = run_command(*words, "--resume")
    assert code == 2
    assert "000.npz" in error
    assert not any(path.name == HARM for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("of.json", lambda path: path.write_text("[")),
        ("of.json", lambda path: path.write_text("[]")),
        ("000.npz", lambda path: np.savez(path, probabilities=np.zeros((1, 3, 3)))),
        ("000.npz", lambda path: np.savez(path, probabilities=np.zeros((1, 16, 16)), helped=np.zeros(16))),
    ],
)
def test_what_an_audit_has_seen_of_another_shape_is_refused(trained, tmp_path, name, spoil):
    out = tmp_path / "audit"
    auditor = auditor_of(trained, out, cases=1)
    with ExitStack() as held:
        assert len(auditor.begin(held)) == 1
    spoil(out / ".seen" / name)

    def go_on():
        with ExitStack() as held:
            auditor.begin(held)
            auditor.compare()

    with pytest.raises(PixeltrustError, match=re.escape(name)):
        go_on()


def test_a_run_that_an_earlier_version_began_is_continued(trained, tmp_path):
    """Its settings know less, its checkpoint has no memory and one number of seconds, its record no format."""
    stop = KeyboardInterrupt()

    def watch(feed, outcome):
        if feed.update == 4:
            raise stop
        return {}

    config = configured(method="plain", checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        train(trained / "data", out=tmp_path / "run", config=config, watch=watch, show_progress=False)
    run = RunWriter(tmp_path / "run")
    state = run.read_state("checkpoint.pt")
    del state["memory"]
    state["seconds"] = 12.5
    run.write_state("checkpoint.pt", state)
    kept = [line for line in (run.folder / "config.toml").read_text().splitlines() if not line.startswith(("along", "finetune_share"))]
    (run.folder / "config.toml").write_text("\n".join(kept))
    (run.folder / "environment.json").write_text("{}")
    done = train(trained / "data", out=run.folder, config=config, resume=True, show_progress=False)
    assert done.updates == 9
    assert done.seconds["other"] >= 12.5
    assert isinstance(run.model(), torch.nn.Module)
