"""Train segmentation networks on masks that cannot all be trusted: learn, pixel by pixel, which annotations help.

    from pixeltrust import Batch, pixel_gains, pixel_weights, reweighted_step, verify
    from pixeltrust import Trust, Where, address_map  # what is remembered of a pixel, in any training loop

Every command is a function of the same name: `pixeltrust.train(...)`, `pixeltrust.predict(...)`, and so on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixeltrust.auditing.run import audit as audit
    from pixeltrust.benchmarking.grid import Grid as Grid
    from pixeltrust.benchmarking.question import question as question
    from pixeltrust.benchmarking.run import benchmark as benchmark
    from pixeltrust.config import Config as Config
    from pixeltrust.data.cases import check as check
    from pixeltrust.datasets.source import fetch as fetch
    from pixeltrust.demonstration.demo import demo as demo
    from pixeltrust.formats.convert import convert as convert
    from pixeltrust.mending.run import mend as mend
    from pixeltrust.method.addresses import Where as Where
    from pixeltrust.method.addresses import address_map as address_map
    from pixeltrust.method.addresses import coordinate_map as coordinate_map
    from pixeltrust.method.batch import Batch as Batch
    from pixeltrust.method.losses import weighted_dice_cross_entropy as weighted_dice_cross_entropy
    from pixeltrust.method.trust import Trust as Trust
    from pixeltrust.method.verification import verify as verify
    from pixeltrust.method.weights import pixel_gains as pixel_gains
    from pixeltrust.method.weights import pixel_weights as pixel_weights
    from pixeltrust.method.weights import reweighted_step as reweighted_step
    from pixeltrust.noise.simulate import simulate as simulate
    from pixeltrust.plumbing.errors import ConfigError as ConfigError
    from pixeltrust.plumbing.errors import DataError as DataError
    from pixeltrust.plumbing.errors import FetchError as FetchError
    from pixeltrust.plumbing.errors import GainsWarning as GainsWarning
    from pixeltrust.plumbing.errors import PixeltrustError as PixeltrustError
    from pixeltrust.plumbing.errors import RunError as RunError
    from pixeltrust.prediction.evaluate import evaluate as evaluate
    from pixeltrust.prediction.export import export as export
    from pixeltrust.prediction.load import load as load
    from pixeltrust.prediction.predict import predict as predict
    from pixeltrust.reports import report as report
    from pixeltrust.reviewing.exports import export_decisions as export_decisions
    from pixeltrust.reviewing.server import review as review
    from pixeltrust.training.train import train as train

__version__ = "1.0.0"

_MODULES = {
    "method.batch": ("Batch",),
    "method.addresses": ("Where", "address_map", "coordinate_map"),
    "method.losses": ("weighted_dice_cross_entropy",),
    "method.trust": ("Trust",),
    "method.weights": ("pixel_gains", "pixel_weights", "reweighted_step"),
    "method.verification": ("verify",),
    "config": ("Config",),
    "plumbing.errors": ("ConfigError", "DataError", "FetchError", "GainsWarning", "PixeltrustError", "RunError"),
    "demonstration.demo": ("demo",),
    "datasets.source": ("fetch",),
    "noise.simulate": ("simulate",),
    "data.cases": ("check",),
    "formats.convert": ("convert",),
    "training.train": ("train",),
    "prediction.predict": ("predict",),
    "prediction.load": ("load",),
    "prediction.export": ("export",),
    "prediction.evaluate": ("evaluate",),
    "auditing.run": ("audit",),
    "mending.run": ("mend",),
    "reviewing.server": ("review",),
    "reviewing.exports": ("export_decisions",),
    "benchmarking.grid": ("Grid",),
    "benchmarking.run": ("benchmark",),
    "benchmarking.question": ("question",),
    "reports": ("report",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    """Load a public name, and what it needs, when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'pixeltrust' has no attribute {name!r}")
    return getattr(import_module(f"pixeltrust.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
