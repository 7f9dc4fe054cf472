"""Train segmentation networks on masks that cannot all be trusted: learn, pixel by pixel, which annotations help.

    from pixeltrust import Batch, pixel_gains, pixel_weights, reweighted_step, verify

The longer work is in modules of its own: `pixeltrust.train.train`, `pixeltrust.predict.predict`, and so on.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixeltrust.verification import verify
    from pixeltrust.weights import Batch, pixel_gains, pixel_weights, reweighted_step

__version__ = "0.1.0"
__all__ = ["Batch", "__version__", "pixel_gains", "pixel_weights", "reweighted_step", "verify"]


def __getattr__(name: str) -> Any:
    """Load torch only when one of the names, or a module, is asked for."""
    if name in __all__:
        return getattr(import_module(f"pixeltrust.{'verification' if name == 'verify' else 'weights'}"), name)
    if find_spec(f"pixeltrust.{name}"):
        return import_module(f"pixeltrust.{name}")
    raise AttributeError(f"module 'pixeltrust' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
