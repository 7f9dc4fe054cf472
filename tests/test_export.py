"""The network of a run as ONNX: what onnxruntime gives is what torch gives, at any batch and size; the script of the page uses it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pixeltrust
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.prediction.export import export
from test_docs import blocks
from test_predict import make_run

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")


def session_of(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"image_size": 32}, (5, 3, 48, 16)),
        ({"image_size": (32, 48), "classes": 3, "channels": 1}, (1, 1, 16, 64)),
        ({"image_size": (16, 16, 16), "channels": 2, "batch_size": 1}, (2, 2, 32, 16, 16)),
    ],
    ids=["pictures", "classes", "volumes"],
)
def test_the_file_gives_what_torch_gives_at_any_size(tmp_path, settings, shape):
    run = make_run(tmp_path / "run", "unet-tiny", **settings)
    done = export(run)
    assert done.out == run / "model.onnx"
    assert done.difference < 1e-5
    assert len(done.sizes) == 2
    assert f"differ by {done.difference:.1e} at most" in str(done)
    images = torch.rand(shape)
    (found,) = session_of(done.out).run(None, {"images": images.numpy()})
    model = pixeltrust.load(run).network
    with torch.no_grad():
        logits = model(images)
    assert found == pytest.approx((logits.sigmoid() if settings.get("classes", 1) == 1 else logits.softmax(1)).numpy(), abs=1e-5)
    about = json.loads(session_of(done.out).get_modelmeta().custom_metadata_map["pixeltrust"])
    assert about["image_size"] == list(settings["image_size"] if isinstance(settings["image_size"], tuple) else (32, 32))
    assert (about["classes"], about["channels"]) == (settings.get("classes", 1), shape[1])


@pytest.mark.parametrize("classes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_script_of_the_page_gives_the_mask_that_predict_gives(tmp_path, monkeypatch, classes):
    (code,) = (code for code in blocks("python", "docs/reference/commands.md") if "onnxruntime" in code)
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "trust", "unet-tiny", image_size=32, classes=classes)
    export(run)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    exec(code, {})
    mask = np.asarray(Image.open("mask.png")) // (255 if classes == 1 else 1)
    assert (mask == pixeltrust.load(run).predict(pixels)).mean() > 0.99
    assert len(code.splitlines()) < 20


def test_a_file_that_is_there_is_replaced_and_another_may_be_named(tmp_path, run_command):
    run = make_run(tmp_path / "run", "unet-tiny")
    (tmp_path / "other.onnx").write_text("old")
    code, output, _ = run_command("export", run, "--format", "onnx", "--out", tmp_path / "other.onnx")
    assert code == 0
    assert output.endswith(f"the network is in {tmp_path / 'other.onnx'}\n")
    assert session_of(tmp_path / "other.onnx").get_inputs()[0].name == "images"
    assert not (run / "model.onnx").exists()


class Fixed(nn.Module):
    """Takes one size alone."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(16, 16))

    def forward(self, images):
        return images[:, :1] + self.bias


class Branching(nn.Module):
    """Does something else in the second run of it, as a network that follows its values would."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * (images[:, :1] if len(images) == 2 else -images[:, :1])


def fixed(in_channels, out_channels):
    return Fixed()


def branching(in_channels, out_channels):
    return Branching()


def test_a_network_of_one_size_is_exported_for_that(tmp_path):
    done = export(make_run(tmp_path / "run", f"{__name__}:fixed"))
    assert done.sizes == ((16, 16),)
    assert "it takes images of this size alone" in str(done)


def test_a_file_that_gives_something_else_is_not_kept(tmp_path):
    run = make_run(tmp_path / "run", f"{__name__}:branching")
    with pytest.raises(RunError, match=r"differ by .* from those of torch; nothing was written"):
        export(run)
    assert not list(run.glob("*.onnx*"))


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "unet-tiny")
    with pytest.raises(ConfigError, match="format must be onnx, not 'torch'"):
        export(run, format="torch")
    with pytest.raises(RunError, match="not a run folder"):
        export(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"install the extra, pip install 'pixeltrust\[onnx\]'"):
        export(run)
    assert not Path(run / "model.onnx").exists()
