"""Trust in nnU-Net, with nnU-Net itself on made-up volumes: planned, preprocessed and trained by its own commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2", reason="nnU-Net is not installed; .ci/nnunet runs these tests in an environment that has it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the warnings of nnU-Net's own code are no failures here

import nibabel  # noqa: E402
from nnunetv2.run.run_training import get_trainer_from_args  # noqa: E402

from pixeltrust.adapters.nnunet import TRAINERS  # noqa: E402
from pixeltrust.plumbing.errors import DataError  # noqa: E402

NAME, CASES, CLEAN = "Dataset001_Balls", 10, ["ball_00", "ball_03", "ball_05", "ball_09"]
SHORT = """
from pixeltrust.adapters.nnunet import nnUNetTrainerPixelTrust

class Short(nnUNetTrainerPixelTrust):
    def __init__(self, plans, configuration, fold, dataset_json, device):  # nnU-Net asks for these names
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset that nnU-Net has preprocessed, with a smaller plan, `small`, and nnU-Net's environment."""
    folder = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(folder / name))
        for name, value in {"n_proc_DA": "1", "def_n_proc": "1", "extTrainer": f"{folder / 'trainers'}{os.pathsep}{TRAINERS}"}.items():
            patch.setenv(f"nnUNet_{name}", value)
        (folder / "trainers").mkdir()
        (folder / "trainers" / "short_training.py").write_text(SHORT)
        draw(folder / "raw" / NAME)
        run("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "2d", "-np", "1", "1", "-npfp", "1")
        plans = json.loads((folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
        plans["plans_name"] = "small"
        for configuration, patch_size in {"3d_fullres": [16, 16, 16], "2d": [16, 16]}.items():
            network = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
            network |= {"n_stages": 3, "features_per_stage": [4, 8, 8], "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
            network |= {name: network[name][:3] for name in ("kernel_sizes", "strides")}
            network["strides"][1:] = [[2] * len(patch_size)] * 2
            plans["configurations"][configuration] |= {"patch_size": patch_size, "batch_size": 2}
        (folder / "preprocessed" / NAME / "small.json").write_text(json.dumps(plans))
        patch.setenv("nnUNet_n_proc_DA", "0")  # what nnU-Net plans no networks with
        yield folder


def draw(dataset: Path) -> None:
    """Write volumes of two half balls with a border of zeros, which nnU-Net cuts off, of two spacings, which it resamples."""
    random = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (dataset / name).mkdir(parents=True)
    for number in range(CASES):
        shape = (24, 26 + number % 3, 28)
        away = np.indices(shape) - random.uniform(11, 13, 3)[:, None, None, None]
        labels = (np.sqrt((away**2).sum(0)) < random.uniform(5, 8)) * np.where(away[0] < 0, 1, 2)
        image = random.normal(labels * 2.0 + 5, 0.5)
        image[:, :3] = 0
        affine = np.diag([1.0, 1.0, 1.2 if number % 2 else 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), dataset / "imagesTr" / f"ball_{number:02}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), dataset / "labelsTr" / f"ball_{number:02}.nii.gz")
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(about))
    (dataset / "clean.txt").write_text("\n".join(CLEAN) + "\n")


def run(command: str, *words: str) -> str:
    ended = subprocess.run([Path(sys.executable).with_name(command), *words], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def trainer_of(configuration: str = "3d_fullres", name: str = "Short", fold: int = 0):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # nnU-Net's loaders draw from it
    trainer = get_trainer_from_args("1", configuration, fold, name, "small", device=torch.device("cpu"))
    trainer.initialize()
    return trainer


def test_the_command_trains_and_writes_helped_maps_on_the_grid_of_its_softmax(folder, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    said = run("nnUNetv2_train", "1", "3d_fullres", "0", "-p", "small", "-tr", "Short", "-device", "cpu", "--npz")
    assert "Mean Validation Dice" in said
    out = folder / "results" / NAME / "Short__small__3d_fullres" / "fold_0"
    split = json.loads((folder / "preprocessed" / NAME / "splits_final.json").read_text())[0]
    maps = {path.stem: np.load(path) for path in (out / "helped").iterdir()}
    assert maps
    assert maps.keys() <= set(split["train"]) - set(CLEAN)
    for case, helped in maps.items():
        shape = nibabel.load(folder / "raw" / NAME / "labelsTr" / f"{case}.nii.gz").shape
        assert (helped.shape, helped.dtype) == (shape[::-1], np.uint8)  # nnU-Net's arrays have the last axis of a NIfTI file first
        assert (helped[:, :3] == 255).all()  # what was cut off was never seen
        assert helped.min() < 255
    softmax = np.load(out / "validation" / f"{split['val'][0]}.npz")["probabilities"]
    assert softmax.shape[1:] == nibabel.load(folder / "raw" / NAME / "labelsTr" / f"{split['val'][0]}.nii.gz").shape[::-1]
    checkpoint = torch.load(out / "checkpoint_final.pth", weights_only=False)
    assert set(maps) == set(checkpoint["trust"]["_extra_state"]["ids"])
    run("nnUNetv2_train", "1", "3d_fullres", "0", "-p", "small", "-tr", "Short", "-device", "cpu", "--c")  # nothing is left to do


def test_nnunet_finds_the_trainer_in_the_folder_that_the_module_prints(folder, monkeypatch):
    printed = subprocess.run([sys.executable, "-m", "pixeltrust.adapters.nnunet"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("nnUNet_extTrainer", printed.strip())
    assert type(trainer_of(name="nnUNetTrainerPixelTrust")).__module__ == "pixeltrust.adapters.nnunet"


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("turned", [0, 1])
def test_an_address_is_the_voxel_that_a_patch_shows(folder, configuration, turned):
    trainer = trainer_of(configuration)
    train, _ = trainer.get_dataloaders()
    spatial = train.data_loader._loader.transforms.transforms[0]
    spatial.p_rotation = spatial.p_scaling = turned
    right = shown = 0
    for _ in range(10):
        batch = next(train)
        assert set(batch["clean"]["keys"]) <= set(CLEAN)
        for case, addresses, masks in zip(batch["keys"], batch["addresses"], batch["target"][0], strict=True):
            assert case not in CLEAN
            labels = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)[1][:].clip(min=0).ravel()
            inside = addresses >= 0
            right += int((labels[addresses[inside].numpy()] == masks[0][inside].numpy()).sum())
            shown += int(inside.sum())
            assert not masks[0][~inside].any() or turned
    assert shown > 1000
    assert right == shown if not turned else right > 0.97 * shown  # a mask is interpolated between voxels, an address is of the nearest


def test_a_fresh_trainer_goes_on_from_a_checkpoint_bit_for_bit(folder, tmp_path):
    first, second = trainer_of(), trainer_of()
    first.on_train_start()
    batches = [next(first.dataloader_train) for _ in range(3)]
    first.train_step(batches[0])
    first.train_step(batches[1])
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    second.set_deep_supervision_enabled(True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
    assert first.train_step(batches[2])["loss"] == second.train_step(batches[2])["loss"]
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    assert first.trust.ids == second.trust.ids
    assert all(torch.equal(first.trust.values(case), second.trust.values(case)) for case in first.trust.ids)


def test_ignored_voxels_are_no_evidence(folder, monkeypatch):
    trainer = trainer_of()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    monkeypatch.setattr(trainer.label_manager, "_ignore_label", 3)
    batch["target"][0][0, 0, :8] = 3
    trainer.train_step(batch)
    case, addresses = str(batch["keys"][0]), batch["addresses"][0]
    visits = trainer.trust.visits(case).ravel()
    ignored, counted = addresses[:8], addresses[8:]
    if batch["keys"][1] != case:
        assert not visits[ignored[ignored >= 0]].any()
    assert visits[counted[counted >= 0]].float().mean() > 0.9


def test_a_list_that_does_not_fit_is_refused(folder):
    path = folder / "raw" / NAME / "clean.txt"
    listed = path.read_text()
    every = "\n".join(f"ball_{number:02}" for number in range(CASES))
    for text, fault in [(f"{listed}ball_77\n", "ball_77"), (every, "no noisy case"), ("\n", "no clean case"), (None, "no clean.txt in")]:
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(DataError, match=fault):
            trainer_of().get_dataloaders()
    (folder / "preprocessed" / NAME / "clean.txt").write_text(listed)  # taken where the raw folder has none
    trainer_of().get_dataloaders()
    (folder / "preprocessed" / NAME / "clean.txt").unlink()
    path.write_text(listed)


def test_what_cannot_be_trained_is_refused(folder, monkeypatch):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    with monkeypatch.context() as patch:
        patch.setattr(LabelManager, "has_regions", property(lambda _: True))
        with pytest.raises(ValueError, match="does not train regions"):
            trainer_of()
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.is_initialized", lambda: True)
        patch.setattr("torch.distributed.get_rank", lambda: 0)
        patch.setattr("torch.distributed.get_world_size", lambda: 2)
        with pytest.raises(ValueError, match="does not train several GPUs"):
            trainer_of()
