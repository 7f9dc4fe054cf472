"""Masks for a folder of images, by networks whose right answer is known."""

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.images import read_labels
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.prediction import predict as predict_module
from pixeltrust.prediction.predict import predict
from pixeltrust.training.models import build_model
from pixeltrust.training.run_writer import RunWriter

SIZE = 16  # of training
RED = [255, 0, 0]


class Pointwise(nn.Module):
    """A pixel's label is its red value / 100, rounded; with one class, whether red is above half."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images):
        red = images[:, :1]
        if self.classes == 1:
            return self.scale * (red - 0.5)
        return -self.scale * (2.55 * red - torch.arange(self.classes).reshape(1, -1, 1, 1)) ** 2


class LeftHalf(nn.Module):
    """The left half of what it is shown is foreground, whatever it is shown; without parameters."""

    def forward(self, images):
        columns = torch.arange(images.shape[-1])
        return torch.where(columns < images.shape[-1] / 2, 9.0, -9.0).expand(len(images), 1, *images.shape[2:])


class Counted(LeftHalf):
    """Remembers how many images each pass had; interrupted in pass number `until`."""

    passes: tuple[int, ...] = ()
    until = 10**9

    def forward(self, images):
        Counted.passes += (len(images),)
        if len(Counted.passes) == Counted.until:
            raise KeyboardInterrupt
        return super().forward(images)


class Dropping(Pointwise):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), 0.5, self.training)


def pointwise(in_channels, out_channels):
    return Pointwise(out_channels)


def left_half(in_channels, out_channels):
    return LeftHalf()


def counted(in_channels, out_channels):
    return Counted()


def dropping(in_channels, out_channels):
    return Dropping(out_channels)


def not_finite(in_channels, out_channels):
    return nn.Threshold(2.0, float("nan"))  # NaN for every value up to 2


def undecided(in_channels, out_channels):
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.Threshold(1e9, 0.0))  # logits of 0


def grey_only(in_channels, out_channels):
    return nn.Conv2d(1, out_channels, 1)


def half_size(in_channels, out_channels):
    return nn.Conv2d(in_channels, out_channels, 2, stride=2)


def make_run(folder, network="pointwise", weights="model.pt", **settings):
    """A run that looks as if it had been trained."""
    name = network if network.startswith("unet") or ":" in network else f"{__name__}:{network}"
    config = Config(**{"model": name, "image_size": SIZE, "batch_size": 4, "device": "cpu"} | settings)
    run = RunWriter(folder)
    run.create(config, pd.DataFrame())
    torch.manual_seed(0)
    model = build_model(config.model, channels=config.channels, classes=config.classes, axes=len(config.size))
    run.write_state(weights, {"model": model.state_dict()})
    return folder


def half_red(height, width):
    """The left half is red."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = RED
    return pixels


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def many(folder, count=7, shape=(24, 20), seed=0):
    draws = np.random.default_rng(seed)
    for number in range(count):
        save(folder / f"{number}.png", draws.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return folder


def run_predict(run, images, out, **options):
    return predict(run, images, out=out, show_progress=False, **options)


def written(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def images(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "masks"


@pytest.fixture(autouse=True)
def _no_passes_yet():
    Counted.passes, Counted.until = (), 10**9


# What is written


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (32, 64), (70, 18), (8, 12), (200, 8)])
def test_the_mask_is_the_known_one_at_the_images_own_size(run, images, out, shape):
    save(images / "a.png", half_red(*shape))
    run_predict(run, images, out)
    mask = read_labels(out / "a.png")
    assert mask.shape == shape
    assert np.array_equal(mask, 255 * (half_red(*shape)[..., 0] > 0))


def test_an_image_turned_by_exif_has_its_mask_as_it_is_seen(run, images, out):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise: the left half becomes the upper one
    save(images / "turned.png", half_red(32, 64), exif=exif)
    run_predict(run, images, out)
    mask = read_labels(out / "turned.png")
    assert mask.shape == (64, 32)
    assert (mask[:32] == 255).all()
    assert (mask[32:] == 0).all()


def test_every_image_has_a_mask_named_by_its_id(run, images, out):
    for name in ("b.v2.PNG", "a.jpg", "c.tif", "ein Fall é.png", normalize("NFD", "ü.bmp")):
        save(images / name, half_red(SIZE, SIZE))
    done = run_predict(run, images, out)
    assert sorted(written(out)) == sorted(["a.png", "b.v2.png", "c.png", "ein Fall é.png", "ü.png"])
    assert (done.count, done.skipped, done.out) == (5, 0, out)


def test_folders_may_have_spaces_and_accents(tmp_path):
    run = make_run(tmp_path / "mein Lauf é")
    save(tmp_path / "süße Bilder 画像" / "a b.png", half_red(SIZE, SIZE))
    run_predict(run, tmp_path / "süße Bilder 画像", tmp_path / "neue Masken ö" / "hier")
    assert list(written(tmp_path / "neue Masken ö" / "hier")) == ["a b.png"]


def test_one_file_may_be_predicted_alone(run, images, out):
    many(images)
    assert run_predict(run, images / "3.png", out).count == 1
    assert list(written(out)) == ["3.png"]


def test_labels_are_written_as_their_numbers(tmp_path, images, out):
    bands = np.zeros((24, 60, 3), np.uint8)
    bands[:, 20:40, 0], bands[:, 40:, 0] = 100, 200
    save(images / "a.png", bands)
    run_predict(make_run(tmp_path / "run", classes=3, image_size=(24, 60)), images, out)
    assert np.array_equal(read_labels(out / "a.png"), bands[..., 0] // 100)


def test_labels_keep_to_their_places_when_the_image_is_resized(tmp_path, images, out):
    bands = np.zeros((48, 96, 3), np.uint8)
    bands[:, 24:72, 0], bands[:, 72:, 0] = 100, 200
    save(images / "a.png", bands)
    run_predict(make_run(tmp_path / "run", classes=3, image_size=(24, 48)), images, out)
    assert np.array_equal(read_labels(out / "a.png"), bands[..., 0] // 100)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_between_equal_probabilities_the_background_wins(tmp_path, images, out, classes):
    many(images, count=1)
    run_predict(make_run(tmp_path / "run", "undecided", classes=classes), images, out)
    assert (read_labels(out / "0.png") == 0).all()


def test_probabilities_are_16_bit_files_from_0_to_65535(run, images, out):
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0] = np.arange(SIZE) * 17
    save(images / "a.png", pixels)
    done = run_predict(run, images, out, probabilities=True)
    with Image.open(out / "probabilities" / "a.png") as opened:
        assert opened.mode == "I;16"
        stored = np.asarray(opened)
    expected = 1 / (1 + np.exp(-20 * (pixels[..., 0] / 255 - 0.5)))
    assert np.abs(stored / 65535 - expected).max() < 1e-5  # half a step of 16 bits is 8e-6
    assert np.array_equal(read_labels(out / "a.png"), 255 * (expected > 0.5))
    assert str(out / "probabilities") in str(done)


@pytest.mark.parametrize("shape", [(32, 48), (8, 8), (40, 10)])
def test_probabilities_are_resized_linearly_averaging_where_they_shrink(tmp_path, images, out, shape):
    save(images / "a.png", half_red(*shape))
    run_predict(make_run(tmp_path / "run", "left_half"), images, out, probabilities=True)
    worked_at = LeftHalf()(torch.zeros(1, 3, SIZE, SIZE)).sigmoid()
    expected = nn.functional.interpolate(worked_at, shape, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    stored = np.asarray(Image.open(out / "probabilities" / "a.png")) / 65535
    assert np.abs(stored - expected.numpy()).max() < 1e-5  # half a step of 16 bits is 8e-6


def test_probabilities_of_classes_have_a_folder_each_and_sum_to_one(tmp_path, images, out):
    many(images, count=2)
    run_predict(make_run(tmp_path / "run", classes=3), images, out, probabilities=True)
    assert sorted(written(out)) == ["0.png", "1.png", *(f"probabilities/{label}/{case}.png" for label in range(3) for case in range(2))]
    planes = np.stack([np.asarray(Image.open(out / "probabilities" / str(label) / "1.png"), np.int64) for label in range(3)])
    assert planes.shape == (3, 24, 20)
    assert np.abs(planes.sum(0) - 65535).max() <= 2  # three roundings
    clear = np.sort(planes, axis=0)[2] - np.sort(planes, axis=0)[1] > 2
    assert np.array_equal(read_labels(out / "1.png")[clear], planes.argmax(0)[clear])


def test_probabilities_are_only_written_where_asked_for(run, images, out):
    many(images, count=1)
    run_predict(run, images, out)
    assert list(written(out)) == ["0.png"]


def test_grey_and_colour_files_serve_a_network_of_either_kind(tmp_path, images):
    save(images / "grey.png", half_red(24, 24)[..., 0])
    save(images / "colour.png", half_red(24, 24)[..., [0, 0, 0]])
    for channels in (1, 3):
        run_predict(make_run(tmp_path / f"run{channels}", channels=channels), images, tmp_path / f"out{channels}")
    assert written(tmp_path / "out1") == written(tmp_path / "out3")
    assert read_labels(tmp_path / "out1" / "grey.png").any()


# The network


def test_a_second_prediction_is_the_same_to_the_bit(tmp_path, images):
    run = make_run(tmp_path / "run", "unet-small")
    many(images, count=3)
    for name in ("first", "second"):
        run_predict(run, images, tmp_path / name, probabilities=True)
    assert written(tmp_path / "first") == written(tmp_path / "second")


@pytest.mark.parametrize("sliding_window", [False, True])
def test_the_batch_size_changes_only_the_rounding(tmp_path, images, sliding_window):
    run = make_run(tmp_path / "run", "unet-small")
    many(images, count=5)
    for batch_size in (1, 3):
        run_predict(run, images, tmp_path / f"{batch_size}", probabilities=True, batch_size=batch_size, sliding_window=sliding_window)
    for case in range(5):
        one, three = (np.asarray(Image.open(tmp_path / folder / "probabilities" / f"{case}.png"), np.int64) for folder in "13")
        assert len(np.unique(one)) > 100
        assert np.abs(one - three).max() <= 1  # float32 sums in another order can move a rounding


def test_the_batch_size_is_the_runs_unless_given(tmp_path, images, out):
    run = make_run(tmp_path / "run", "counted", batch_size=4)
    many(images, count=7)
    run_predict(run, images, out)
    assert Counted.passes == (1, 4, 3)  # the first is the trial
    Counted.passes = ()
    run_predict(run, images, out.with_name("again"), batch_size=5)
    assert Counted.passes == (1, 5, 2)


def test_dropout_is_off(tmp_path, images):
    many(images, count=2)
    for network in ("pointwise", "dropping"):
        run_predict(make_run(tmp_path / network / "run", network), images, tmp_path / network / "masks")
    assert written(tmp_path / "dropping" / "masks") == written(tmp_path / "pointwise" / "masks")


def test_bf16_runs_predict_the_same_clear_mask(tmp_path, images, out):
    save(images / "a.png", half_red(32, 64))
    run_predict(make_run(tmp_path / "run", precision="bf16"), images, out)
    assert np.array_equal(read_labels(out / "a.png"), 255 * (half_red(32, 64)[..., 0] > 0))


def test_a_device_that_is_not_here_is_replaced_by_the_cpu_and_said(tmp_path, images, out, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save(images / "a.png", half_red(SIZE, SIZE))
    done = run_predict(make_run(tmp_path / "run", device="cuda"), images, out)
    assert any("'cuda'" in note and "CPU" in note for note in done.notes)
    assert read_labels(out / "a.png").any()


def test_the_best_weights_are_used_where_asked_for(run, images, tmp_path):
    RunWriter(run).write_state("best.pt", {"model": {"scale": torch.tensor(-20.0)}})  # sees the opposite
    save(images / "a.png", half_red(SIZE, SIZE))
    run_predict(run, images, tmp_path / "last")
    run_predict(run, images, tmp_path / "best", weights="best")
    assert np.array_equal(read_labels(tmp_path / "best" / "a.png"), 255 - read_labels(tmp_path / "last" / "a.png"))


# Sliding windows


def test_windows_of_a_pointwise_network_give_what_the_whole_image_gives(tmp_path, images, out):
    many(images, count=1, shape=(50, 37))
    run_predict(make_run(tmp_path / "run"), images, tmp_path / "windows", probabilities=True, sliding_window=True)
    run_predict(make_run(tmp_path / "whole", image_size=(50, 37)), images, out, probabilities=True)
    windows, whole = (np.asarray(Image.open(folder / "probabilities" / "0.png"), np.int64) for folder in (tmp_path / "windows", out))
    assert np.abs(windows - whole).max() <= 1  # blending divides by the sum of the weights again
    assert len(np.unique(whole)) > 100


def test_windows_of_classes_give_what_the_whole_image_gives(tmp_path, images, out):
    many(images, count=1, shape=(40, 40))
    run_predict(make_run(tmp_path / "run", classes=3), images, tmp_path / "windows", sliding_window=True)
    run_predict(make_run(tmp_path / "whole", classes=3, image_size=40), images, out)
    assert np.array_equal(read_labels(tmp_path / "windows" / "0.png"), read_labels(out / "0.png"))


def test_windows_overlap_by_half_and_count_by_their_distance_from_the_middle(tmp_path, images, out):
    save(images / "a.png", half_red(SIZE, 40))  # windows begin at columns 0, 8, 16 and 24
    run_predict(make_run(tmp_path / "run", "counted"), images, out, probabilities=True, sliding_window=True)
    from_middle = np.arange(SIZE) - 7.5
    weight = np.exp(-(from_middle**2 + 0.5**2) / (2 * (SIZE / 8) ** 2)).clip(1e-3)  # of row 8; MONAI's deviation and least weight
    window = 1 / (1 + np.exp(np.where(from_middle < 0, -9.0, 9.0)))
    total, weights = np.zeros(40), np.zeros(40)
    for begin in (0, 8, 16, 24):
        total[begin : begin + SIZE] += weight * window
        weights[begin : begin + SIZE] += weight
    stored = np.asarray(Image.open(out / "probabilities" / "a.png"))[8] / 65535
    assert np.abs(stored - total / weights).max() < 1e-5  # half a step of 16 bits is 8e-6
    assert Counted.passes == (1, 4)  # the trial, then all windows in one batch


def test_windows_see_the_image_at_its_own_resolution(tmp_path, images):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = RED  # shrunk to 16 pixels they are an even half red
    save(images / "a.png", stripes)
    run = make_run(tmp_path / "run")
    for sliding_window in (False, True):
        run_predict(run, images, tmp_path / f"{sliding_window}", sliding_window=sliding_window)
    assert np.array_equal(read_labels(tmp_path / "True" / "a.png"), 255 * (stripes[..., 0] > 0))
    assert not np.array_equal(read_labels(tmp_path / "False" / "a.png"), 255 * (stripes[..., 0] > 0))


def test_only_images_larger_than_the_training_size_get_windows(tmp_path, images, out):
    shapes = {"same": (16, 16), "narrow": (64, 8), "small": (8, 8), "wide": (16, 64), "large": (40, 40)}
    for name, shape in shapes.items():
        save(images / f"{name}.png", half_red(*shape))
    done = run_predict(make_run(tmp_path / "run", "left_half"), images, out, sliding_window=True)
    whole = {name: np.array_equal(read_labels(out / f"{name}.png"), 255 * (half_red(*shape)[..., 0] > 0)) for name, shape in shapes.items()}
    assert whole == {"same": True, "narrow": True, "small": True, "wide": False, "large": False}
    assert any(note.startswith("2 images covered by windows of 16x16") for note in done.notes)
    assert any(note.startswith("2 images smaller than a window") for note in done.notes)


def test_without_sliding_windows_no_image_gets_them(tmp_path, images, out):
    save(images / "large.png", half_red(40, 40))
    done = run_predict(make_run(tmp_path / "run", "left_half"), images, out)
    assert np.array_equal(read_labels(out / "large.png"), 255 * (half_red(40, 40)[..., 0] > 0))
    assert not done.notes


# Stopping and continuing


def test_a_folder_that_holds_files_is_refused_and_left_alone(run, images, out):
    many(images, count=2)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"not empty.*--resume"):
        run_predict(run, images, out)
    assert written(out) == {"mine.txt": b"mine"}


def test_an_empty_folder_is_used(run, images, out):
    many(images, count=1)
    out.mkdir()
    assert run_predict(run, images, out).count == 1


def test_resume_predicts_only_what_is_missing(run, images, out):
    many(images)
    run_predict(run, images, out)
    before = written(out)
    (out / "5.png").unlink()
    (out / "2.png").write_bytes(b"left as it is")
    done = run_predict(run, images, out, resume=True)
    assert (done.count, done.skipped) == (1, 6)
    assert "1 image in" in str(done)
    assert "6 images predicted earlier" in str(done)
    assert written(out) == before | {"2.png": b"left as it is"}


def test_resume_of_a_finished_prediction_succeeds(run, images, out):
    many(images, count=2)
    run_predict(run, images, out)
    done = run_predict(run, images, out, resume=True)
    assert (done.count, done.skipped) == (0, 2)
    assert str(out) in str(done)


def test_resume_writes_probabilities_that_were_not_asked_for_before(run, images, out):
    many(images, count=2)
    run_predict(run, images, out)
    assert run_predict(run, images, out, resume=True, probabilities=True).count == 2
    assert run_predict(run, images, out, resume=True, probabilities=True).skipped == 2
    assert sorted(path.name for path in (out / "probabilities").iterdir()) == ["0.png", "1.png"]


def test_ctrl_c_leaves_whole_files_and_resume_completes_them(tmp_path, images, out):
    run = make_run(tmp_path / "run", "counted", batch_size=2)
    many(images, count=20)
    Counted.until = 8
    with pytest.raises(KeyboardInterrupt):
        run_predict(run, images, out, probabilities=True)
    masks = sorted(path.name for path in out.glob("*.png"))
    assert 0 < len(masks) < 20
    assert all(read_labels(out / name).shape == (24, 20) for name in masks)
    assert not list(out.rglob("*.unfinished"))
    Counted.until = 10**9
    assert run_predict(run, images, out, probabilities=True, resume=True).skipped == len(masks)
    run_predict(run, images, out.with_name("at once"), probabilities=True)
    assert written(out) == written(out.with_name("at once"))


def test_the_mask_is_written_after_its_probabilities(run, images, out, monkeypatch):
    many(images, count=1)
    order = []
    monkeypatch.setattr(predict_module, "write_png", lambda path, pixels: order.append(str(path.relative_to(out))))
    run_predict(run, images, out, probabilities=True)
    assert order == ["probabilities/0.png", "0.png"]


def test_few_images_wait_in_memory_at_any_time(tmp_path, images, out, monkeypatch):
    run = make_run(tmp_path / "run", batch_size=2)
    many(images, count=60)
    decoded, masks, most = [], [], 0
    read, write = predict_module.read_image, predict_module.write_png

    def reading(path, channels):
        nonlocal most
        decoded.append(path)
        most = max(most, len(decoded) - len(masks))
        return read(path, channels)

    def writing(path, pixels):
        write(path, pixels)
        masks.append(path)

    monkeypatch.setattr(predict_module, "read_image", reading)
    monkeypatch.setattr(predict_module, "write_png", writing)
    run_predict(run, images, out)
    assert len(masks) == 60
    assert most <= 2 * predict_module.THREADS + 2 + 1  # ahead of the network, in its batch, behind it


# What can be wrong


def test_unreadable_images_are_all_named_after_the_others_were_written(run, images, out):
    many(images, count=5)
    (images / "1.png").write_bytes(b"no image")
    whole = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[: len(whole) // 2])
    (images / "gone.png").symlink_to(images / "nowhere.png")
    with pytest.raises(DataError, match=r"3 of 6 images cannot be read; 3 other masks written") as caught:
        run_predict(run, images, out)
    assert [name in fault for name, fault in zip(("1.png", "3.png", "gone.png"), caught.value.faults, strict=True)] == [True] * 3
    assert sorted(written(out)) == ["0.png", "2.png", "4.png"]


def test_entries_that_are_no_images_are_counted_and_left_out(run, images, out):
    many(images, count=1)
    (images / "notes.txt").write_text("x")
    (images / "deeper.png").mkdir()
    (images / ".DS_Store").write_text("x")
    done = run_predict(run, images, out)
    assert done.count == 1
    assert "2 entries that are not images left out: deeper.png, notes.txt" in str(done)


def test_a_missing_folder_an_empty_one_and_a_data_folder_are_told_apart(run, tmp_path, out):
    with pytest.raises(DataError, match="there is no such folder"):
        run_predict(run, tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in it$"):
        run_predict(run, tmp_path / "empty", out)
    many(tmp_path / "data" / "images", count=1)
    with pytest.raises(DataError, match=r"data/images meant\?"):
        run_predict(run, tmp_path / "data", out)
    (tmp_path / "words.txt").write_text("x")
    with pytest.raises(DataError, match="not that of an image"):
        run_predict(run, tmp_path / "words.txt", out)
    assert not out.exists()


def test_two_files_of_one_id_are_named(run, images, out):
    for name in ("a.png", "a.jpg", "b.png", normalize("NFC", "é.png"), normalize("NFD", "é.bmp")):
        save(images / name, half_red(SIZE, SIZE))
    with pytest.raises(DataError, match="every image needs an id of its own") as caught:
        run_predict(run, images, out)
    assert caught.value.faults[0].endswith("2 files of one id, a: a.jpg, a.png")
    assert "2 files of one id, é: " in caught.value.faults[1]
    assert not out.exists()


def test_masks_do_not_go_where_the_images_are(run, images):
    many(images, count=1)
    for source in (images, images / "0.png"):
        with pytest.raises(RunError, match="where the images are"):
            run_predict(run, source, images, resume=True)
    assert list(written(images)) == ["0.png"]


def test_an_out_that_cannot_be_made_or_written_is_an_error(run, images, tmp_path, out, monkeypatch):
    many(images, count=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="exists and is not a folder"):
        run_predict(run, images, tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        run_predict(run, images, tmp_path / "file" / "below")

    def full(path, pixels):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(predict_module, "write_png", full)
    with pytest.raises(RunError, match=r"0\.png: cannot be written: No space left on device"):
        run_predict(run, images, out)


def test_a_folder_that_is_no_run_is_an_error(tmp_path, images, out):
    many(images, count=1)
    with pytest.raises(RunError, match="not a run folder"):
        run_predict(tmp_path / "nothing", images, out)


def test_a_run_that_has_not_finished_says_how_to_continue(tmp_path, images, out):
    many(images, count=1)
    run = make_run(tmp_path / "run", weights="best.pt")
    with pytest.raises(RunError, match=r"not finished.*--resume"):
        run_predict(run, images, out)
    done = run_predict(run, images, out, weights="best")
    assert any("not finished" in note for note in done.notes)
    (run / "best.pt").unlink()
    with pytest.raises(RunError, match=r"not finished.*--resume"):
        run_predict(run, images, out.with_name("other"), weights="best")


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        ("grey_only", {}, r"images \(B, 3, 16, 16\) fails"),
        ("half_size", {}, r"gives \(1, 1, 8, 8\).*needs logits \(1, 1, 16, 16\)"),
        ("left_half", {"classes": 2}, r"gives \(1, 1, 16, 16\).*needs logits \(1, 2, 16, 16\)"),
    ],
)
def test_a_network_that_does_not_fit_is_an_error_before_anything_is_written(tmp_path, images, out, network, settings, message):
    many(images, count=1)
    with pytest.raises(ConfigError, match=message):
        run_predict(make_run(tmp_path / "run", network, **settings), images, out)
    assert not out.exists()


def test_weights_of_another_number_of_channels_are_an_error(tmp_path, images, out):
    many(images, count=1)
    run = make_run(tmp_path / "run", "unet-small", channels=1)
    config = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(config.replace("channels = 1", "channels = 3"), encoding="utf-8")
    with pytest.raises(RunError, match="does not fit"):
        run_predict(run, images, out)


def test_a_diverged_network_is_an_error_not_an_empty_mask(tmp_path, images, out):
    many(images, count=1)
    with pytest.raises(RunError, match="diverged"):
        run_predict(make_run(tmp_path / "run", "not_finite", channels=1), images, out)
    assert not written(out)


def test_settings_out_of_their_range_are_errors(run, images, out):
    many(images, count=1)
    with pytest.raises(ConfigError, match="batch_size must be 1 or more, not 0"):
        run_predict(run, images, out, batch_size=0)
    with pytest.raises(ConfigError, match="weights must be last or best"):
        run_predict(run, images, out, weights="first")


def test_the_summary_says_how_many_how_fast_and_where(run, images, out):
    many(images, count=3)
    lines = str(run_predict(run, Path(str(images)), out)).splitlines()
    assert lines[0].startswith("3 images in ")
    assert lines[0].endswith(" images/s")
    assert lines[1] == f"the masks are in {out}"


def test_the_bar_is_shown_only_where_asked_for(run, images, out, monkeypatch):
    many(images, count=2)
    asked, real = [], predict_module.progress_bar
    monkeypatch.setattr(predict_module, "progress_bar", lambda shown: asked.append(shown) or real(False))
    run_predict(run, images, out)
    predict(run, images, out=out.with_name("again"))
    assert asked == [False, True]
