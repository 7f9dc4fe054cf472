"""What a step of Trust costs in each framework, against the same loop training on the same two batches as one, by turns.

    OMP_NUM_THREADS=1 python benchmarks/framework_cost.py [--model unet-small] [--size 96 96] [--batch 8] [--steps 16] [--rounds 5] \
        [--frameworks pytorch lightning monai accelerate] [--out FILE.csv]

Prints, and writes to FILE.csv, the processor time of a step with and without, the median of a round's steps, and over the rounds the
median ratio and its quartiles. Every step reads its images from memory; the addresses of every noisy pixel come with them.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from pixeltrust.method.addresses import Where, address_map
from pixeltrust.method.batch import Batch
from pixeltrust.method.trust import Trust
from pixeltrust.training.models import build_model

Tick = Callable[[], None]
Loop = Callable[["Task", bool, Tick], None]


class Task:
    """A fresh network and the batches that a loop trains on: `steps` of each stream, of made-up cases."""

    def __init__(self, model: str, size: tuple[int, ...], batch: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        addresses = address_map(size)
        self.items = [
            {
                "image": torch.randn(3, *size, generator=generator),
                "label": torch.randint(2, (1, *size), generator=generator),
                "id": str(number),
                "addresses": addresses,
            }
            for number in range(2 * batch)
        ]
        self.name, self.size, self.batch, self.steps = model, size, batch, steps

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return build_model(self.name, channels=3, classes=1)

    def loader(self, kind: type[DataLoader] = DataLoader, *, joined: bool = False, **more: Any) -> DataLoader:
        """A loader of a stream; of both as one batch where `joined`."""
        size = self.batch * (1 + joined)
        return kind((self.items * self.steps)[: size * self.steps], batch_size=size, **more)


def streams(noisy: dict[str, Any], clean: dict[str, Any]) -> dict[str, Any]:
    return {
        "noisy": Batch(noisy["image"], noisy["label"]),
        "clean": Batch(clean["image"], clean["label"]),
        "where": Where(noisy["id"], noisy["addresses"]),
    }


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def in_pytorch(task: Task, with_trust: bool, tick: Tick) -> None:
    model, trust = task.network(), Trust()
    optimizer = torch.optim.Adam(model.parameters())
    for batch in _batches(task, with_trust):
        if with_trust:
            trust.step(model, **streams(*batch))
        else:
            mean_loss(model(batch["image"]), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        tick()


def in_accelerate(task: Task, with_trust: bool, tick: Tick) -> None:
    from accelerate import Accelerator

    from pixeltrust.adapters.parallel import parallel_step

    accelerator = Accelerator(cpu=True)
    model, trust = task.network(), Trust()
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    for batch in _batches(task, with_trust):
        if with_trust:
            parallel_step(trust, model, **streams(*batch), backward=accelerator.backward)
        else:
            accelerator.backward(mean_loss(model(batch["image"]), batch["label"]))
        optimizer.step()
        optimizer.zero_grad()
        tick()


def in_lightning(task: Task, with_trust: bool, tick: Tick) -> None:
    import lightning

    from pixeltrust.adapters.lightning import LightningTrust

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.trust = task.network(), LightningTrust()

        def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
            if with_trust:
                return self.trust.step(self.network, **streams(batch["noisy"], batch["clean"])).total
            return mean_loss(self.network(batch["image"]), batch["label"])

        def on_train_batch_end(self, *_: Any) -> None:
            tick()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.network.parameters())

    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    loaders = {"noisy": task.loader(), "clean": task.loader()} if with_trust else task.loader(joined=True)
    lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, **quiet).fit(Module(), loaders)


def in_monai(task: Task, with_trust: bool, tick: Tick) -> None:
    import monai.data
    from ignite.engine import Events
    from monai.engines import SupervisedTrainer

    from pixeltrust.adapters.monai import AddAddressesd, trust_update

    model = task.network()
    add = AddAddressesd("label")
    task.items = [add({name: item[name] for name in ("image", "label", "id")}) for item in task.items]
    update = trust_update(Trust(), task.loader(monai.data.DataLoader)) if with_trust else None
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=1, train_data_loader=task.loader(monai.data.DataLoader, joined=not with_trust), network=model,
        optimizer=torch.optim.Adam(model.parameters()), loss_function=None if with_trust else mean_loss, iteration_update=update,
    )  # fmt: skip
    trainer.add_event_handler(Events.ITERATION_COMPLETED, tick)
    trainer.run()


LOOPS: dict[str, Loop] = {"pytorch": in_pytorch, "lightning": in_lightning, "monai": in_monai, "accelerate": in_accelerate}


def _batches(task: Task, with_trust: bool) -> Iterator[Any]:
    return iter(zip(task.loader(), task.loader(), strict=True) if with_trust else task.loader(joined=True))


def seconds(loop: Loop, task: Task, with_trust: bool) -> float:
    """The median processor time of the steps but the first; so what is checked at the steps 1, 2, 4 and 8 is not in it."""
    marks: list[float] = []
    loop(task, with_trust, lambda *_: marks.append(time.process_time()))
    return float(pd.Series(marks).diff().median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet-small")
    parser.add_argument("--size", type=int, nargs="+", default=[96, 96])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frameworks", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the frameworks'
    rows = []
    for turn in range(given.rounds):
        for name in given.frameworks:
            for with_trust in (False, True):
                task = Task(given.model, tuple(given.size), given.batch, given.steps)
                rows.append({"round": turn, "framework": name, "trust": with_trust, "seconds": seconds(LOOPS[name], task, with_trust)})
    table = (
        pd.DataFrame(rows)
        .pivot(index=["framework", "round"], columns="trust", values="seconds")
        .rename(columns={False: "without", True: "trust"})
    )
    table["ratio"] = table["trust"] / table["without"]
    for name in given.frameworks:
        low, middle, high = table.loc[name, "ratio"].quantile([0.25, 0.5, 0.75])
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f}), {table.loc[name, 'trust'].median():.3f} s a step")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        table.reset_index().to_csv(given.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
