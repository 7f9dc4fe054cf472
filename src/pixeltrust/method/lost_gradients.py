"""A warning for gradients that are thrown away before an optimiser sees them: such a training looks healthy and learns nothing.

Lightning's automatic optimisation, for example, empties .grad after `training_step`, and so the gradient that a step has added there; it
wants `total` of a step with `backward=False`.
"""

import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pixeltrust.plumbing.errors import GainsWarning

PATIENCE = 2
"""Warn after so many steps in a row whose gradient is lost."""


@dataclass
class _Trace:
    """The state of a network after a step, of which every optimiser changes something."""

    updates: int
    versions: int
    last: Tensor
    lost: int


_TRACES: "WeakKeyDictionary[nn.Module, _Trace]" = WeakKeyDictionary()
_updates = 0


def _count_update(*_: object) -> None:
    global _updates
    _updates += 1


register_optimizer_step_post_hook(_count_update)  # for every torch optimiser: fused ones do not change a parameter's version


def remember_step(model: nn.Module) -> None:
    """Remember the network's state; to be called at the end of a step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained:
        before = _TRACES.get(model)
        lost = before.lost if before else 0
        _TRACES[model] = _Trace(_updates, sum(p._version for p in trained), trained[-1].detach().clone(), lost)


def forget_step(model: nn.Module) -> None:
    """Forget a step whose gradient is thrown away on purpose."""
    _TRACES.pop(model, None)


def warn_if_lost(model: nn.Module) -> None:
    """Warn if the gradients of the last steps are gone and no parameter was updated; to be called at the beginning of a step.

    Warns:
        GainsWarning: once for a network.
    """
    trace = _TRACES.get(model)
    if trace is None:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_lost = (
        trace.updates == _updates
        and sum(p._version for p in trained) == trace.versions
        and all(p.grad is None or not p.grad.any() for p in trained)
        and trained[-1].shape == trace.last.shape
        and bool((trained[-1].detach() == trace.last).all())  # writing to .data does not change the version
    )
    trace.lost = trace.lost + 1 if is_lost else 0
    if trace.lost == PATIENCE:
        warnings.warn(
            f"{type(model).__name__}: the gradients of the last {PATIENCE} steps are gone, and no parameter has changed. A step adds its "
            "gradient to .grad, as backward() does: call optimizer.step() before .grad is emptied. Where a framework does both "
            "(Lightning's automatic optimisation), hand step.total of a step with backward=False to its backward",
            GainsWarning,
            stacklevel=3,
        )
