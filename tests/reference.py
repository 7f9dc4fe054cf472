"""The method by the textbook, slow and independent of the library, and small networks to try it on.

The imagined step is really taken and differentiated twice: a copy of the network, θ̂(ε) = θ − α ∇θ Σ ε_p ℓ_p with create_graph,
the clean loss at θ̂(ε), its gradient with respect to ε. Only torch's own losses are used.
"""

import copy
from types import SimpleNamespace

import numpy as np
import torch
from monai.networks.nets import UNETR, AttentionUnet, BasicUNet, DynUNet, SegResNet, UNet
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch

CASES = [SimpleNamespace(id=f"case {number}") for number in range(106)]
STREAMS = SimpleNamespace(
    noisy=np.arange(6),
    clean=np.arange(6, 106),
    cache=None,
    pixels=SimpleNamespace(gib=0.0, cases=CASES, shapes=[(16, 16)] * 106),
)
"""As much of `Streams` as a method asks for, of 6 noisy cases."""
PLACES = Where.of([CASES[number].id for number in (4, 0, 5, 1)], (16, 16), flips=[(), (0,), (1,), (0, 1)], turns=[0, 3, 1, 0])
"""Of a noisy batch of 4 of them."""
GROUPS = ("group", {"num_groups": 2})


class Doubled(torch.autograd.Function):
    """A function with a backward and a jvp that agree."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


class PlainUNet(nn.Module):
    """One level down, one up: convolutions, a norm, pooling, a skip."""

    def __init__(self, dims=2, classes=1, norm="none", dropout=0.0):
        super().__init__()
        conv, pool = (nn.Conv2d, nn.MaxPool2d) if dims == 2 else (nn.Conv3d, nn.MaxPool3d)
        batch_norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        norms = {"none": lambda: nn.Identity(), "batch": lambda: batch_norm(4), "group": lambda: nn.GroupNorm(2, 4)}

        def block(channels):
            return nn.Sequential(conv(channels, 4, 3, padding=1), norms[norm](), nn.ReLU(inplace=True), nn.Dropout(dropout))

        self.down, self.pool, self.low, self.up, self.head = block(1), pool(2), block(4), nn.Upsample(scale_factor=2), conv(8, classes, 1)

    def forward(self, images):
        skip = self.down(images)
        return self.head(torch.cat([skip, self.up(self.low(self.pool(skip)))], 1))


class Patches(nn.Module):
    """Attention between patches: torch's own encoder layer, which has fused kernels."""

    def __init__(self, dims, classes):
        super().__init__()
        conv, up = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.embed, self.unembed = conv(1, 8, 4, 4), up(8, classes, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, images):
        tokens = self.embed(images)
        return self.unembed(self.layer(tokens.flatten(2).mT).mT.reshape(tokens.shape))


NETWORKS = {
    "plain": lambda dims, classes: PlainUNet(dims, classes),
    "plain-batch-norm": lambda dims, classes: PlainUNet(dims, classes, norm="batch"),
    "patches": Patches,
    "monai-unet-instance": lambda dims, classes: UNet(dims, 1, classes, (4, 8), (2,), num_res_units=1, norm="instance"),
    "monai-unet-batch": lambda dims, classes: UNet(dims, 1, classes, (4, 8), (2,), norm="batch"),
    "basic-unet": lambda dims, classes: BasicUNet(dims, 1, classes, features=(4,) * 6, norm=GROUPS),
    "seg-res-net": lambda dims, classes: SegResNet(dims, 8, 1, classes, blocks_down=(1, 1), blocks_up=(1,)),
    "attention-unet": lambda dims, classes: AttentionUnet(dims, 1, classes, (4, 8), (2,)),  # its norm is batch norm
    "dyn-unet": lambda dims, classes: DynUNet(dims, 1, classes, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 6, 8)),
    "unetr": lambda dims, classes: UNETR(1, classes, (16,) * dims, 2, 8, 8, 2, spatial_dims=dims),
}
DEEP = ("basic-unet", "unetr")  # need 16 pixels along an axis
WITH_BATCH_NORM = ("plain-batch-norm", "monai-unet-batch", "attention-unet")


def network(name, dims=2, classes=1, dtype=torch.float64):
    return seeded(NETWORKS[name], dims, classes, dtype=dtype)


def seeded(build, *args, dtype=torch.float64, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(*args, **settings).to(dtype)


def batch(seed, *, dims=2, classes=1, size=16, images=2, ignored=0.1, dtype=torch.float64):
    """Random images whose masks follow their brightness, so that noisy and clean agree in part; some pixels are ignored."""
    random = torch.Generator().manual_seed(seed)
    shape = (images, *(size,) * dims)
    brightness = torch.rand(shape, generator=random, dtype=torch.float64)
    masks = (brightness * max(classes, 2)).long()
    masks[torch.rand(shape, generator=random) < ignored] = 255
    return Batch((brightness + 0.3 * torch.randn(shape, generator=random)).unsqueeze(1).to(dtype), masks)


def textbook_losses(logits, masks):
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    losses = F.binary_cross_entropy_with_logits(logits[:, 0], (masks == 1).to(logits.dtype), reduction="none")
    return losses * (masks != 255)


def clean_mean(logits, masks):
    return textbook_losses(logits, masks).sum() / (masks != 255).sum()


def differentiated_gains(model, *, noisy, clean, per_image=False, seed=None, learning_rate=0.1):
    """−∂L_c(θ̂(ε))/∂ε at ε = 0, over α: one number per noisy pixel, or per image.

    With `seed`, dropout is drawn as by one clean pass and then one noisy pass.
    """
    model = copy.deepcopy(model)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    if seed is not None:
        torch.manual_seed(seed)
        copy.deepcopy(model)(clean.images)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel cannot be differentiated twice
        losses = textbook_losses(functional_call(model, theta, noisy.images), noisy.masks)
        if per_image:
            losses = losses.flatten(1).sum(1)
        epsilon = torch.zeros_like(losses, requires_grad=True)
        gradients = torch.autograd.grad((epsilon * losses).sum(), tuple(theta.values()), create_graph=True, materialize_grads=True)
        imagined = {name: p - learning_rate * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
        if seed is not None:
            torch.manual_seed(seed)
        clean_loss = clean_mean(functional_call(model, imagined, clean.images), clean.masks)
        (slope,) = torch.autograd.grad(clean_loss, epsilon)
    return -slope / learning_rate


def clamped(gains):
    helpful = gains.clamp(min=0)
    return helpful / helpful.sum()


def reference_gradients(model, *, weights, noisy, clean, clean_weight):
    """∇(Σ w ℓ + λ L_c) by ordinary backward(), by parameter name; of a copy."""
    model = copy.deepcopy(model)
    model.zero_grad()
    noisy_loss = (weights * textbook_losses(model(noisy.images), noisy.masks)).sum()
    (noisy_loss + clean_weight * clean_mean(model(clean.images), clean.masks)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_equal_to_rounding(actual, expected, rtol=1e-9):
    """In float64 the two differ by the order of their sums alone; where terms cancel that shows against the largest entry."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-3 * rtol * float(expected.abs().max()))
