"""Training on volumes: patches, their addresses, padding and spacing; the same loop, methods and files as for pictures."""

import dataclasses

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from pixeltrust.config import Config
from pixeltrust.data.batches import Streams, hold_out
from pixeltrust.data.cases import read_cases
from pixeltrust.data.fitting import fit_image, fit_labels, fitted_shape, restore, settle
from pixeltrust.data.images import read_header, read_labels
from pixeltrust.data.views import INVERSES, SYMMETRIES, Views, draw_lenses, draw_views, find_symmetries, turn_images
from pixeltrust.method.addresses import address_map
from pixeltrust.method.batch import Batch
from pixeltrust.method_table import METHODS
from pixeltrust.metrics import confusion, dice
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.training import bfloat16
from pixeltrust.training import run_folder as run_folder_module
from pixeltrust.training import train as train_module
from pixeltrust.training.bfloat16 import wrong_convolutions
from pixeltrust.training.page import run_page
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train
from tiny import acting_at, draw, draw_volumes, of_volumes
from volumes import write_nifti


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_volumes(tmp_path_factory.mktemp("volumes") / "data")


def streams_of(data, tmp_path, **settings):
    cases = read_cases(data, may_be_volumes=True, show_progress=False)
    config = settle(of_volumes(**settings), cases)
    return Streams(cases, *hold_out(cases.of("clean"), config), config, tmp_path / "cache")


def trained(data, out, **settings):
    return train(data, out=out, config=of_volumes(**settings), show_progress=False)


def state_of(run):
    return torch.load(run / "model.pt", weights_only=True)["model"]


def same(one, other):
    return all(torch.equal(values, state_of(other)[name]) for name, values in state_of(one).items())


# The grid of training


def test_what_the_data_settle_is_the_median_spacing_and_the_channels(tmp_path):
    cases = read_cases(draw_volumes(tmp_path / "d", channels=2), may_be_volumes=True, show_progress=False)
    config = settle(of_volumes(), cases)
    assert config.spacing == pytest.approx((5, 0.8, 0.8))
    assert config.channels == 2
    assert settle(of_volumes(spacing=(1, 1, 1)), cases).spacing == (1, 1, 1)
    with pytest.raises(ConfigError, match=r"normalise has 3 texts, and the volumes of .* have 2 channels"):
        settle(of_volumes(normalise=["image"] * 3), cases)


def test_volumes_are_resampled_padded_and_given_back_on_their_own_grid(tmp_path):
    labels = np.zeros((10, 24, 20), np.uint8)
    labels[3:7, 6:18, 5:15] = 2
    config = of_volumes(image_size=(16, 40, 16), spacing=(2.5, 0.8, 1.6))
    spacing = (5.0, 0.8, 0.8)
    assert fitted_shape(labels.shape, spacing, config) == (20, 40, 16)  # 20 x 24 x 10, padded
    fitted = fit_labels(labels, spacing, config)
    assert fitted.shape == (20, 40, 16)
    assert (fitted[:, :8] == 255).all()
    assert (fitted[:, 32:] == 255).all()
    assert (fitted[:, 8:32, 3:13] != 255).all()
    shares = restore((fitted == 2)[None].astype(np.float32), labels.shape, spacing, config)[0]
    assert shares.shape == labels.shape
    assert dice(confusion(predicted=(shares > 0.5).astype(np.uint8), truth=(labels == 2).astype(np.uint8))) > 0.85


def test_patches_show_foreground_in_a_third_at_least_and_addresses_name_the_voxels_they_show(tmp_path):
    data = draw_volumes(tmp_path / "data", noisy=4, clean=1, shape=(12, 60, 60))
    streams = streams_of(data, tmp_path, image_size=(8, 16, 16), batch_size=4, augment="flips-and-turns", jitter="none")
    assert len(streams.noisy) == 4
    with_foreground = 0
    for update in range(30):
        batch, where = streams.batch("noisy", update), streams.where(update)
        assert batch.images.shape == (4, 1, 8, 16, 16)
        for place, case in enumerate(where.ids):
            index = next(index for index in streams.noisy.tolist() if streams.pixels.cases[index].id == case)
            whole = streams.pixels.batch(np.array([index]))
            assert where.shapes[place] == whole.masks.shape[1:]
            addresses = where.addresses[place].flatten()
            assert torch.equal(batch.images[place, 0].flatten(), whole.images[0, 0].flatten()[addresses])
            assert torch.equal(batch.masks[place].flatten(), whole.masks[0].flatten()[addresses])
            with_foreground += bool(((batch.masks[place] > 0) & (batch.masks[place] < 255)).any())
    assert 0.33 * 120 < with_foreground < 120


def test_addresses_through_a_lens_are_of_the_labels_that_it_shows(data, tmp_path):
    streams = streams_of(data, tmp_path, augment="flips-and-turns")
    batch, where = streams.batch("noisy", 1), streams.where(1)
    for place, case in enumerate(where.ids):
        index = next(index for index in streams.noisy.tolist() if streams.pixels.cases[index].id == case)
        whole, addresses = streams.pixels.batch(np.array([index])).masks[0].flatten(), where.addresses[place]
        outside = addresses < 0
        assert 0 < outside.float().mean() < 0.6
        assert torch.equal(torch.where(outside, 255, whole[addresses.clamp(min=0)]), batch.masks[place])


def test_mapped_files_hold_the_same_batches(data, tmp_path):
    inside, mapped = streams_of(data, tmp_path / "a"), streams_of(data, tmp_path / "b", cache_gib=0.0)
    assert mapped.pixels.mapped
    assert not inside.pixels.mapped
    for stream in ("noisy", "clean", "pool"):
        assert torch.equal(inside.batch(stream, 3).images, mapped.batch(stream, 3).images)


# Views


def test_every_symmetry_of_a_cube_is_another_and_is_undone_by_its_inverse():
    cube = torch.arange(27).reshape(1, 3, 3, 3)
    turned = [turn_images(cube, np.array([number]), 3) for number in range(len(SYMMETRIES[3]))]
    assert len({tuple(values.flatten().tolist()) for values in turned}) == 48
    for number, values in enumerate(turned):
        assert torch.equal(turn_images(values, INVERSES[3][[number]], 3), cube)


@pytest.mark.parametrize(
    ("size", "spacing", "number"),
    [((8, 8, 8), None, 48), ((8, 16, 16), None, 16), ((8, 8, 8), (5, 0.8, 0.8), 16), ((8, 9, 10), None, 8), ((8, 8, 8), (1, 1.02, 1), 48)],
)
def test_turns_exchange_axes_of_one_extent_and_spacing_alone(size, spacing, number):
    assert len(find_symmetries(size, spacing)) == number


def test_a_lens_that_changes_nothing_changes_nothing_and_a_shift_moves_voxels():
    images = torch.rand(1, 2, 4, 5, 6, generator=torch.manual_seed(0))
    batch = Batch(images, torch.zeros(1, 4, 5, 6, dtype=torch.uint8))
    same = Views(np.array([0]), torch.eye(3, 4, dtype=torch.float64)[None], axes=3)
    assert torch.allclose(same.show(batch).images, images, atol=1e-6)
    assert torch.equal(same.show_addresses((4, 5, 6))[0], address_map((4, 5, 6)))
    lens = torch.eye(3, 4, dtype=torch.float64)
    lens[:, 3] = torch.tensor([2 * 1 / 6, 0, -2 * 2 / 4])  # 1 along the last axis, -2 along the first
    moved = Views(np.array([0]), lens[None], axes=3).show(batch)
    assert torch.allclose(moved.images[0, :, 2:, :, :-1], images[0, :, :2, :, 1:], atol=1e-6)
    assert (moved.masks[0, :2] == 255).all()
    assert (moved.masks[0, 2:, :, :-1] == 0).all()


@pytest.mark.parametrize(("spacing", "planes"), [((1.0, 1.0, 1.0), 3), ((5.0, 0.8, 0.8), 1)])
def test_lenses_turn_in_mm_and_never_thick_slices_out_of_their_plane(spacing, planes):
    size = np.array((12, 40, 60))
    lenses = draw_lenses(500, tuple(size), np.random.default_rng(0), spacing=spacing).numpy()
    extents = (size * spacing)[::-1]
    turned = lenses[:, :, :3] * extents[:, None] / extents[None]  # in mm
    zoom = np.cbrt(np.linalg.det(turned))
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), zoom[:, None, None] ** 2 * np.eye(3), atol=1e-9)
    assert 0.75 <= zoom.min() < zoom.max() <= 1.25
    assert (np.abs(turned[:, 2, :2]).max() > 1e-9) == (planes == 3)


def test_tints_of_volumes_are_not_cut_at_0_and_1():
    batch = Batch(torch.full((1, 1, 2, 2, 2), -2.0), torch.zeros(1, 2, 2, 2))
    shown = Views(np.array([0]), tints=torch.tensor([[1.0, -0.5]]), axes=3).show(batch)
    assert torch.allclose(shown.images, torch.tensor(-2.5))


def test_patches_are_drawn_by_seed_stream_and_update_alone():
    views = [draw_views(4, of_volumes(), update, "noisy") for update in (0, 0, 1)]
    assert (views[0].cuts == views[1].cuts).all()
    assert (views[0].cuts != views[2].cuts).all()


# Runs


QUICK = ("plain", "trust", "mender")


@pytest.mark.parametrize("names", [QUICK, pytest.param(METHODS.keys() - QUICK, marks=pytest.mark.slow)])
def test_every_method_trains_on_volumes(data, tmp_path, names):
    for name in names:
        done = trained(data, tmp_path / name, method=name, epochs=1)
        assert done.updates == 2
        assert all(values.isfinite().all() for values in state_of(tmp_path / name).values())
        assert (tmp_path / name / "helped").is_dir() == METHODS[name].takes_gains
    config = Run(tmp_path / name).config()
    assert config.spacing == pytest.approx((5, 0.8, 0.8))
    assert config.channels == 1


def test_the_last_weights_follow_from_the_spacing_and_the_normalisation(data, tmp_path):
    for name, settings in {"one": {}, "spacing": {"spacing": (5, 1, 1)}, "window": {"normalise": "ct:0,200"}}.items():
        trained(data, tmp_path / name, method="plain", epochs=1, **settings)
    assert not same(tmp_path / "one", tmp_path / "spacing")
    assert not same(tmp_path / "one", tmp_path / "window")


@pytest.mark.parametrize("method", ["trust", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_stopped_run_continues_to_the_bit(data, tmp_path, monkeypatch, method):
    settings = {"method": method, "jitter": "all", "val_fraction": 0.0}
    trained(data, tmp_path / "straight", **settings)
    settings |= {"cache_gib": 0.0} if method == "trust" else {}
    monkeypatch.setattr(run_folder_module, "LARGE", 0)  # as if its checkpoint were of gigabytes

    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "build_step", acting_at(4, stop, train_module.build_step))
        with pytest.raises(KeyboardInterrupt):
            trained(data, tmp_path / "stopped", checkpoint_minutes=5.0, **settings)
    with pytest.raises(RunError, match="image_size"):
        train(data, out=tmp_path / "stopped", config=of_volumes(**settings, image_size=(8, 16, 24)), resume=True, show_progress=False)
    done = train(data, out=tmp_path / "stopped", config=of_volumes(**settings), resume=True, show_progress=False)
    assert done.updates == 4
    assert same(tmp_path / "straight", tmp_path / "stopped")
    if method == "trust":
        for path in sorted((tmp_path / "straight" / "helped").iterdir()):
            assert (read_labels(path) == read_labels(tmp_path / "stopped" / "helped" / path.name)).all()


def test_helped_maps_lie_on_the_grid_of_their_masks_and_weights_are_kept_of_a_slice(data, tmp_path):
    trained(data, tmp_path / "run", method="trust", spacing=(4, 1, 1), image_size=(16, 16, 16))
    noisy = read_cases(data, may_be_volumes=True, show_progress=False).of("noisy")
    for case in noisy:
        path = tmp_path / "run" / "helped" / f"{case.id}.nii.gz"
        assert read_header(path).grid.difference(read_header(case.mask).grid) == ""
        assert read_labels(path).shape == read_labels(case.mask).shape
    maps = Run(tmp_path / "run").weight_maps()
    assert maps["maps"].shape == (2, 2, 16, 16)
    assert maps["corners"].shape == (2, 3)
    page = run_page(Run(tmp_path / "run"))
    assert page.count("the noisy mask of v") == 2
    assert "cannot be read any more" not in page


def test_held_out_volumes_are_measured_whole(tmp_path, monkeypatch):
    data = draw_volumes(tmp_path / "data", noisy=2, clean=12)
    monkeypatch.setattr("pixeltrust.data.batches.MIN_HELD_OUT", 2)
    trained(data, tmp_path / "run", method="plain", epochs=1, val_fraction=0.25, image_size=(8, 16, 16))
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    table = pd.read_csv(tmp_path / "run" / "cases.csv")
    model, config = Run(tmp_path / "run").model(), Run(tmp_path / "run").config()
    cases = {case.id: case for case in read_cases(data, may_be_volumes=True, show_progress=False).of("clean")}
    scores = []
    for identity in table.loc[table["held_out"], "id"]:
        image = torch.from_numpy(fit_image(cases[identity], config)).float()[None]
        with torch.no_grad():
            predicted = model(image).argmax(1)[0].numpy().astype(np.uint8)  # a small field of view: windows differ at their rims alone
        truth = read_labels(cases[identity].mask)
        assert predicted.shape == truth.shape
        scores.append(np.mean([dice(confusion(predicted=predicted, truth=truth, label=label)) for label in (1, 2)]))
    assert history["val_dice"].iloc[-1] == pytest.approx(np.mean(scores), abs=0.05)


def test_several_channels_train(tmp_path):
    data = draw_volumes(tmp_path / "data", noisy=3, clean=2, channels=2)
    trained(data, tmp_path / "run", method="plain", epochs=1)
    assert Run(tmp_path / "run").config().channels == 2
    assert state_of(tmp_path / "run")["0.weight"].shape[1] == 2


# What cannot be


def refused(act, *words):
    with pytest.raises((ConfigError, DataError)) as caught:
        act()
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def test_sizes_of_the_other_number_of_axes_are_refused_in_one_line(data, tmp_path):
    for size in (96, (64, 64)):
        way = "set image_size = [depth, height, width], such as [16, 16, 16]"
        text = refused(lambda size=size: trained(data, tmp_path / "run", image_size=size), way)
        assert "\n" not in text
    draw(tmp_path / "pictures", noisy=2, clean=2)
    text = refused(lambda: trained(tmp_path / "pictures", tmp_path / "run"), "image_size = [8, 16, 16] is for volumes", "holds pictures")
    assert "\n" not in text
    assert not (tmp_path / "run").exists()


def test_voxels_that_are_not_finite_are_refused_by_their_file(tmp_path):
    data = draw_volumes(tmp_path / "data", noisy=2, clean=2)
    values = np.ones(read_labels(data / "noisy" / "v00.nii.gz").shape, np.float32)
    values[1, 2, 3] = np.nan
    write_nifti(data / "images" / "v00.nii.gz", values, nibabel.load(data / "noisy" / "v00.nii.gz").affine)
    refused(lambda: trained(data, tmp_path / "run"), "v00.nii.gz", "1 voxel whose value is not finite")


def test_a_network_that_fits_no_patch_is_refused_before_anything_is_written(data, tmp_path):
    refused(lambda: trained(data, tmp_path / "run", model="tiny:network"), "the network with images (B, 1, 8, 16, 16) fails")
    assert not (tmp_path / "run").exists()


def test_settings_of_volumes_make_no_difference_to_pictures():
    assert dataclasses.replace(Config(), spacing=(1, 1, 1)).size == (96, 96)


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


class Deepens(torch.nn.Module):
    """Two convolutions whose inputs have the depths 4 and 2."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv3d(1, 8, 3, stride=2, padding=1), torch.nn.Conv3d(8, 8, 3, padding=1)

    def forward(self, images):
        return self.second(self.first(images))


def test_convolutions_whose_gradient_is_wrong_in_bfloat16_are_found():
    torch.manual_seed(0)
    model = Deepens()
    random = torch.random.get_rng_state()
    wrong = wrong_convolutions(model, (1, 1, 4, 8, 8))
    assert (torch.random.get_rng_state() == random).all()
    images = torch.randn(1, 8, 2, 4, 4)

    def gradient(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return torch.autograd.grad(model.second(images).float().sum(), model.second.weight)[0]

    right, rounded = gradient(False), gradient(True)
    is_wrong = not (rounded - right).norm() <= 0.1 * right.norm()  # as with torch 2.13, on processors that have bfloat16
    assert wrong == ({"second": (2, 4, 4)} if is_wrong else {})


def test_convolutions_are_tried_however_they_are_made_and_called(monkeypatch):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = torch.nn.Conv3d(1, 4, 3, padding=1).requires_grad_(False)
            self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv3d(4, 4, 3, padding=1))
            self.up = torch.nn.ConvTranspose3d(4, 4, 2, stride=2)

        def forward(self, images):
            images = self.normed(self.frozen(images))
            return self.up(input=self.normed(images[:, :, :2]))

    model, tried, real = Odd(), [], bfloat16._is_right
    monkeypatch.setattr(bfloat16, "_is_right", lambda *of: tried.append((type(of[0]), of[1].shape[2])) or real(*of))
    wrong_convolutions(model, (1, 1, 6, 8, 8))
    assert [depth for _, depth in tried] == [6, 2, 2]
    monkeypatch.setattr(bfloat16, "_is_right", lambda convolution, images: images.shape[2] != 6)
    assert wrong_convolutions(model, (1, 1, 6, 8, 8)) == {"normed": (6, 8, 8)}


def test_menders_are_tried_at_half_the_size_too(monkeypatch):
    monkeypatch.setattr(bfloat16, "_is_right", lambda convolution, images: images.shape[2] != 20)
    config = of_volumes(method="mender", precision="bf16", image_size=(40, 40, 40), coarse_share=0.75)
    network = torch.nn.Conv3d(config.channels + config.planes, 3, 3, padding=1)
    with pytest.raises(ConfigError, match="input has the size 20x20x20"):
        bfloat16.refuse_wrong_gradients(network, config, torch.device("cpu"))
    bfloat16.refuse_wrong_gradients(network, dataclasses.replace(config, coarse_share=0), torch.device("cpu"))


def test_a_network_is_not_trained_by_wrong_gradients(data, tmp_path, monkeypatch):
    monkeypatch.setattr(bfloat16, "_is_right", lambda convolution, images: images.shape[2] != 10)
    with pytest.raises(ConfigError, match=r"2 of the network's convolutions wrong \(such as .*10x24x20.*use precision = '32'"):
        train(data, out=tmp_path / "run", config=of_volumes(method="plain", precision="bf16", epochs=1, image_size=(10, 24, 20)))
    assert not (tmp_path / "run" / "config.toml").exists()
    train(data, out=tmp_path / "run", config=of_volumes(method="plain", precision="bf16", epochs=1, image_size=(8, 24, 20)))
