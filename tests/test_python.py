"""From Python: a run that is loaded predicts arrays, settings come as a mapping, and results show themselves."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pixeltrust
from pixeltrust.benchmarking.answers import find_answer
from pixeltrust.benchmarking.grid import Grid, as_grid
from pixeltrust.config import Config, as_config
from pixeltrust.mending.settings import as_mender_config
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.prediction.predict import predict
from test_docs import blocks
from test_predict import half_red, make_run


@pytest.fixture
def run(tmp_path):
    return pixeltrust.load(make_run(tmp_path / "run"))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_array_gets_the_mask_that_its_file_gets(tmp_path, run):
    pixels = half_red(24, 40)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    predict(tmp_path / "run", tmp_path / "images", out=tmp_path / "out", probabilities=True, show_progress=False)
    mask = run.predict(pixels)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask * 255, np.asarray(Image.open(tmp_path / "out" / "a.png")))
    assert 0 < mask.sum() < mask.size
    written = np.asarray(Image.open(tmp_path / "out" / "probabilities" / "a.png")) / 65535
    assert run.predict(pixels, probabilities=True) == pytest.approx(written, abs=1e-5)
    assert np.array_equal(run.predict(tmp_path / "images" / "a.png"), mask)
    assert np.array_equal(run.predict(str(tmp_path / "images" / "a.png")), mask)


@pytest.mark.parametrize("sliding_window", [False, True])
def test_batches_and_lists_of_any_sizes_get_what_each_image_gets_alone(run, sliding_window):
    batch = noise(5, 20, 24, 3)  # more than one pass
    alone = [run.predict(image, sliding_window=sliding_window) for image in batch]
    assert np.array_equal(run.predict(batch, sliding_window=sliding_window), np.stack(alone))
    listed = [batch[0], noise(16, 16, 3), batch[1]]
    masks = run.predict(listed, sliding_window=sliding_window)
    assert [mask.shape for mask in masks] == [(20, 24), (16, 16), (20, 24)]
    assert np.array_equal(masks[2], alone[1])


def test_windows_see_what_shrinking_loses(run):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    assert np.array_equal(run.predict(stripes, sliding_window=True), stripes[..., 0] // 255)
    assert not np.array_equal(run.predict(stripes), stripes[..., 0] // 255)


def test_grey_floats_and_tensors_are_the_same_image(run):
    grey = noise(20, 24)
    mask = run.predict(grey)
    assert mask.any()
    for same in (grey[..., None], np.stack([grey] * 3, -1), grey / 255, (grey / 255).astype(np.float32), torch.from_numpy(grey)):
        assert np.array_equal(run.predict(same), mask)
    assert run.predict(noise(4, 20, 24)).shape == (4, 20, 24)


def test_a_grey_network_takes_colour(tmp_path):
    run = pixeltrust.load(make_run(tmp_path / "grey", "unet-tiny", channels=1))
    assert run.predict(noise(20, 24, 3)).shape == (20, 24)
    assert run.network(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)


def test_classes_are_labels_and_their_probabilities_planes(tmp_path):
    run = pixeltrust.load(make_run(tmp_path / "classes", classes=3))
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, 8:16, 0], pixels[:, 16:, 0] = 100, 200
    assert run.predict(pixels)[:, [3, 12, 20]].tolist() == [[0, 1, 2]] * 16
    probabilities = run.predict(pixels, probabilities=True)
    assert probabilities.shape == (3, 16, 24)
    assert probabilities.sum(0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 5, 2), np.int32), "int32 of 0 … 0; give uint8 of 0 … 255, or floats of 0 … 1"),
        (np.full((4, 5), 255.0), "float64 of 255 … 255"),
        (np.full((4, 5), np.nan), "float64 of nan … nan"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.zeros((1, 1, 2, 3, 3), np.uint8), "(1, 1, 2, 3, 3)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.zeros((0, 8), np.uint8), "(0, 8)"),
    ],
)
def test_arrays_that_are_no_image_are_refused_with_what_they_are(run, image, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        run.predict(image)


def test_a_folder_is_for_the_command(run, tmp_path):
    with pytest.raises(DataError, match=r"a folder; `pixeltrust\.predict`"):
        run.predict(tmp_path)


def test_a_loaded_run_says_what_it_is(run, tmp_path):
    assert str(run).startswith(f"{tmp_path / 'run'}: test_predict:pointwise trained by trust: ")
    assert str(run).endswith("images of 3 channels at 16x16 pixels, foreground; on cpu")
    assert str(tmp_path) in run._repr_html_()


def test_the_python_of_the_page_runs(monkeypatch, run):
    (code,) = (code for code in blocks("python", "docs/reference/commands.md") if "pixeltrust.load" in code)
    trained = []
    monkeypatch.setattr(pixeltrust, "train", lambda data, **options: trained.append(as_config(options["config"])), raising=False)
    monkeypatch.setattr(pixeltrust, "load", lambda folder: run, raising=False)
    exec(code, names := {"image": half_red(20, 24)})
    assert trained[0].method == "plain"
    assert names["mask"].shape == names["chance"].shape == (20, 24)


# --- settings ------------------------------------------------------------------------------------------------------


def test_a_setting_that_is_not_known_says_which_was_meant():
    with pytest.raises(ConfigError, match="unknown setting 'modle'; did you mean 'model'"):
        Config(modle="unet")


def test_a_mapping_is_taken_as_config():
    assert as_config({"epochs": 3}) == Config(epochs=3)
    assert as_config(None) == Config()
    assert as_config(own := Config(epochs=3)) is own
    assert as_mender_config({"epochs": 3}).method == "mender"
    assert as_mender_config({"epochs": 3}).model == as_mender_config(None).model != Config().model
    assert as_grid({"methods": ["plain"], "epochs": 3}) == Grid(methods=("plain",), settings={"epochs": 3})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        as_config({"epoch": 3})
    with pytest.raises(ConfigError, match="not list"):
        as_config(["epochs=3"])
    with pytest.raises(ConfigError, match="menders are trained by"):
        as_mender_config(Config())


@pytest.mark.parametrize("command", ["train", "mend", "benchmark", "question"])
def test_every_call_that_takes_a_config_takes_a_mapping(command, tmp_path):
    name = "grid" if command in ("benchmark", "question") else "config"
    (tmp_path / "data").mkdir()
    with pytest.raises((ConfigError, DataError)) as caught:
        getattr(pixeltrust, command)(tmp_path / "data", out=tmp_path / "out", show_progress=False, **{name: {"modle": "unet"}})
    assert command == "question" or "did you mean 'model'" in str(caught.value)  # a question reads the data first


# --- results -------------------------------------------------------------------------------------------------------


def test_an_evaluation_prints_the_table_of_the_command_and_shows_it_in_a_notebook(tmp_path, run_command):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(np.uint8(half_red(8, 8 + number)[..., 0] > 99) * 255).save(tmp_path / folder / f"{number}.png")
    evaluation = evaluate(tmp_path / "a", tmp_path / "b", show_progress=False)
    _, printed, _ = run_command("evaluate", tmp_path / "a", tmp_path / "b", "--quiet")
    assert printed.strip() == str(evaluation) == repr(evaluation)
    assert "dice" in printed
    assert "1.0000 … 1.0000" in printed
    html = evaluation._repr_html_()
    assert "<td>dice</td>" in html
    assert "<td>1.0000 … 1.0000</td>" in html
    assert "too narrow with so few cases" in html


def test_an_answer_shows_its_methods_in_a_table():
    scores = pd.DataFrame({"plain": np.linspace(0.5, 0.7, 20), "trust": np.linspace(0.6, 0.8, 20)})
    html = find_answer(scores)._repr_html_()
    assert "<td>trust</td>" in html
    assert "It helps. Use `trust`" in html
    assert html.count("minus plain") == 1


def test_names_are_escaped_in_notebooks():
    from pixeltrust.prediction.predict import Predicted

    predicted = Predicted(1, 0, 2.0, Path("<b>"), ())
    assert "&lt;b&gt;" in predicted._repr_html_()
    assert repr(predicted) == str(predicted)
