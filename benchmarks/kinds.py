"""The kinds of step that the benchmarks compare, and what they are tried on: networks, batches, precisions."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixeltrust import Batch, pixel_gains, reweighted_step
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.method.lost_gradients import forget_step
from pixeltrust.method.tangents import TangentRule, forward_mode_tangent, reverse_mode_tangent
from pixeltrust.method.weights import normalise_gains
from pixeltrust.training.models import InBfloat16, build_model

PRECISIONS = ("fp64", "fp32", "tf32", "bf16")

warnings.filterwarnings("ignore", message="`torch.jit.script")  # torch says so at the first use of forward mode


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured: noisy + clean images of size x size, in colour."""

    network: str
    size: int = 96
    noisy: int = 8
    clean: int = 8
    precision: str = "fp32"
    classes: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        classes = f", {self.classes} classes" if self.classes > 1 else ""
        return f"{self.network}, {self.size}x{self.size}, {self.noisy}+{self.clean}, {self.precision}{classes}"


# --- The kinds of step: each adds its gradient to .grad, and gives the gains that it weighed by -------------------------------------


def plain(model: nn.Module, noisy: Batch, clean: Batch) -> None:  # noqa: ARG001
    """Ordinary training on the noisy batch."""
    cross_entropy_of_labels(model(noisy.images), noisy.masks).mean().backward()


def both(model: nn.Module, noisy: Batch, clean: Batch) -> None:
    """Ordinary training on both batches, one after the other."""
    for batch in (noisy, clean):
        cross_entropy_of_labels(model(batch.images), batch.masks).mean().backward()


def fused(model: nn.Module, noisy: Batch, clean: Batch, gains: str) -> Tensor:
    """Take the library's step."""
    found = reweighted_step(model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains=gains).gains
    forget_step(model)  # nothing is trained here
    return found


def unfused(model: nn.Module, noisy: Batch, clean: Batch) -> Tensor:
    """Take the gains by themselves, then train with their weights."""
    gains = pixel_gains(model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains="exact")
    _train_with(model, noisy, normalise_gains(gains))
    return gains


def by_way(model: nn.Module, noisy: Batch, clean: Batch, tangent_of: TangentRule) -> Tensor:
    """Take the fused step with the tangents of one way alone: torch's own forward mode, or two reverse passes."""
    parameters = list(model.parameters())
    clean_loss = cross_entropy_of_labels(model(clean.images), clean.masks).mean()
    slopes = torch.autograd.grad(clean_loss, parameters, allow_unused=True)
    direction = {p: v for p, v in zip(parameters, slopes, strict=True) if v is not None}
    logits, tangent = tangent_of(model, noisy.images, direction)
    with torch.no_grad(), forward_mode.dual_level():
        dual = forward_mode.make_dual(logits.detach(), tangent)
        gains = forward_mode.unpack_dual(cross_entropy_of_labels(dual, noisy.masks)).tangent
    (normalise_gains(gains) * cross_entropy_of_labels(logits, noisy.masks)).sum().backward()
    return gains


def differentiated(model: nn.Module, noisy: Batch, clean: Batch) -> Tensor:
    """Take the textbook's step: take the imagined step, differentiate the clean loss after it, then train with the weights."""
    theta = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        losses = cross_entropy_of_labels(model(noisy.images), noisy.masks)
        factors = torch.zeros_like(losses, requires_grad=True)
        gradients = torch.autograd.grad((factors * losses).sum(), theta, create_graph=True, materialize_grads=True)
        with _standing_in(model, {p: p - g for p, g in zip(theta, gradients, strict=True)}):
            clean_loss = cross_entropy_of_labels(model(clean.images), clean.masks).mean()
        (slope,) = torch.autograd.grad(clean_loss, factors)
    del losses, gradients, clean_loss  # and their graphs, before the pass that trains
    _train_with(model, noisy, normalise_gains(-slope))
    return -slope


@contextmanager
def _standing_in(model: nn.Module, substitutes: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Make the network compute with other tensors until the block ends. (torch.func.functional_call leaves them in DynUNet for good.)"""
    places = [(module._parameters, name) for module in model.modules() for name in module._parameters]
    before = [table[name] for table, name in places]
    try:
        for (table, name), parameter in zip(places, before, strict=True):
            table[name] = None if parameter is None else substitutes[parameter]
        yield
    finally:
        for (table, name), parameter in zip(places, before, strict=True):
            table[name] = parameter


def _train_with(model: nn.Module, noisy: Batch, weights: Tensor) -> None:
    (weights * cross_entropy_of_labels(model(noisy.images), noisy.masks)).sum().backward()


torch_duals = partial(by_way, tangent_of=forward_mode_tangent)

Kind = Callable[[nn.Module, Batch, Batch], Tensor | None]
KINDS: dict[str, Kind] = {
    "plain": plain,
    "both": both,
    "both-again": both,
    "exact": partial(fused, gains="exact"),
    "exact-unfused": unfused,
    "finite-difference": partial(fused, gains="finite-difference"),
    "torch-duals": torch_duals,
    "two-reverse": partial(by_way, tangent_of=reverse_mode_tangent),
    "differentiated": differentiated,
}


def take(kind: str, model: nn.Module, noisy: Batch, clean: Batch) -> Tensor | None:
    """Take one step from the idle state; return its gains if it has any."""
    model.zero_grad(set_to_none=True)
    return KINDS[kind](model, noisy, clean)


# --- Networks, batches, the state they are measured in ------------------------------------------------------------------------------


def _plain_unet(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, in_channels, out_channels, features=(16, 32, 64, 128, 256, 16), act=("relu", {"inplace": True}), norm=None)


def _seg_res_net(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(2, 16, in_channels, out_channels)


def _swin_unetr(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels, out_channels, feature_size=24, spatial_dims=2)


def _dyn_unet(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import DynUNet

    strides = (1, 2, 2, 2, 2)
    return DynUNet(2, in_channels, out_channels, (3,) * 5, strides, strides[1:], norm_name="instance")


def tiny(in_channels: int, out_channels: int) -> nn.Module:
    """Build `kinds:tiny`, to try the benchmarks with."""
    first = nn.Conv2d(in_channels, 8, 3, padding=1)
    return nn.Sequential(first, nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, out_channels, 1))


NETWORKS = {
    "unet": None,  # None: the library's own of that name
    "unet-small": None,
    "unet-16-plain": _plain_unet,
    "seg-res-net": _seg_res_net,
    "swin-unetr": _swin_unetr,
    "dyn-unet": _dyn_unet,
}


def build(cell: Cell) -> nn.Module:
    """Build the cell's network, one of `NETWORKS` or `package.module:function`, with the same parameters every time."""
    torch.manual_seed(0)
    builder = NETWORKS.get(cell.network)
    if builder is not None:
        return builder(3, cell.classes).to(cell.device)
    return build_model(cell.network, channels=3, classes=cell.classes).to(cell.device)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """Return the network with the same parameters, used in that precision."""
    if torch.cuda.is_available():
        with warnings.catch_warnings(action="ignore"):  # torch would rather have this said in a newer way
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision == "bf16":
        return InBfloat16(network)
    return network.double() if precision == "fp64" else network


def batch(cell: Cell, count: int, *, noise: float, seed: int) -> Batch:
    """Make images whose mask follows their brightness, which a network soon learns; `noise` > 0: masks that are all too small."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=random)
    brightness = F.interpolate(coarse, (cell.size, cell.size), mode="bicubic").clamp(0, 1)
    images = brightness * torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
    images = images + 0.1 * torch.randn(images.shape, generator=random)
    levels = max(cell.classes, 2)
    masks = ((brightness[:, 0] - noise).clamp(0, 1) * levels).long().clamp(max=levels - 1)
    dtype = torch.float64 if cell.precision == "fp64" else torch.float32
    return Batch(images.to(cell.device, dtype), masks.to(cell.device))


def batches(cell: Cell, seed: int = 0) -> tuple[Batch, Batch]:
    """Make a noisy and a clean batch."""
    return batch(cell, cell.noisy, noise=0.15, seed=2 * seed), batch(cell, cell.clean, noise=0.0, seed=2 * seed + 1)


def trained(cell: Cell, updates: int) -> tuple[nn.Module, nn.Module]:
    """Return the network after some ordinary updates on other batches, and the same network in the cell's precision."""
    network = build(cell)
    model = in_precision(network, cell.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3) if updates else None
    for update in range(updates):
        model.zero_grad()
        both(model, *batches(cell, seed=update + 1))
        optimizer.step()
    model.zero_grad()
    return network, model
