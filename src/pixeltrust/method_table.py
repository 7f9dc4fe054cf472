"""The training methods by name: what a step of each does, and what a run has to prepare for it.

The steps themselves are in `training/methods.py`: a new method is a function there and a row here. This table loads no torch, so that
settings with a wrong name are refused at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Family = Literal["plain", "clean", "joint", "pixel", "robust", "own"]


@dataclass(frozen=True)
class Method:
    """A training method."""

    name: str = ""
    step: str = ""
    """The name of its function or class in `training/methods.py`."""
    family: Family = "own"
    """Methods of one family share a colour in the charts."""
    streams: tuple[str, ...] = ()
    """Where its batches come from: `pool`, `noisy`, `clean`, `pairs`."""
    help: str = ""
    """A step in one line of Markdown, as in docs/reference/commands.md."""
    takes_gains: bool = False
    """Its steps report the gains of the noisy pixels: they are tried out before the first step, and the run ends with helped maps."""
    sees_given: bool = False
    """Its network sees the given mask beside the image."""
    weighs_pixels: bool = False
    """The run keeps weight maps: by the step's own `weights_of(cases, config)`, or else those that many clean cases give."""


_POOL, _PAIR = ("pool",), ("noisy", "clean")
# fmt: off
_ROWS = (
    Method("plain", "plain", "plain", _POOL, "a batch from one shuffled pool of noisy and clean cases, mean cross-entropy"),
    Method("clean", "clean", "clean", ("clean",), "a batch of clean cases"),
    Method("joint", "joint", "joint", _PAIR, "a noisy and a clean batch, the mean of their losses"),
    Method("finetuned", "finetuned", "clean", ("pool", "clean"),
           "as `plain`, and in the last third of the updates (`finetune_share`) as `clean`"),
    Method("dice-ce", "dice_ce", "robust", _POOL, "as `plain`, with the field's usual loss: Dice plus cross-entropy"),
    Method("gce", "gce", "robust", _POOL, "as `plain`, with generalised cross-entropy (Zhang & Sabuncu 2018), q = .7"),
    Method("mae", "mae", "robust", _POOL, "as `plain`, with the mean absolute error (Ghosh et al. 2017)"),
    Method("sce", "sce", "robust", _POOL, "as `plain`, with symmetric cross-entropy (Wang et al. 2019), α = .1, β = 1"),
    Method("nr-dice", "nr_dice", "robust", _POOL, "as `plain`, with the noise-robust Dice loss (Wang et al. 2020), γ = 1.5"),
    Method("t-loss", "TLoss", "robust", _POOL, "as `plain`, with the T-Loss (Gonzalez-Jimenez et al. 2023), whose ν is trained along"),
    Method("mean-teacher", "MeanTeacher", "robust", _PAIR, "a clean batch, and the images of a noisy one without their masks: "
           "consistency with an averaged teacher (Tarvainen & Valpola 2017)"),
    Method("image", "image", "pixel", _PAIR, "one weight for every noisy image, from the clean batch (Ren et al. 2018); "
           "plus λ times the clean loss (`clean_weight`)", takes_gains=True),
    Method("pixel", "pixel", "pixel", _PAIR, "one weight for every noisy pixel, from the clean batch (the paper); "
           "plus λ times the clean loss", takes_gains=True, weighs_pixels=True),
    Method("trust", "ByTrust", "pixel", _PAIR, "every noisy pixel is weighted by how often its gain was positive over all visits "
           "([the mathematics](../explanation/trust.md)); plus λ times the clean loss", takes_gains=True, weighs_pixels=True),
    Method("mender", "mender", "own", ("pairs",), "a batch of clean cases, each with the mask that was given for it as further "
           "channels of its image: what `pixeltrust mend` trains on pairs", sees_given=True),
)
# fmt: on
METHODS = {method.name: method for method in _ROWS}


def describe(step: Callable[..., Any]) -> Method:
    """Return the description of a step of the user's own: the attributes that it has, and defaults for the others."""
    names = ("streams", "takes_gains", "sees_given", "weighs_pixels")
    return Method(**{name: getattr(step, name) for name in names if hasattr(step, name)})


def family_of(name: str) -> Family:
    """Return the family of the method of this name; `own` for a name that is not in the table."""
    return METHODS[name].family if name in METHODS else "own"
