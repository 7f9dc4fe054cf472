"""The network of a run in a file that other programs read: ONNX."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust import __version__
from pixeltrust.config import Config
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.files import naming_write_errors, write_atomically
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import one_line
from pixeltrust.prediction.network import read_network
from pixeltrust.training.run_folder import Run

FORMATS = ("onnx",)
STEP = 16  # pixels; a U-Net of four levels takes sizes that differ by multiples of it
CLOSE = 1e-3  # so far apart may probabilities be
OPSET = 17  # of ONNX, of 2022: what reads it is old enough


@dataclass(frozen=True, kw_only=True, repr=False)
class Exported(Summary):
    """The result of an export; `str` gives the summary."""

    out: Path
    difference: float
    """The largest difference between a probability of onnxruntime and of torch, over the images of `sizes`."""
    sizes: tuple[tuple[int, ...], ...]
    """The sizes of images at which the two were compared, that of the run first."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        sizes = " and ".join("x".join(map(str, reversed(size))) for size in self.sizes)
        compared = f"compared with torch at {sizes} pixels: probabilities differ by {self.difference:.1e} at most"
        return "\n".join([*self.notes, compared, f"the network is in {self.out}"])


def export(run: Path, *, format: str = "onnx", out: Path | None = None, weights: str = "last") -> Exported:
    """Write the network of a run as an ONNX file, and compare it with torch by onnxruntime.

    Its input `images` is float32 (B, C, *S) as in training: of pictures 0 … 1, of volumes resampled and normalised. Its output
    `probabilities` is float32 (B, K, *S), of the foreground when K = 1, else of each class. B is any; so is the size *S, as far as it
    differs from that of the run by multiples of 16 (a network of your own may take other sizes, or none). The file's metadata `pixeltrust`
    is JSON of what a program needs to know: image_size, channels, classes, spacing, normalise, model, method, version.

    Example:
        print(pixeltrust.export("runs/mended"))

    Args:
        run: a run folder whose training has finished (or has best weights so far).
        format: "onnx".
        out: the file to write; model.onnx in the run folder where not given. One that is there is replaced.
        weights: `last`, or `best` by the held-out clean cases.

    Raises:
        ConfigError: the format is not known, onnx or onnxruntime is not installed, or the network cannot be written as ONNX.
        RunError: `run` is not a run folder or has not finished, `out` cannot be written, or onnxruntime gives other probabilities.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be {' or '.join(FORMATS)}, not {format!r:.60}")
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"an export needs {error.name}: install the extra, pip install 'pixeltrust[onnx]'") from None
    config, model, notes = read_network(Run(Path(run)), weights)
    network = _Probabilities(model, config.classes).eval()
    out = Path(out) if out is not None else Path(run) / "model.onnx"
    with naming_write_errors(out), write_atomically(out) as unfinished:
        _write(network, config, unfinished)
        written = onnx.load(unfinished)
        onnx.helper.set_model_props(written, {"pixeltrust": json.dumps(_describe(config))})
        onnx.save(written, unfinished)
        session = onnxruntime.InferenceSession(unfinished.read_bytes(), providers=["CPUExecutionProvider"])
        difference, sizes = _compare(network, session, config)
        if not difference <= CLOSE:
            raise RunError(f"{run}: onnxruntime's probabilities differ by {difference:.1e} from those of torch; nothing was written")
    if len(sizes) == 1:
        notes.append("it takes images of this size alone")
    return Exported(out=out, difference=difference, sizes=tuple(sizes), notes=tuple(notes))


class _Probabilities(nn.Module):
    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits.sigmoid() if self.classes == 1 else logits.softmax(1)


def _write(network: nn.Module, config: Config, file: Path) -> None:
    """Write the network as it runs on two images of the run's size, with sizes left open."""
    names = {0: "batch", **{axis + 2: name for axis, name in enumerate(("depth", "height", "width")[-len(config.size) :])}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it follows one run of the network, says torch; whether that does is looked at below
            torch.onnx.export(
                network,
                (_images(2, config.size, config),),
                str(file),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_axes={"images": names, "probabilities": names},
                opset_version=OPSET,
                dynamo=False,  # the newer way takes 20 s, and fewer networks
            )
    except Exception as error:  # a user's network may make torch raise anything
        raise ConfigError(f"model = {config.model!r} cannot be written as ONNX: {one_line(error)}") from error


def _compare(network: nn.Module, session: "object", config: Config) -> tuple[float, list[tuple[int, ...]]]:
    """Return the largest difference of the probabilities, and the sizes at which the two were compared."""
    largest = 0.0
    sizes: list[tuple[int, ...]] = []
    for number, size in ((1, config.size), (3, (config.size[0] + STEP, *config.size[1:-1], config.size[-1] + STEP))):
        images = _images(number, size, config)
        try:
            with torch.no_grad():
                wanted = network(images).numpy()
            (found,) = session.run(None, {"images": images.numpy()})  # type: ignore[attr-defined]
            if found.shape != wanted.shape:
                raise ValueError(f"{found.shape}, not {wanted.shape}")
        except Exception as error:  # of torch or onnxruntime, for a size that one of them does not take
            if not sizes:
                raise RunError(f"onnxruntime cannot run the network: {one_line(error)}") from error
            break
        largest = max(largest, float(np.abs(found - wanted).max()))
        sizes.append(size)
    return largest, sizes


def _images(number: int, size: tuple[int, ...], config: Config) -> Tensor:
    return torch.rand(number, config.channels + config.planes, *size, generator=torch.Generator().manual_seed(number))


def _describe(config: Config) -> dict[str, object]:
    names = ("model", "method", "classes", "channels", "spacing", "normalise")
    return {"image_size": list(config.size), **{name: getattr(config, name) for name in names}, "version": __version__}
