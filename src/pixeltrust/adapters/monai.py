"""Trust in MONAI: a dictionary transform that adds the addresses, and an `iteration_update` for its SupervisedTrainer.

transforms = Compose([
    LoadImaged(("image", "label")), EnsureChannelFirstd(("image", "label")),
    AddAddressesd("label"),
    RandAffined(("image", "label", "addresses"), mode=("bilinear", "nearest", "nearest"), padding_mode="zeros", …),
])
trainer = SupervisedTrainer(…, loss_function=weighted_dice_cross_entropy, iteration_update=trust_update(trust, clean_loader))
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from pixeltrust.adapters.monai_addresses import AddAddressesd as AddAddressesd
from pixeltrust.adapters.monai_addresses import where_of as where_of
from pixeltrust.adapters.parallel import parallel_step
from pixeltrust.method.batch import Batch
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import Step

try:
    import ignite  # noqa: F401  (MONAI's trainers need it, and name it only when one is made)
    from monai.engines import SupervisedTrainer
    from monai.utils import CommonKeys
except ImportError as error:
    raise ImportError("pixeltrust.adapters.monai needs MONAI, and its trainers ignite: pip install monai pytorch-ignite") from error


def trust_update(
    trust: Trust, clean_loader: Iterable[Any], *, id_key: str = "id", addresses_key: str = "addresses", **settings: Any
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return an `iteration_update` for SupervisedTrainer whose training data are the noisy cases.

    Everything else is the trainer's own iteration: `amp` and its scaler, the inferer, `optim_set_to_none`, `accumulation_steps`, events,
    and the network in DistributedDataParallel. PRED is the prediction for the noisy batch, LOSS the loss of the step. `loss_function` of
    the trainer is a function of (logits, masks, weights), as `weighted_dice_cross_entropy`, or None for weighted cross-entropy.

    Args:
        trust: to be listed among what is saved in checkpoints.
        clean_loader: of batches with the clean cases, which the trainer's `prepare_batch` prepares. It starts over with every epoch, and
            as often as an epoch needs it.
        id_key, addresses_key: as of `where_of`.
        settings: of `Trust.step`, as `clean_weight`, `pixel_loss`, `logits`.

    Raises:
        TypeError: when it trains, `loss_function` cannot take three arguments.
        ValueError: when it trains, `clean_loader` is empty, or `prepare_batch` gives the network more than images.
    """
    views: dict[nn.Module, nn.Module] = {}
    clean_batches: Iterator[Any] = iter(())
    epoch = 0

    def update(engine: Any, batchdata: Any) -> dict[str, Any]:
        nonlocal clean_batches, epoch
        if engine.state.epoch != epoch:
            clean_batches, epoch = _without_end(clean_loader), engine.state.epoch
        loss, steps = _weighted(engine.loss_function), list[Step]()

        def infer(inputs: Tensor, network: nn.Module, *more: Any, **named: Any) -> Tensor:
            prepared = engine.prepare_batch(next(clean_batches), engine.state.device, engine.non_blocking, **engine.to_kwargs)
            if more or named or len(prepared) != 2:
                raise ValueError("prepare_batch must give images and labels alone: a step of Trust calls the network with images only")
            noisy, clean = (_batch(*part) for part in ((inputs, engine.state.output[CommonKeys.LABEL]), prepared))
            where = where_of(batchdata, id_key=id_key, addresses_key=addresses_key)
            step = parallel_step(
                trust, network, noisy=noisy, clean=clean, where=where, loss=loss, backward=False,
                view=lambda inner: views.setdefault(inner, _Inferred(inner, engine.inferer)), **settings,
            )  # fmt: skip
            steps.append(step)
            return step.logits

        instead: Any = _Instead(engine, inferer=infer, loss_function=lambda *_: steps[0].total)
        return SupervisedTrainer._iteration(engine, instead, batchdata)  # the trainer's own, with these two replaced

    return update


class _Instead:
    """An object with some attributes replaced."""

    def __init__(self, of: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _of=of)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


class _Inferred(nn.Module):
    def __init__(self, network: nn.Module, inferer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.inferer = network, inferer

    def forward(self, images: Tensor) -> Tensor:
        return self.inferer(images, self.network)


def _batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images.as_subclass(Tensor), labels.as_subclass(Tensor))  # not MetaTensor, whose every operation copies what it knows


def _weighted(loss: Any) -> Any:
    if loss is not None:
        try:
            inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).bind(None, None, None)
        except TypeError as error:
            name = getattr(loss, "__name__", type(loss).__name__)
            raise TypeError(
                f"loss_function {name} takes no weights: give a function of (logits, masks, weights), as weighted_dice_cross_entropy, "
                "or None for weighted cross-entropy"
            ) from error
    return loss


def _without_end(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("clean_loader is empty")
