"""Small enough to train in a test: a network of a few hundred parameters (model = "tiny:network") and made-up images.

An image is a bright bump on noise. Its true mask is where the bump is above .35; the noisy masks take .75, so they are all too small.
"""

import os
import signal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.autograd.function import once_differentiable

from pixeltrust.config import Config

SIZE = 16
FORWARDS = 0  # of `signalling` networks in this process


def network(*, in_channels, out_channels, width=6, dropout=0.2):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, out_channels, 1),
    )


def wider(*, in_channels, out_channels):
    return network(in_channels=in_channels, out_channels=out_channels, width=8)


def without_dropout(*, in_channels, out_channels):
    return network(in_channels=in_channels, out_channels=out_channels, dropout=0)


class _InFloat64(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, images):
        return self.network(images.double())


def in_float64(*, in_channels, out_channels):
    return _InFloat64(without_dropout(in_channels=in_channels, out_channels=out_channels))


def with_batch_norm(*, in_channels, out_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, out_channels, 1))


class _Pooling(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, out_channels, 1)

    def forward(self, images):
        features = self.body(images)
        return self.head(features + self.pooled(features))


def pooling(*, in_channels, out_channels):
    """Batch normalisation of 1x1 features, as in DeepLab's and PSPNet's heads, which cannot be had of one image."""
    return _Pooling(in_channels, out_channels)


def failing_on_one_rank(*, in_channels, out_channels):
    """Build a network that runs out of memory at the first pass after an update, on the rank $TINY_FAILING_RANK if that is set."""
    model = without_dropout(in_channels=in_channels, out_channels=out_channels)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def fail(module, inputs):
        updated = not all(map(torch.equal, module.parameters(), before))
        if updated and os.environ.get("TINY_FAILING_RANK") == os.environ["RANK"]:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(fail)
    return model


def two_logits(*, in_channels, out_channels):
    return network(in_channels=in_channels, out_channels=2)


def acting_at(number, act, build):
    """Return `methods.build_step` whose methods call `act` at the end of step `number`."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1
        if steps == number:
            act()

    def building(model, config, streams, own):
        method = build(model, config, streams, own)
        if isinstance(method, nn.Module):
            method.register_forward_hook(lambda *_: count())
            return method

        def stepping(model, feed, config):
            outcome = method(model, feed, config)
            count()
            return outcome

        return stepping

    return building


class _Reversing(torch.autograd.Function):
    """Has a backward that cannot be differentiated, and no forward mode."""

    @staticmethod
    def forward(context, values):
        return values * 2

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        return gradient * 2


class _WithoutForwardMode(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, images):
        return _Reversing.apply(self.layer(images))


def without_forward_mode(*, in_channels, out_channels):
    return _WithoutForwardMode(in_channels, out_channels)


def with_forward_mode_at_its_end(*, in_channels, out_channels):
    return nn.Sequential(_WithoutForwardMode(in_channels, 6), nn.Conv2d(6, out_channels, 1))


def with_other_arguments(channels):
    raise AssertionError("never called")


def fatal(*, in_channels, out_channels):
    """Kills its own process (SIGKILL) at the first pass that trains."""
    model = network(in_channels=in_channels, out_channels=out_channels)
    model.register_forward_pre_hook(lambda module, inputs: os.kill(os.getpid(), signal.SIGKILL) if module.training else None)
    return model


def signalling(*, in_channels, out_channels):
    """Sends its own process SIGINT at forward pass number $TINY_SIGINT_AT, if that is set."""
    model = network(in_channels=in_channels, out_channels=out_channels)

    def count(module, inputs):
        global FORWARDS
        FORWARDS += 1
        if os.environ.get("TINY_SIGINT_AT") == str(FORWARDS):
            signal.raise_signal(signal.SIGINT)

    model.register_forward_pre_hook(count)
    return model


class _Blind(nn.Module):
    def __init__(self, out_channels):
        super().__init__()
        self.bias = nn.Parameter(torch.full((out_channels, 1, 1), -9.0))

    def forward(self, images):
        return 0 * images.mean(1, keepdim=True) + self.bias


def blind(*, in_channels, out_channels):
    """Sees background everywhere, whatever it is shown."""
    return _Blind(out_channels)


class _Overflowing(nn.Module):
    def __init__(self, out_channels):
        super().__init__()
        self.scale = nn.Parameter(torch.full((out_channels, 1, 1), 1e30))

    def forward(self, images):
        return (images.mean(1, keepdim=True) * self.scale) * self.scale - self.scale * self.scale


def overflowing(*, in_channels, out_channels):
    """Its loss is not finite: the logits are infinity less infinity."""
    return _Overflowing(out_channels)


def draw(folder, *, noisy=10, clean=14, test=3, size=SIZE, seed=0, foreground=255, prefix="", noisy_above=0.75):
    """Make a data folder; return it. A noisy mask is where the bump is above `noisy_above`."""
    draws = np.random.default_rng(seed)
    for name in ("images", "noisy", "clean", "test"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    roles = ["noisy"] * noisy + ["clean"] * clean + ["test"] * test
    for number, role in enumerate(roles):
        row, column = draws.uniform(size * 0.3, size * 0.7, 2)
        bump = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (size * draws.uniform(0.15, 0.25)) ** 2))
        grey = 200 * bump + draws.normal(20, 6, (size, size))
        colours = np.stack([grey, 0.7 * grey + draws.normal(0, 6, grey.shape), draws.normal(100, 20, grey.shape)], -1)
        Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{prefix}{number:03}.png")
        mask = foreground * (bump > (noisy_above if role == "noisy" else 0.35)).astype(np.uint8)
        Image.fromarray(mask.astype(np.uint8)).save(folder / role / f"{prefix}{number:03}.png")
    return folder


def configured(**settings):
    """Return settings for 9 updates: 3 epochs of 4, 4 and 2 noisy images; of 14 clean cases 11 are held out."""
    small = {
        "model": "tiny:network",
        "image_size": SIZE,
        "batch_size": 4,
        "clean_batch_size": 3,
        "epochs": 3,
        "val_fraction": 0.8,
        "weight_map_cases": 2,
        "device": "cpu",
    }
    return Config(**{**small, **settings})


def leave_figures_out(patch):
    """Have benchmarks write their tables alone: figures and page are most of what a tiny one takes, and have tests of their own."""
    patch.setattr("pixeltrust.benchmarking.outcome.writing.draw_figures", lambda outcome: iter(()))
    patch.setattr("pixeltrust.benchmarking.page.benchmark_page", lambda folder, outcome: "")
    patch.setattr("pixeltrust.mending.page.mending_page", lambda audit, table, estimate: "")


def network_3d(*, in_channels, out_channels):
    """A network for volumes."""
    return nn.Sequential(nn.Conv3d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv3d(4, out_channels, 3, padding=1))


def in_float64_3d(*, in_channels, out_channels):
    return _InFloat64(nn.Sequential(nn.Conv3d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, out_channels, 3, padding=1)))


def draw_volumes(folder, *, noisy=6, clean=4, test=0, shape=(10, 24, 20), channels=1, spacing=(5, 0.8, 0.8)):
    """Make a data folder of volumes of two structures, of about this shape; noisy masks lack a part. All clean cases are pairs."""
    import nibabel

    draws = np.random.default_rng(0)
    affine = np.diag([*spacing[::-1], 1.0])
    roles = ["noisy"] * noisy + ["clean"] * clean + ["test"] * test

    def save(path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values.transpose(), affine), path)

    for number, role in enumerate(roles):
        extent = np.array(shape) + number % 2
        centre = extent * draws.uniform(0.4, 0.6, 3)
        far = sum(((axis - at) / (0.3 * length)) ** 2 for axis, at, length in zip(np.indices(extent), centre, extent, strict=True))
        labels = np.where(far < 1, np.where(np.indices(extent)[1] < centre[1], 1, 2), 0).astype(np.uint8)
        for channel in range(channels):
            values = draws.normal(100 * labels, 20).astype(np.float32) * (1 + channel)
            ending = f"_{channel:04}" if channels > 1 else ""
            save(folder / "images" / f"v{number:02}{ending}.nii.gz", values)
        save(folder / role / f"v{number:02}.nii.gz", labels)
        if role != "test":
            save(folder / "noisy" / f"v{number:02}.nii.gz", np.where(far < 0.6, labels, 0).astype(np.uint8))
    for name in ("noisy", "clean"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def of_volumes(**settings):
    """Return settings for volumes of `draw_volumes`: patches of 8x16x16, 2 epochs of 2 updates."""
    small = {"model": "tiny:network_3d", "classes": 3, "image_size": (8, 16, 16), "val_fraction": 0.0, "epochs": 2, "batch_size": 3}
    return configured(**{**small, "clean_batch_size": 2, **settings})
