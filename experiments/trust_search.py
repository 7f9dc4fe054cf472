"""Which form of trust is best? Many short trainings, compared on training images that are kept apart: never on test images.

    python experiments/trust_search.py SOURCE OUT [--noise triangle] [--clean 100] [--seeds 0,1] VARIANT…

Of the source's training cases, 500 are the development part (their expert masks are measured by, never trained on), 800 are noisy and
`clean` are clean. The network is `unet-small` at 48x48, 12 epochs of 50 updates of 16 + 16 images, Adam with a cosine. A variant is
`name` or `name:key=value,key=value` (see `Variant`); each run is a row of OUT/runs.csv, each epoch one of OUT/epochs.csv.

The variants live here alone: `pixeltrust.method.trust` holds what won.
"""

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from pixeltrust.config import Config
from pixeltrust.data.batches import endless_order, epoch_order
from pixeltrust.data.images import read_image
from pixeltrust.data.known_truth import read_source
from pixeltrust.data.masks import read_binary
from pixeltrust.data.resizing import resize_image, resize_labels
from pixeltrust.data.views import Views, draw_views
from pixeltrust.method.losses import cross_entropy_of_labels, mean_over_counted
from pixeltrust.method.tangents import exact_tangent
from pixeltrust.method.weights import Batch, clean_gradient
from pixeltrust.metrics import confusion, dice
from pixeltrust.noise.kinds import find_kind
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.seeds import generator
from pixeltrust.training.models import build_model
from pixeltrust.training.optimizers import build_optimizer, build_schedule

SIDE, BATCH, EPOCHS = 48, 16, 12
DEVELOPMENT, NOISY = 500, 800


@dataclass(frozen=True)
class Variant:
    """One way to use the masks."""

    kind: str = "trust"
    """clean, finetuned, ceiling, pixel, or trust."""
    memory: float = 0.7
    """T ← memory T + (1 − memory) evidence."""
    prior: float = 1.0
    """T before the first visit."""
    power: float = 1.0
    """A pixel counts with T to this power."""
    evidence: str = "sign"
    """sign of the gain; label: sign of the logits' tangent towards the label; scaled: a sigmoid of that tangent over its spread;
    gain: a sigmoid of the gain over its spread."""
    repair: bool = False
    """The target of a pixel with T ≤ 1/2 is the averaged network's probability, and it counts fully."""
    smooth: int = 0
    """Side of the window in which gains of one label are averaged before they count; 0 for none."""
    clean_weight: float = 1.0
    split: bool = False
    """The clean gradient for the evidence is of one half of the clean cases, the clean loss of the other."""
    warm: float = 0.0
    """Share of the updates before which trust is gathered and all noisy pixels have no say."""
    jitter: str = "none"
    """Images change in zoom, place, contrast and colour: of clean, all, or none (see `pixeltrust.data.views`)."""
    agree: bool = False
    """A pixel counts with the averaged network's probability of its label, where that is more than its trust."""
    finetune: float = 0.0
    """Share of the updates, the last, that are made on clean batches alone."""
    decay: float = 0.98
    """Of the average of the network, per update."""
    held: float = 0.0
    """Share of the clean cases that is not trained on: to choose the epoch by (`held_dice`)."""
    clean_batch: int = BATCH
    """Clean images per update."""


def pixels(source: Path, noise: str) -> dict[str, np.ndarray]:
    """Return images, true and noisy masks of the training cases at the size of training, kept in a file beside."""
    cases = [case for case in read_source(source) if case.trains]
    draw = find_kind(noise)
    images, truths, noisy = [], [], []
    for case in cases:
        image, truth = read_image(case.image, 3), read_binary(case.mask)
        wrong = draw(truth, generator(0, "noise", case.id), 1.0, image)
        images.append(resize_image(image, (SIDE, SIDE)).transpose(2, 0, 1))
        truths.append(resize_labels(truth, (SIDE, SIDE)))
        noisy.append(resize_labels(wrong, (SIDE, SIDE)))
    return {"images": np.stack(images), "truth": np.stack(truths), "noisy": np.stack(noisy)}


class Search:
    """One training."""

    def __init__(self, data: dict[str, np.ndarray], variant: Variant, *, clean: int, seed: int) -> None:
        self.variant, self.seed = variant, seed
        self.images, self.truth, self.given = (torch.from_numpy(data[name]) for name in ("images", "truth", "noisy"))
        order = generator(0, "development").permutation(len(self.images))
        self.development, rest = order[:DEVELOPMENT], generator(seed, "clean").permutation(order[DEVELOPMENT:])
        self.held, self.clean = np.split(rest[:clean], [round(clean * variant.held)])
        self.noisy = rest[clean : clean + NOISY]
        self.config = Config(model="unet-small", image_size=SIDE, seed=seed, jitter=variant.jitter)
        torch.manual_seed(seed)
        self.model = build_model("unet-small", channels=3, classes=1)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.updates = EPOCHS * -(-len(self.noisy) // BATCH)
        self.optimizer = build_optimizer(self.model, self.config)
        self.schedule = build_schedule(self.optimizer, self.config, self.updates)
        self.trust = torch.full((len(self.images), SIDE, SIDE), variant.prior)

    def batch(self, indices: np.ndarray, masks: Tensor, stream: str, update: int) -> tuple[Batch, Views]:
        views = draw_views(len(indices), self.config, update, stream)
        return views.show(Batch(self.images[indices].float() / 255, masks[indices])), views

    def train(self) -> Iterator[dict[str, Any]]:
        per_epoch = self.updates // EPOCHS
        for update in range(self.updates):
            self.model.train()
            self.optimizer.zero_grad(set_to_none=True)
            self.step(update)
            self.optimizer.step()
            self.schedule.step()
            decay = min(self.variant.decay, (1 + update) / (10 + update))
            torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in self.model.parameters()], 1 - decay)
            if (update + 1) % per_epoch == 0:
                yield {"epoch": (update + 1) // per_epoch, **self.state()}

    def step(self, update: int) -> None:
        variant, progress = self.variant, update / self.updates
        indices = epoch_order(self.noisy, BATCH, update, self.seed, "noisy")
        kind = variant.kind
        if kind == "finetuned":
            kind = "plain" if progress < 2 / 3 else "clean"
        if progress >= 1 - variant.finetune:
            kind = "clean"
        if kind == "ceiling":
            self._mean(self.batch(indices, self.truth, "noisy", update)[0])
        elif kind == "plain":
            masks = torch.where(
                torch.isin(torch.arange(len(self.images)), torch.from_numpy(self.clean))[:, None, None], self.truth, self.given
            )
            pool = np.concatenate([self.noisy, self.clean])
            self._mean(self.batch(endless_order(pool, BATCH, update, self.seed, "pool"), masks, "pool", update)[0])
        elif kind == "clean":
            self._mean(self._clean(self.clean, update)[0])
        else:
            self._trusting(indices, update)

    def _clean(self, cases: np.ndarray, update: int) -> tuple[Batch, Views]:
        indices = endless_order(cases, self.variant.clean_batch, update, self.seed, "clean")
        return self.batch(indices, self.truth, "clean", update)

    def _mean(self, batch: Batch) -> None:
        mean_over_counted(cross_entropy_of_labels(self.model(batch.images), batch.masks), batch.masks).backward()

    def _trusting(self, indices: np.ndarray, update: int) -> None:
        variant = self.variant
        half = len(self.clean) // 2
        evidence_cases, loss_cases = (self.clean[:half], self.clean[half:]) if variant.split else (self.clean, self.clean)
        _, direction = clean_gradient(self.model, self._clean(evidence_cases, update)[0], pixel_loss=cross_entropy_of_labels)
        if variant.split:
            _, clean_direction = clean_gradient(self.model, self._clean(loss_cases, update)[0], pixel_loss=cross_entropy_of_labels)
        else:
            clean_direction = direction
        noisy, views = self.batch(indices, self.given, "noisy", update)
        addresses = views.show_addresses(self.config.size)
        logits, tangent = exact_tangent(self.model, noisy.images, direction)
        counted = noisy.masks != IGNORE
        label = (noisy.masks * counted).float()
        away = torch.sigmoid(logits.detach()[:, 0]) - label
        gain = counted * away * tangent.detach()[:, 0]
        losses = functional.binary_cross_entropy_with_logits(logits[:, 0], label, reduction="none")
        if variant.kind == "pixel":
            weight = gain.clamp(min=0)
        else:
            weight = self._trusted(indices, addresses, gain, tangent.detach()[:, 0], label) ** variant.power
        if variant.agree:
            with torch.no_grad():
                believed = torch.sigmoid(self.average(noisy.images)[:, 0])
            weight = torch.maximum(weight, torch.where(label > 0, believed, 1 - believed))
        if variant.repair:
            doubted = self._shown(indices, addresses) <= 0.5
            with torch.no_grad():
                target = torch.where(doubted, torch.sigmoid(self.average(noisy.images)[:, 0]), label)
            losses = functional.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
            weight = torch.ones_like(weight) if variant.power == 1 else torch.where(doubted, 1.0, weight)
        weight = weight * counted
        if update >= variant.warm * self.updates:
            ((weight * losses).sum() / weight.sum().clamp(min=1e-30)).backward()
        for parameter, gradient in clean_direction.items():
            share = variant.clean_weight * gradient
            parameter.grad = share if parameter.grad is None else parameter.grad + share

    def _trusted(self, indices: np.ndarray, addresses: Tensor, gain: Tensor, tangent: Tensor, label: Tensor) -> Tensor:
        variant = self.variant
        towards = tangent * (1 - 2 * label)  # how far a step against the clean gradient moves the logit to the label
        if variant.evidence == "label":
            gain = towards
        if variant.smooth:
            side, same = variant.smooth, [label, 1 - label]
            means = [functional.avg_pool2d((gain * s)[:, None], side, 1, side // 2, count_include_pad=False)[:, 0] for s in same]
            gain = torch.where(label > 0, means[0], means[1])
        if variant.evidence == "scaled":
            evidence = torch.sigmoid(2 * towards / towards.square().mean().sqrt().clamp(min=1e-30))
        elif variant.evidence == "gain":
            evidence = torch.sigmoid(2 * gain / gain.abs().mean().clamp(min=1e-30))
        else:
            evidence = (gain > 0).float()
        before, places = self.trust[indices], addresses.clamp(min=0).flatten(1)
        heard = ((gain != 0) & (addresses >= 0)).float()
        favourable, speaking = (
            torch.zeros(places.shape).scatter_add(1, places, values.flatten(1)).view(before.shape) for values in (evidence * heard, heard)
        )
        self.trust[indices] = torch.where(speaking > 0, torch.lerp(favourable / speaking, before, variant.memory), before)
        return self._shown(indices, addresses)

    def _shown(self, indices: np.ndarray, addresses: Tensor) -> Tensor:
        """Return the trust of the shown pixels; 0 where there is none of the case."""
        shown = self.trust[indices].flatten(1).gather(1, addresses.clamp(min=0).flatten(1)).view(addresses.shape)
        return torch.where(addresses < 0, 0.0, shown)

    def state(self) -> dict[str, Any]:
        wrong = self.given[self.noisy] != self.truth[self.noisy]
        trust = self.trust[self.noisy]
        weight = trust**self.variant.power
        probabilities = predicted(self.average, self.images[self.noisy])
        mended = torch.where(trust > 0.5, self.given[self.noisy], (probabilities > 0.5).byte())
        disputed = (probabilities > 0.5) != (self.given[self.noisy] > 0)
        return {
            "ranking": ranking(trust[disputed & ~wrong], trust[disputed & wrong]),
            "dice": mean_dice(predicted(self.model, self.images[self.development]), self.truth[self.development]),
            "held_dice": mean_dice(predicted(self.model, self.images[self.held]), self.truth[self.held]) if len(self.held) else np.nan,
            "average_dice": mean_dice(predicted(self.average, self.images[self.development]), self.truth[self.development]),
            "share": float(weight[wrong].sum() / weight.sum()),
            "wrong": float(wrong.float().mean()),
            "right_trusted": float((trust[~wrong] > 0.5).float().mean()),
            "wrong_trusted": float((trust[wrong] > 0.5).float().mean()),
            "mended_dice": mean_dice(mended.float(), self.truth[self.noisy]),
            "network_dice": mean_dice(probabilities, self.truth[self.noisy]),
        }


@torch.no_grad()
def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """Probabilities."""
    model.eval()
    return torch.cat([torch.sigmoid(model(part.float() / 255)[:, 0]) for part in images.split(64)])


def ranking(right: Tensor, wrong: Tensor) -> float:
    """AUROC of trust for right against wrong pixels, ties counting half: here of those whose label the network disputes."""
    ranks = pd.Series(torch.cat([right, wrong]).numpy()).rank().to_numpy()
    return float((ranks[: len(right)].sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


def mean_dice(found: Tensor, truth: Tensor) -> float:
    pairs = zip((found > 0.5).byte().numpy(), truth.numpy(), strict=True)
    return float(np.nanmean([dice(confusion(predicted=one, truth=other)) for one, other in pairs]))


def variant_of(text: str) -> Variant:
    """Parse `kind` or `kind:key=value,…`."""
    kind, _, rest = text.partition(":")
    kinds = {field.name: type(field.default) for field in fields(Variant)}
    pairs = [pair.split("=") for pair in rest.split(",") if pair]
    return replace(Variant(kind=kind), **{key: value == "True" if kinds[key] is bool else kinds[key](value) for key, value in pairs})


def add_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with FileLock(f"{path}.lock"):
        earlier = [pd.read_csv(path)] if path.exists() else []
        pd.concat([*earlier, pd.DataFrame(rows)]).to_csv(path, index=False)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--noise", default="triangle")
    arguments.add_argument("--clean", type=int, default=100)
    arguments.add_argument("--seeds", default="0")
    arguments.add_argument("variants", nargs="+")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / f"{given.noise}.npz"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            np.savez(kept, **pixels(given.source, given.noise))
    data = dict(np.load(kept))
    for text in given.variants:
        for seed in map(int, given.seeds.split(",")):
            name = {"variant": text, "noise": given.noise, "clean": given.clean, "seed": seed}
            began = time.process_time()
            epochs = [name | row for row in Search(data, variant_of(text), clean=given.clean, seed=seed).train()]
            row = epochs[-1] | {"seconds": round(time.process_time() - began, 1)}
            print(row, flush=True)
            add_rows(given.out / "epochs.csv", epochs)
            add_rows(given.out / "runs.csv", [row])


if __name__ == "__main__":
    main()
