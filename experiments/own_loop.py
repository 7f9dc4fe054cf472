"""`Trust` in a loop of one's own against `train`: the same data, network, updates and optimiser; the loop augments by its own code.

    python experiments/own_loop.py SOURCE OUT [--seeds 0 1 2] [--epochs 5] [--ways WAY …]

SOURCE: what `pixeltrust fetch isic2017 SOURCE --size 256` makes. The loop crops, turns, mirrors and tints as anybody's might, and sends the
addresses through the same crops and turns. Its ways: `trust`, and the same with another loss (weighted Dice plus cross-entropy); beside it
`joint` (the same loop without trust, the mean of both batches' losses) with either loss. OUT/own-loop.csv has a row per seed and way: the
mean Dice of the test cases at the size of training. What is in it is not run again.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

import pixeltrust
from pixeltrust import Batch, Trust, Where, address_map, weighted_dice_cross_entropy
from pixeltrust.metrics import bootstrap_interval
from pixeltrust.prediction.network import read_network
from pixeltrust.training.models import build_model
from pixeltrust.training.run_folder import Run

SIZE, BATCH, RATE = 64, 16, 1e-3
SETTINGS = {"method": "trust", "model": "unet-small", "image_size": SIZE, "jitter": "all", "val_fraction": 0}
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Folder:
    """All images of a role with their masks, at the size of training."""

    def __init__(self, data: Path, role: str, without: frozenset[str] = frozenset()) -> None:
        files = [file for file in sorted((data / role).glob("*.png")) if file.stem not in without]
        self.ids = [file.stem for file in files]
        images = [
            Image.open(data / "images" / f"{case}.jpg").convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for case in self.ids
        ]
        masks = [Image.open(file).convert("L").resize((SIZE, SIZE), Image.Resampling.NEAREST) for file in files]
        self.images = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255
        self.masks = torch.from_numpy(np.stack([np.asarray(mask) > 0 for mask in masks])).long()


def augment(images: Tensor, masks: Tensor, addresses: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Crop 80 to 100 % of the side, turn by up to 180 degrees, mirror and tint; beyond the image is ignored, and has no address."""
    count = len(images)
    angle = (torch.rand(count, generator=draws) * 2 - 1) * torch.pi
    zoom = 0.8 + 0.2 * torch.rand(count, generator=draws)
    shift = (torch.rand(count, 2, generator=draws) * 2 - 1) * (1 - zoom)[:, None]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2) * zoom[:, None, None]
    grid = affine_grid(torch.cat([turn, shift[:, :, None]], 2), list(images.shape), align_corners=False)
    images = grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    labels = torch.stack([masks, addresses], 1).float() + 1  # 0 is beyond
    masks, addresses = grid_sample(labels, grid, "nearest", "zeros", align_corners=False).long().sub(1).unbind(1)
    masks = torch.where(masks < 0, 255, masks)
    mirrored = torch.rand(count, generator=draws) < 0.5
    images, masks, addresses = (
        torch.where(mirrored.view(-1, *(1,) * (values.ndim - 1)), values.flip(-1), values) for values in (images, masks, addresses)
    )
    contrast = 0.75 + 0.5 * torch.rand(count, 1, 1, 1, generator=draws)
    tint = (torch.rand(count, 3, 1, 1, generator=draws) * 2 - 1) * 0.1
    mean = images.mean((2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + tint).clamp(0, 1), masks, addresses


def batches(folder: Folder, draws: torch.Generator) -> Iterator[tuple[Batch, Where]]:
    """Yield augmented batches without end, every case once in a round."""
    whole = address_map((SIZE, SIZE)).expand(BATCH, -1, -1)
    while True:
        for chosen in torch.randperm(len(folder.ids), generator=draws).split(BATCH):
            images, masks, addresses = augment(folder.images[chosen], folder.masks[chosen], whole[: len(chosen)], draws)
            yield Batch(images, masks), Where([folder.ids[case] for case in chosen], addresses, (SIZE, SIZE))


def own_loop(data: Path, seed: int, epochs: int, *, loss: Loss | None, trusting: bool) -> nn.Module:
    """Train as people do, with `Trust` in it or without."""
    torch.manual_seed(seed)
    model, trust = build_model("unet-small", channels=3, classes=1), Trust()
    clean = Folder(data, "clean")
    noisy = Folder(data, "noisy", frozenset(clean.ids))
    updates = epochs * -(-len(noisy.ids) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    noisy_batches, clean_batches = (
        batches(folder, torch.Generator().manual_seed(seed + place)) for place, folder in enumerate((noisy, clean))
    )
    model.train()
    for _ in range(updates):
        (noisy_batch, where), (clean_batch, _) = next(noisy_batches), next(clean_batches)
        optimizer.zero_grad()
        if trusting:
            trust.step(model, noisy=noisy_batch, clean=clean_batch, where=where, loss=loss)
        else:
            sum(equal(loss, model(batch.images), batch.masks) / 2 for batch in (noisy_batch, clean_batch)).backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()
    return model


def equal(loss: Loss | None, logits: Tensor, masks: Tensor) -> Tensor:
    """Return the loss with equal weights."""
    counted = (masks != 255).float()
    if loss is not None:
        return loss(logits, masks, counted)
    return (
        nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.clamp(max=1).float(), counted, reduction="sum") / counted.sum()
    )


def trained(data: Path, seed: int, epochs: int, out: Path) -> nn.Module:
    """Train by `train`."""
    config = pixeltrust.Config(**SETTINGS, seed=seed, epochs=epochs)  # type: ignore[arg-type]
    pixeltrust.train(data, out=out, config=config, resume=True, show_progress=False)
    return read_network(Run(out), "last")[1]


@torch.no_grad()
def measure(model: nn.Module, data: Path) -> np.ndarray:
    """Return the Dice of every test case."""
    model.eval()
    test = Folder(data, "test")
    found = torch.cat([model(images)[:, 0] > 0 for images in test.images.split(50)])
    both, either = (found & (test.masks > 0)).sum((1, 2)), found.sum((1, 2)) + (test.masks > 0).sum((1, 2))
    return torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).numpy()


WAYS: dict[str, Callable[[Path, int, int, Path], nn.Module]] = {
    "train": lambda data, seed, epochs, out: trained(data, seed, epochs, out / f"run-{seed}"),
    "own loop": lambda data, seed, epochs, _: own_loop(data, seed, epochs, loss=None, trusting=True),
    "own loop, Dice and cross-entropy": lambda data, seed, epochs, _: own_loop(
        data, seed, epochs, loss=weighted_dice_cross_entropy, trusting=True
    ),
    "own loop, joint": lambda data, seed, epochs, _: own_loop(data, seed, epochs, loss=None, trusting=False),
    "own loop, joint, Dice and cross-entropy": lambda data, seed, epochs, _: own_loop(
        data, seed, epochs, loss=weighted_dice_cross_entropy, trusting=False
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--noise", default="triangle")
    arguments.add_argument("--clean", type=int, default=100)
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = arguments.parse_args()
    table = given.out / "own-loop.csv"
    rows = pd.read_csv(table).to_dict("records") if table.is_file() else []
    for seed in given.seeds:
        data = given.out / f"data-{seed}"
        if not (data / "simulation.json").is_file():
            pixeltrust.simulate(given.source, data, noise=given.noise, clean=given.clean, seed=seed, show_progress=False)
        for way in given.ways:
            if any(row["seed"] == seed and row["way"] == way for row in rows):
                continue
            each = measure(WAYS[way](data, seed, given.epochs, given.out), data)
            low, high = bootstrap_interval(each)
            rows.append({"seed": seed, "way": way, "dice": each.mean(), "low": low, "high": high, "cases": len(each)})
            print(f"seed {seed}, {way}: {each.mean():.3f} ({low:.3f} to {high:.3f})", flush=True)
            pd.DataFrame(rows).to_csv(table, index=False, float_format="%.5f")
    print(pd.DataFrame(rows).groupby("way", sort=False)["dice"].agg(["mean", "std", "count"]).round(4).to_string())


if __name__ == "__main__":
    main()
