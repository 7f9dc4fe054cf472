"""A gradient that was thrown away before any optimiser saw it: a training that looks healthy and learns nothing.

Lightning's automatic optimisation, for one, empties .grad after `training_step`, and with it what a step inside has added.
"""

import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pixeltrust.plumbing.errors import GainsWarning

PATIENCE = 2
"""Steps in a row whose gradient is lost, before it is said."""


@dataclass
class _Left:
    """How a step has left a network: what an optimiser would change, whoever made it."""

    updates: int
    versions: int
    last: Tensor
    lost: int


_LEFT: "WeakKeyDictionary[nn.Module, _Left]" = WeakKeyDictionary()
_updates = 0


def _count_update(*_: object) -> None:
    global _updates
    _updates += 1


register_optimizer_step_post_hook(_count_update)  # of every optimiser of torch's kind; fused ones change no parameter's version


def remember_step(model: nn.Module) -> None:
    """Call at the end of a step: remember how it leaves the network."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained:
        before = _LEFT.get(model)
        lost = before.lost if before else 0
        _LEFT[model] = _Left(_updates, sum(p._version for p in trained), trained[-1].detach().clone(), lost)


def forget_step(model: nn.Module) -> None:
    """Call after a step whose gradient is meant to be thrown away."""
    _LEFT.pop(model, None)


def warn_if_lost(model: nn.Module) -> None:
    """Call at the beginning of a step: warn where the gradients of the steps before are gone and nothing was updated.

    Warns:
        GainsWarning: once for a network.
    """
    left = _LEFT.get(model)
    if left is None:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_lost = (
        left.updates == _updates
        and sum(p._version for p in trained) == left.versions
        and all(p.grad is None or not p.grad.any() for p in trained)
        and trained[-1].shape == left.last.shape
        and bool((trained[-1].detach() == left.last).all())  # who writes to .data changes no version
    )
    left.lost = left.lost + 1 if is_lost else 0
    if left.lost == PATIENCE:
        warnings.warn(
            f"{type(model).__name__}: the gradients of the last {PATIENCE} steps are gone, and no parameter has changed. A step adds its "
            "gradient to .grad, as backward() does: call optimizer.step() before .grad is emptied (in Lightning: manual optimisation)",
            GainsWarning,
            stacklevel=3,
        )
