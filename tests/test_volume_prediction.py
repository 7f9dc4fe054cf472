"""Masks of volumes, by networks whose right answer is known."""

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.image_files import written_suffix
from pixeltrust.data.images import read_header, read_labels
from pixeltrust.data.resampling import resample, resample_planes
from pixeltrust.plumbing.errors import DataError
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.prediction.load import load
from pixeltrust.prediction.planes import slide_windows
from pixeltrust.prediction.predict import predict
from pixeltrust.training.models import build_model
from pixeltrust.training.run_writer import RunWriter
from volumes import SHAPE, TURNED, ellipsoid, simple_itk, write_nifti, write_series

CPU = torch.device("cpu")
WINDOW = (4, 16, 16)
LABELS = ellipsoid()


class ByValue(nn.Module):
    """A voxel's label is its mean value over the channels, rounded: of 0 … 2, or above ½; in values that `normalise` makes of −1 … 1."""

    interrupted_after = 10**9

    def __init__(self, classes):
        super().__init__()
        self.classes, self.scale = classes, nn.Parameter(torch.tensor(30.0))

    def forward(self, images):
        ByValue.interrupted_after -= 1
        if ByValue.interrupted_after < 0:
            raise KeyboardInterrupt
        value = 1 + images.mean(1, keepdim=True)
        if self.classes == 1:
            return self.scale * (value - 0.5)
        return -self.scale * (value - torch.arange(self.classes).reshape(1, -1, 1, 1, 1)) ** 2


def by_value(in_channels, out_channels, spatial_dims=3):
    return ByValue(out_channels)


def make_run(folder, **settings):
    """A run that looks as if it had been trained on volumes of 5 x .8 x .8 mm."""
    usual = {"image_size": WINDOW, "spacing": (5.0, 0.8, 0.8), "normalise": "ct:0,2", "channels": 1, "classes": 3, "batch_size": 4}
    config = Config(**{"model": f"{__name__}:by_value", "device": "cpu", **usual, **settings})
    run = RunWriter(folder)
    run.create(config, pd.DataFrame())
    model = build_model(config.model, channels=config.channels, classes=config.classes, axes=3)
    run.write_state("model.pt", {"model": model.state_dict()})
    return folder


def run_predict(run, images, out, **options):
    return predict(run, images, out=out, show_progress=False, **options)


def geometry(path):
    block = nibabel.load(path).header.binaryblock
    return [block[part] for part in (slice(76, 108), slice(123, 124), slice(252, 328))]


@pytest.fixture(autouse=True)
def _not_interrupted():
    ByValue.interrupted_after = 10**9


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b", "c"):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", LABELS.astype(np.float32))
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# Windows and planes


@pytest.mark.parametrize("shape", [(8, 12, 10), (20, 12, 17), (21, 30, 16), (9, 12, 10)])
def test_windows_are_those_of_monai_plane_by_plane(shape):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    network = torch.nn.Conv3d(2, 3, 3, padding=1)

    def probabilities(images):
        with torch.no_grad():
            return network(images).softmax(1)

    whole = sliding_window_inference(torch.from_numpy(image)[None], (8, 12, 10), 4, probabilities, overlap=0.5, mode="gaussian")
    planes = list(slide_windows(image, (8, 12, 10), probabilities, batch_size=4, device=CPU))
    assert np.stack(planes, axis=1) == pytest.approx(whole[0].numpy(), abs=1e-5)


@pytest.mark.parametrize("shape", [(10, 12, 8), (4, 30, 5), (23, 6, 8), (10, 7, 19), (1, 12, 8)])
def test_planes_are_resampled_as_the_whole_is(shape):
    values = np.random.default_rng(0).random((3, 10, 12, 8), dtype=np.float32)
    planes = list(resample_planes(values.swapaxes(0, 1), 10, shape))
    assert np.stack(planes, axis=1) == pytest.approx(resample(values, shape), abs=1e-5)


def test_few_planes_are_held_while_they_are_resampled():
    taken = 0

    def planes():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield np.zeros((1, 2, 2), np.float32)

    for place, _ in enumerate(resample_planes(planes(), 100, (50, 2, 2))):
        assert taken <= 2 * place + 4
    assert taken == 100


# Predictions


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_the_mask_is_the_known_one_in_the_format_and_on_the_grid_of_the_volume(run, tmp_path, out, ending):
    path = write_nifti(tmp_path / "nifti" / f"v{ending if ending.startswith('.nii') else '.nii'}", LABELS.astype(np.int16))
    if not ending.startswith(".nii"):
        itk = simple_itk()
        (tmp_path / "others").mkdir()
        itk.WriteImage(itk.ReadImage(str(path)), str(tmp_path / "others" / f"v{ending}"))
        path = tmp_path / "others" / f"v{ending}"
    summary = run_predict(run, path.parent, out)
    mask = out / f"v{written_suffix(path)}"  # as one file
    assert (read_labels(mask) == LABELS).all()
    written, wanted = read_header(mask).grid, read_header(path).grid
    assert (written.steps == wanted.steps).all()
    assert (written.origin == wanted.origin).all()
    if ending.startswith(".nii"):
        assert geometry(mask) == geometry(path)
    assert "patches of [4, 16, 16] voxels at a spacing of [5.0, 0.8, 0.8] mm" in str(summary)


@pytest.mark.parametrize(
    "affine", [np.diag([0.4, 0.4, 5, 1]), np.diag([0.8, 1.2, 2.5, 1]) @ np.eye(4)[[1, 0, 2, 3]], np.diag([-2, 0.3, 3, 1])]
)
def test_volumes_of_other_spacings_and_directions_are_predicted_on_their_own_grid(run, tmp_path, out, affine):
    labels = np.repeat(np.repeat(ellipsoid((12, 20, 18), (5, 8, 7)), 2, axis=1), 2, axis=2)
    write_nifti(tmp_path / "truth" / "v.nii.gz", labels, affine)
    write_nifti(tmp_path / "images" / "v.nii.gz", labels.astype(np.float32), affine)
    run_predict(run, tmp_path / "images", out)
    assert geometry(out / "v.nii.gz") == geometry(tmp_path / "truth" / "v.nii.gz")
    assert evaluate(out, tmp_path / "truth", classes=3, show_progress=False).cases["dice"][0] > 0.8


def test_a_volume_smaller_than_a_window_is_padded_and_cut_again(run, tmp_path, out):
    write_nifti(tmp_path / "images" / "v.nii.gz", LABELS[2:4, 4:, 7:].astype(np.float32))
    run_predict(run, tmp_path / "images", out)
    assert (read_labels(out / "v.nii.gz") == LABELS[2:4, 4:, 7:]).all()


def test_thick_slices_of_ten_to_one_are_taken(run, tmp_path, out):
    write_nifti(tmp_path / "images" / "v.nii.gz", LABELS.astype(np.float32), np.diag([0.5, 0.5, 5, 1]))
    run_predict(run, tmp_path / "images", out)
    assert (read_labels(out / "v.nii.gz") == LABELS).mean() > 0.95


def test_one_class_is_0_and_1(tmp_path, images, out):
    run = make_run(tmp_path / "run", classes=1)
    run_predict(run, images / "a.nii.gz", out)
    assert (read_labels(out / "a.nii.gz") == (LABELS > 0)).all()
    assert [path.name for path in out.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_are_shares_for_whoever_reads_them_and_say_the_mask(tmp_path, images, out, classes):
    itk = simple_itk()
    run_predict(make_run(tmp_path / "run", classes=classes), images / "a.nii.gz", out, probabilities=True)
    folders = [out / "probabilities"] if classes == 1 else [out / "probabilities" / str(label) for label in range(classes)]
    shares = np.stack([nibabel.load(folder / "a.nii.gz").get_fdata().transpose() for folder in folders])
    assert shares.min() >= 0
    assert shares.max() == pytest.approx(1, abs=1e-6)
    if classes == 1:
        assert ((shares[0] > 0.5) == (read_labels(out / "a.nii.gz") == 1)).all()
    else:
        assert shares.sum(0) == pytest.approx(1, abs=1e-4)
        assert (shares.argmax(0) == read_labels(out / "a.nii.gz")).all()
    by_itk = itk.ReadImage(str(folders[0] / "a.nii.gz"))
    assert itk.GetArrayFromImage(by_itk) == pytest.approx(shares[0], abs=1e-6)
    assert geometry(folders[0] / "a.nii.gz") == geometry(images / "a.nii.gz")


def test_channels_come_together_as_nnunet_names_them(tmp_path, out):
    for name in ("p_0000", "p_0001", "q_0000", "q_0001"):
        write_nifti(tmp_path / "imagesTs" / f"{name}.nii.gz", (2 * LABELS if name.endswith("0") else 0 * LABELS).astype(np.float32))
    run = make_run(tmp_path / "run", channels=2, normalise="ct:0,2")
    labels = np.minimum(LABELS, 1)  # the mean of what is clipped to 2, and 0
    run_predict(run, tmp_path / "imagesTs", out)
    assert sorted(path.name for path in out.iterdir()) == ["p.nii.gz", "q.nii.gz"]
    assert (read_labels(out / "p.nii.gz") == labels).all()
    run_predict(run, tmp_path / "imagesTs" / "q_0000.nii.gz", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["q.nii.gz"]
    (tmp_path / "imagesTs" / "q_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="takes 2 channels, one a file"):
        run_predict(run, tmp_path / "imagesTs", tmp_path / "two")


def test_the_only_channel_of_nnunets_names_is_taken_off_and_other_numbers_are_ids(run, tmp_path, out):
    for folder, names in (("imagesTs", ("p_0000", "q_0000")), ("images", ("p_0000", "p_0001"))):
        for name in names:
            write_nifti(tmp_path / folder / f"{name}.nii.gz", LABELS.astype(np.float32))
        summary = run_predict(run, tmp_path / folder, out / folder)
        assert ("channels of 1 image by their names (such as p); the network takes one channel" in str(summary)) == (folder == "images")
    assert sorted(path.name for path in (out / "imagesTs").iterdir()) == ["p.nii.gz", "q.nii.gz"]
    assert sorted(path.name for path in (out / "images").iterdir()) == ["p_0000.nii.gz", "p_0001.nii.gz"]


def test_dicom_series_are_predicted_by_their_folders(run, tmp_path, out):
    for name in ("p1", "p2"):
        write_series(tmp_path / "scans" / name, LABELS.astype(np.int16))
    run_predict(run, tmp_path / "scans", out, probabilities=True)
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["p1.nii.gz", "p2.nii.gz"]
    written, wanted = read_header(out / "p1.nii.gz").grid, read_header(tmp_path / "scans" / "p1").grid
    assert written.difference(wanted) == ""
    assert (out / "probabilities" / "2" / "p2.nii.gz").is_file()
    run_predict(run, tmp_path / "scans" / "p2", out / "one")
    assert read_labels(out / "one" / "p2.nii.gz").tobytes() == read_labels(out / "p2.nii.gz").tobytes()


def test_a_stopped_prediction_goes_on_where_it_stopped(run, images, out):
    passes = 10**9 - ByValue.interrupted_after
    run_predict(run, images, out / "whole", probabilities=True)
    passes = 10**9 - ByValue.interrupted_after
    ByValue.interrupted_after = passes // 2
    with pytest.raises(KeyboardInterrupt):
        run_predict(run, images, out / "stopped", probabilities=True)
    assert [path.name for path in (out / "stopped").glob("*.nii.gz")] == ["a.nii.gz"]
    assert list((out / "stopped").rglob(".*")) == []
    ByValue.interrupted_after = 10**9
    summary = run_predict(run, images, out / "stopped", probabilities=True, resume=True)
    assert (summary.count, summary.skipped) == (2, 1)
    for path in (out / "whole").rglob("*.nii.gz"):
        assert (out / "stopped" / path.relative_to(out / "whole")).read_bytes() == path.read_bytes()


def test_volumes_that_cannot_be_read_are_all_named_after_the_others_were_written(run, images, out):
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 24, 10, 3), np.float32), TURNED), images / "four.nii.gz")
    write_nifti(images / "nan.nii.gz", np.full(SHAPE, np.nan, np.float32))
    write_nifti(images / "plane.nii.gz", LABELS[:1].astype(np.float32))
    (images / "cut.nii.gz").write_bytes((images / "a.nii.gz").read_bytes()[:-100])
    write_nifti(images / "vast.nii.gz", LABELS.astype(np.float32), np.diag([900, 900, 900, 1]))
    torch.manual_seed(0)
    with pytest.raises(DataError) as caught:
        run_predict(run, images, out)
    text = str(caught.value)
    assert "5 of 8 images cannot be read; 3 other masks written" in text
    for words in (
        "four.nii.gz: 4 axes, of shape (20, 24, 10, 3); a volume has three",
        "nan.nii.gz: holds 4,800 voxels whose value is not finite",
        "plane.nii.gz: a picture, where the network takes volumes",
        "cut.nii.gz: cannot be read: ",
        "vast.nii.gz: at the spacing of training, 0.8 x 0.8 x 5 mm, it would have 22500 x 27000 x 1800 voxels",
    ):
        assert words in text
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_what_lies_beside_folders_of_series_is_noted(run, tmp_path, out):
    simple_itk()
    write_series(tmp_path / "scans" / "one", np.random.default_rng(0).integers(0, 99, (6, 24, 20)).astype(np.int16))
    (tmp_path / "scans" / "notes.txt").write_text("nothing")
    done = run_predict(run, tmp_path / "scans", out)
    assert "1 entry beside DICOM series left out: notes.txt" in str(done)
    assert [path.name for path in out.iterdir()] == ["one.nii.gz"]


def test_a_folder_without_a_series_is_refused_in_one_line(run, tmp_path, out):
    simple_itk()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "read.me").write_text("nothing")
    with pytest.raises(DataError, match="or a DICOM series; folders within it are not searched"):
        run_predict(run, tmp_path / "text", out)


def test_a_run_of_pictures_and_folders_without_volumes_are_refused_in_one_line(run, tmp_path, images, out):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no volume in it"):
        run_predict(run, tmp_path / "empty", out)
    of_pictures = tmp_path / "pictures"
    RunWriter(of_pictures).create(Config(model="unet-tiny", device="cpu"), pd.DataFrame())
    RunWriter(of_pictures).write_state("model.pt", {"model": build_model("unet-tiny", channels=3, classes=1).state_dict()})
    with pytest.raises(DataError, match="holds volumes, and this run was trained on pictures"):
        run_predict(of_pictures, images, out)


def test_a_loaded_run_predicts_volumes_by_their_paths(run, tmp_path, images):
    loaded = load(run)
    assert "volumes of 1 channel in patches of 16 x 16 x 4 voxels, 3 classes" in str(loaded)
    mask = loaded.predict(images / "a.nii.gz")
    assert mask.dtype == np.uint8
    assert (mask == LABELS).all()
    first, second = loaded.predict([images / "a.nii.gz", str(images / "b.nii.gz")], probabilities=True)
    assert first.shape == (3, *SHAPE)
    assert (first.argmax(0) == LABELS).all()
    assert (first == second).all()
    with pytest.raises(ValueError, match="give the path of a volume"):
        loaded.predict(LABELS)
    with pytest.raises(DataError, match="3 volumes"):
        loaded.predict(images)
