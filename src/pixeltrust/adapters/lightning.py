"""Trust in a LightningModule, of `lightning` or `pytorch_lightning` from version 2 on; neither is imported here.

What changes in a project that has one: `self.trust` in its `__init__`, the step in its `training_step`, and two dataloaders in `fit`.
Accumulation, clipping, precision, checkpoints, several devices and resuming are Lightning's as before: its checkpoints hold the trust,
which is a part of the module.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from pixeltrust.adapters.parallel import parallel_step
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import Step


class LightningTrust(Trust):
    """A `Trust` whose step leaves the backward to Lightning, and knows the processes of its strategy "ddp".

    Args:
        memory, sharpness, folder: as of `Trust`.

    Example:
        class Lesions(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.network, self.trust = UNet(), LightningTrust()

            def training_step(self, batch, batch_idx):
                noisy, clean = batch["noisy"], batch["clean"]
                step = self.trust.step(
                    self.network,
                    noisy=Batch(noisy["image"], noisy["mask"]),
                    clean=Batch(clean["image"], clean["mask"]),
                    where=Where(noisy["id"], noisy["addresses"], shapes=(512, 512)),
                )
                self.log("loss", step.loss)
                return step.total  # with manual optimisation: self.manual_backward(step.total)

        trainer.fit(Lesions(), {"noisy": noisy_loader, "clean": clean_loader})  # the shorter one starts over
    """

    def step(self, model: nn.Module, *, backward: Callable[[Tensor], object] | Literal[False] | None = False, **arguments: Any) -> Step:
        """Make the step of `Trust.step`, of which `total` is the loss for Lightning's backward.

        Args:
            model: the network, an attribute of the LightningModule.
            backward: `self.manual_backward` with manual optimisation, where that is called here.
            arguments: of `Trust.step`, but `ranks`.

        Raises:
            ValueError, TypeError: as `Trust.step`; several processes that the strategy "ddp" does not join.
        """
        return parallel_step(self, model, backward=backward, **arguments)
