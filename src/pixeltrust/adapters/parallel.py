"""Trust where DistributedDataParallel joins the processes: the step of one process with all of their batches, whoever calls backward.

The gradient that a step of several processes gives is a part of a sum, and DistributedDataParallel averages. So the loss that is handed
over has the gradient of the part times the number of processes. DistributedDataParallel also counts every call of the network that it
wraps as a forward with a backward to come; a step calls it twice or more, so the whole step runs as one forward.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import Step
from pixeltrust.plumbing.processes import current_ranks


def parallel_step(
    trust: Trust,
    model: nn.Module,
    *,
    backward: Callable[[Tensor], object] | Literal[False] | None = None,
    view: Callable[[nn.Module], nn.Module] | None = None,
    **arguments: Any,
) -> Step:
    """Make a step of `trust` with a model in DistributedDataParallel, or with any model in a single process.

    Every process gives its part of the noisy and of the clean batch. Gains, weights and trust are those of the joined batches, and
    after the backward every process has the whole gradient. All processes must have the same trust: begin alike, or load one state.

    Args:
        model: with several processes, one in DistributedDataParallel; or a part of one whose forward is running.
        backward: as in `Trust.step`.
        view: a function that wraps the network, called inside of DistributedDataParallel; it should return the same object every time.
        arguments: of `Trust.step`, but `ranks`.

    Raises:
        ValueError, TypeError: as `Trust.step`; several processes with a model that nothing joins.

    Example:
        step = parallel_step(trust, model, noisy=noisy, clean=clean, where=where, backward=accelerator.backward)
    """
    ranks = current_ranks()
    if ranks.count == 1:
        network = model.module if isinstance(model, DistributedDataParallel) else model
        return Trust.step(trust, network if view is None else view(network), backward=backward, **arguments)
    steps: list[Step] = []

    def work(network: nn.Module) -> Tensor:
        steps.append(Trust.step(trust, network if view is None else view(network), backward=False, ranks=ranks, **arguments))
        total = steps[0].total
        assert total is not None
        return total.detach() + ranks.count * (total - total.detach())

    if isinstance(model, DistributedDataParallel):
        total = _as_forward(model, arguments["noisy"].images, work)
    elif DistributedDataParallel._get_active_ddp_module() is not None:
        total = work(model)
    else:
        raise ValueError(
            f"{ranks.count} processes, but {type(model).__name__} is not in DistributedDataParallel, so nothing joins its gradients: wrap "
            "it, or give Trust.step ranks=current_ranks() and call ranks.sum_gradients(model.parameters()) before the optimiser's step"
        )
    if backward is False:
        return replace(steps[0], total=total)
    (backward or torch.autograd.backward)(total)
    return replace(steps[0], total=None)


def _as_forward(model: DistributedDataParallel, images: Tensor, work: Callable[[nn.Module], Tensor]) -> Tensor:
    """Return work(network) for the network that a model wraps, run in place of the network's forward."""
    network = model.module
    own = network.__dict__.get("forward")  # of the object, where a framework has replaced the class's

    def restore() -> None:
        if own is None:
            network.__dict__.pop("forward", None)
        else:
            network.forward = own

    def forward(_: Tensor) -> Tensor:
        restore()
        return work(network)

    network.forward = forward
    try:
        return model(images)
    finally:
        restore()
