"""A run folder: what is written is read back, and what is broken, foreign or absent is one sentence that names the file."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pixeltrust.data.cases import Case, table_of
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.training.models import build_model
from pixeltrust.training.run_folder import FORMAT
from pixeltrust.training.run_writer import RunWriter, describe_environment, parameters
from tiny import configured

CASES = table_of([Case("007", Path("a.png"), Path("b.png"), "noisy"), Case("NA", Path("c,d.png"), Path("e.png"), "clean", "1e5")], {"NA"})


@pytest.fixture
def run(tmp_path):
    run = RunWriter(tmp_path / "runs" / "one")
    run.create(configured(seed=3), CASES)
    return run


def network(name="tiny:network"):
    return build_model(name, channels=3, classes=1)


def refusal(call, *arguments):
    """The text of the RunError, which is one line."""
    with pytest.raises(RunError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def test_settings_and_cases_come_back_as_they_were(run):
    assert run.config() == configured(seed=3)
    assert run.read_table("cases.csv").values.tolist() == CASES.values.tolist()
    assert run.read_table("cases.csv").columns.tolist() == CASES.columns.tolist()


def test_the_environment_names_machine_versions_and_command(run):
    written = json.loads((run.folder / "environment.json").read_text())
    assert written == json.loads(json.dumps(describe_environment()))
    assert written["packages"]["torch"] == torch.__version__
    assert written["format"] == FORMAT


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert "config.toml" in refusal(RunWriter(tmp_path).config)
    assert "config.toml" in refusal(RunWriter(tmp_path / "nothing").model)


def test_a_run_of_a_later_version_is_refused(run):
    path = run.folder / "environment.json"
    path.write_text(json.dumps({"format": FORMAT + 1}))
    assert "later pixeltrust" in refusal(run.config)
    for harmless in ("{}", "[]", "not json", json.dumps({"format": FORMAT})):
        path.write_text(harmless)
        assert run.config() == configured(seed=3)
    path.unlink()
    assert run.config() == configured(seed=3)


def test_the_network_comes_back_in_eval_mode_with_the_same_weights(run):
    model = network()
    run.write_state("model.pt", {"model": parameters(model)})
    loaded = run.model()
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_last_and_best_weights_are_different_files(run):
    last, best = network(), network()
    run.write_state("model.pt", {"model": parameters(last)})
    run.write_state("best.pt", {"model": parameters(best), "epoch": 2, "val_dice": 0.5})
    for name, model in (("last", last), ("best", best)):
        assert torch.equal(run.model(name)[0].weight, model[0].weight)
    with pytest.raises(ConfigError, match="last or best"):
        run.model("first")


def test_absent_weights_are_refused(run):
    assert "model.pt" in refusal(run.model)
    assert "no best weights" in refusal(run.model, "best")


def test_parameters_are_a_copy():
    model = network()
    copy = parameters(model)
    model[0].weight.data.zero_()
    assert copy["0.weight"].any()
    assert not copy["0.weight"].requires_grad


def test_weights_of_another_network_are_refused_and_say_what_differs(run):
    run.write_state("model.pt", {"model": parameters(network("tiny:wider"))})
    text = refusal(run.model)
    assert "model = 'tiny:network'" in text
    assert "size mismatch for 0.weight" in text


@pytest.mark.parametrize(
    "state",
    [{}, {"model": 3}, {"model": {1: torch.zeros(3)}}, {"model": {"0.weight": 3}}, {"model": {}}, torch.zeros(3), [1]],
    ids=lambda state: str(state)[:20],
)
def test_a_file_of_something_else_is_refused(run, state):
    torch.save(state, run.folder / "model.pt")
    assert "model.pt" in refusal(run.model)


class _Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_strangers_pickle_is_refused_and_does_not_run(run, how, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = run.folder / "model.pt"
    torch.save({"model": _Harmful()}, path) if how == "torch" else path.write_bytes(pickle.dumps(_Harmful()))
    text = refusal(run.model)
    assert "code" in text
    assert "weights_only" not in text
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("broken", ["empty", "text", "half", "without its end", "zip of nothing"])
def test_a_broken_file_is_refused(run, broken):
    path = run.folder / "model.pt"
    run.write_state("model.pt", {"model": parameters(network())})
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello there",
            "half": whole[: len(whole) // 2],
            "without its end": whole[:-10],
            "zip of nothing": b"PK\x05\x06" + bytes(18),
        }[broken]
    )
    assert str(path) in refusal(run.model)


def test_broken_weight_maps_and_tables_are_refused(run):
    assert run.weight_maps() is None
    for content in (b"", b"PK\x05\x06" + bytes(18), b"text"):
        (run.folder / "weight_maps.npz").write_bytes(content)
        assert "weight_maps.npz" in refusal(run.weight_maps)
    with (run.folder / "weight_maps.npz").open("wb") as file:
        np.savez(file, ids=np.array([{}]), epochs=np.zeros(1), maps=np.zeros(1))  # an object array would be a pickle
    assert "weight_maps.npz" in refusal(run.weight_maps)
    assert "history.csv" in refusal(run.read_table, "history.csv")
    (run.folder / "history.csv").write_bytes(b"")
    assert "history.csv" in refusal(run.read_table, "history.csv")


@pytest.mark.parametrize(("ids", "epochs", "maps"), [((1,), (1,), (3,)), ((2,), (2,), (1, 1, 4, 4)), ((1,), (), (1, 4, 4, 4))])
def test_weight_maps_of_other_epochs_and_cases_are_refused(run, ids, epochs, maps):
    run.write_arrays("weight_maps.npz", ids=np.zeros(ids, str), epochs=np.zeros(epochs, int), maps=np.zeros(maps))
    assert "weight_maps.npz" in refusal(run.weight_maps)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cases.csv", "id,image,mask\na,b,c\n", "no column role, held_out"),
        ("history.csv", "epoch,loss\n1,2\n", "no column update, seconds, all_zero_steps, val_dice"),
        ("history.csv", "epoch,update,seconds,loss,all_zero_steps,val_dice\n", "no row"),
        ("history.csv", "epoch,update,seconds,loss,all_zero_steps,val_dice\n1,,3,4,5,6\n", "not a number"),
        ("history.csv", "epoch,update,seconds,loss,all_zero_steps,val_dice\n1,x,3,4,5,6\n", "cannot be read"),
    ],
)
def test_a_table_that_lacks_what_every_run_writes_is_refused(run, name, content, said):
    (run.folder / name).write_text(content)
    text = refusal(run.read_table, name)
    assert name in text
    assert said in text


def test_arrays_come_back_as_they_were(run):
    arrays = {"ids": np.array(["é", "b"]), "epochs": np.array([1, 4]), "maps": np.random.default_rng(0).random((2, 2, 3, 3))}
    run.write_arrays("weight_maps.npz", **arrays)
    assert {name: array.tolist() for name, array in run.weight_maps().items()} == {n: a.tolist() for n, a in arrays.items()}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(run, monkeypatch):
    run.write_state("model.pt", {"model": 1})
    before = sorted(path.name for path in run.folder.iterdir())

    def fails(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    assert "No space left" in refusal(run.write_state, "model.pt", {"model": 2})
    assert run.read_state("model.pt") == {"model": 1}
    assert sorted(path.name for path in run.folder.iterdir()) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files have no limit that this process can set")
@pytest.mark.parametrize("limit", [0, 700, 3000, 40_000])
def test_what_the_disk_refuses_torchs_writer_is_one_line(run, limit):
    import resource

    run.write_state("model.pt", {"model": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        text = refusal(run.write_state, "model.pt", {"model": torch.zeros(20_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in text
    assert run.read_state("model.pt") == {"model": 1}


def test_warnings_come_back_and_go_with_what_they_warn_of(run):
    assert run.warnings() == []
    run.write_warnings(["all is äqual", "another"])
    assert run.warnings() == ["all is äqual", "another"]
    run.write_warnings([])
    assert run.warnings() == []
    assert not (run.folder / "warnings.txt").exists()
    run.write_warnings([])


def test_nothing_can_be_written_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    run = RunWriter(tmp_path / "file" / "run")
    assert "cannot be written" in refusal(run.create, configured(), CASES)
    with pytest.raises(RunError, match="cannot be written"), run.claimed():
        pass
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(RunError, match="cannot be written"), RunWriter(tmp_path / "run").claimed():
        raise AssertionError


def test_a_claimed_folder_goes_with_its_cache_and_stays_with_anything_else(tmp_path):
    run = RunWriter(tmp_path / "run")
    with run.claimed():
        (run.folder / ".cache" / "images.uint8").write_bytes(b"")
    assert not run.folder.exists()
    with run.claimed():
        run.write_table("history.csv", pd.DataFrame({"epoch": [1]}))
    assert [path.name for path in run.folder.iterdir()] == ["history.csv"]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    run = RunWriter(tmp_path / "run")
    with run.claimed():
        (run.cache() / "images.uint8").write_bytes(b"")
        with pytest.raises(RunError, match="run: another process trains in it; wait until it ends"), RunWriter(run.folder).claimed():
            raise AssertionError
        assert (run.cache() / "images.uint8").exists()  # the one that came later took nothing away
    with run.claimed():  # nothing is left of it
        pass


def test_only_what_a_kill_before_the_settings_leaves_counts_as_no_other_file(tmp_path, run):
    folder = tmp_path / "new"
    assert not RunWriter(folder).has_other_files()
    folder.mkdir()
    for name in (".cache", "environment.json", ".cases.csv.unfinished", "cases.csv", ".config.toml.unfinished"):
        assert not RunWriter(folder).has_other_files()
        (folder / name).touch()
    assert not RunWriter(folder).has_other_files()
    (folder / "images").mkdir()
    assert RunWriter(folder).has_other_files()
    assert RunWriter(folder / "cases.csv").has_other_files()
    assert run.has_other_files()
