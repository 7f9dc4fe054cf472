"""Do the gains of other libraries' networks pass `verify`, by which way, and what does a step cost?

    python experiments/verify_networks.py --out results/networks/networks.csv [--install ENV] [--only WORD]…

A row per network of NETWORKS: built with random weights and in training mode (dropout and stochastic depth at work), on random images and
masks of two classes. One after the other, on one thread. Called again it goes on with those that are
missing; --only takes those whose library or name holds a word, and takes them anew. --install makes the virtual environment ENV, with the
pinned versions of LIBRARIES, as far as they can be installed; the networks of others, and those that fail, have the reason in the table.
--print prints the table of docs/reference/networks.md instead.
"""

import argparse
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import textwrap
import traceback
import venv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixeltrust import Batch, verify
from pixeltrust.method.forward_mode.fallback import first_line
from pixeltrust.method.tangents import WAYS, get_choice, require_logits
from pixeltrust.plumbing.errors import GainsWarning

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    "monai": ("monai.networks.nets", ("monai==1.6.1", "einops==0.8.2")),
    "segmentation-models-pytorch": ("segmentation_models_pytorch", ("segmentation-models-pytorch==0.6.0", "timm==1.0.22")),
    "timm": ("timm", ("timm==1.0.22",)),
    "torchvision": ("torchvision.models", ("torchvision",)),
    "transformers": ("transformers", ("transformers==5.24.0",)),
    "dynamic-network-architectures": (
        "dynamic_network_architectures.architectures.unet",
        ("dynamic-network-architectures==0.4.4", "timm==1.0.22"),
    ),
}
"""The module of each library from which its networks are built, and what is installed for it (torchvision as torch wants it)."""


@dataclass(frozen=True)
class Network:
    """How to build a network of a library, and what it is shown."""

    library: str
    name: str
    build: Callable[[Any], nn.Module]
    """A function of the library's module."""
    images: tuple[int, ...] = (2, 3, 64, 64)
    logits: Callable[[Any], Tensor] = require_logits


# --- what networks answer, and what some are built from -------------------------------------------------------------------


def first(answer: Any) -> Tensor:
    """Return the finest of the heads of deep supervision."""
    return answer[0]


def out(answer: Any) -> Tensor:
    return answer["out"]


def enlarged(*size: int) -> Callable[[Any], Tensor]:
    """Return a function that enlarges the logits of a transformer, as its library does before the loss."""
    return lambda answer: F.interpolate(answer.logits, size=size, mode="bilinear")


def of_queries(*size: int) -> Callable[[Any], Tensor]:
    """Return a function that makes log-probabilities of classes from masks and classes of queries, as MaskFormer predicts."""

    def pick(answer: Any) -> Tensor:
        classes, masks = answer.class_queries_logits.softmax(-1)[..., :-1], answer.masks_queries_logits.sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
        return F.interpolate(scores.clamp(min=1e-6).log(), size=size, mode="bilinear")

    return pick


class WithHead(nn.Module):
    """A backbone of timm and a small head: a 1x1 convolution of every level, enlarged and added."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(channels, 2, 1) for channels in backbone.feature_info.channels())

    def forward(self, images: Tensor) -> Tensor:
        levels = self.backbone(images)
        return sum(F.interpolate(head(level), images.shape[2:], mode="bilinear") for head, level in zip(self.heads, levels, strict=True))


def with_head(name: str, **settings: Any) -> Callable[[Any], nn.Module]:
    return lambda timm: WithHead(timm.create_model(name, features_only=True, **settings))


class ChannelsFirst(nn.Module):
    """A backbone of timm whose levels have their channels last."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.feature_info = backbone, backbone.feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.permute(0, 3, 1, 2) for level in self.backbone(images)]


def nnunet(axes: int, blocks: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a small network as nnU-Net plans them, with deep supervision."""
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if axes == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return dict(
        input_channels=1, n_stages=4, features_per_stage=(16, 32, 64, 64), conv_op=conv, kernel_sizes=3, strides=(1, 2, 2, 2),
        num_classes=2, n_conv_per_stage_decoder=1, conv_bias=True, norm_op=norm, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True, **{blocks: 2}, **settings,
    )  # fmt: skip


def primus(_: Any) -> nn.Module:
    from dynamic_network_architectures.architectures.primus import Primus

    return Primus(1, 96, (8, 8, 8), 2, 3, 4, input_shape=(32, 32, 32), drop_path_rate=0.2, init_values=0.1)


SWIN = dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4), window_size=4, image_size=64, drop_path_rate=0.1)
QUERIES = dict(num_queries=8, num_labels=2)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
VIT = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=8, num_labels=2)


def upernet(transformers: Any, backbone: Any) -> nn.Module:
    return transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, hidden_size=64, num_labels=2, auxiliary_in_channels=96, auxiliary_channels=32)
    )


def mask2former(t: Any) -> nn.Module:
    config = t.Mask2FormerConfig(
        backbone_config=t.SwinConfig(**SWIN, out_features=STAGES), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=64, dim_feedforward=64, encoder_layers=2, decoder_layers=3, num_attention_heads=4, **QUERIES,
    )  # fmt: skip
    return t.Mask2FormerForUniversalSegmentation(config)


def maskformer(t: Any) -> nn.Module:
    config = t.MaskFormerConfig(
        backbone_config=t.SwinConfig(**SWIN, out_features=STAGES), fpn_feature_size=32, mask_feature_size=32, num_labels=2,
        decoder_config=t.DetrConfig(
            d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=8,
            encoder_attention_heads=4, decoder_attention_heads=4,
        ),
    )  # fmt: skip
    return t.MaskFormerForInstanceSegmentation(config)


# --- the networks --------------------------------------------------------------------------------------------------------

GREY, GREY_3D = (2, 1, 64, 64), (2, 1, 32, 32, 32)
SMP, DNA = "segmentation-models-pytorch", "dynamic-network-architectures"
TWO = dict(encoder_weights=None, classes=2)  # classes, and nothing downloaded
# fmt: off
NETWORKS = (
    Network("timm", "ViT (vit_tiny_patch16_224)", with_head("vit_tiny_patch16_224", img_size=64, drop_path_rate=0.1, drop_rate=0.1)),
    Network("timm", "Swin (swin_tiny_patch4_window7_224)", lambda m: WithHead(ChannelsFirst(m.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, img_size=64, window_size=4, drop_path_rate=0.1)))),
    Network("timm", "ConvNeXt V2 (convnextv2_atto)", with_head("convnextv2_atto", drop_path_rate=0.1)),
    Network("timm", "EfficientNetV2 (tf_efficientnetv2_b0)", with_head("tf_efficientnetv2_b0", drop_path_rate=0.1)),
    Network("timm", "PVT v2 (pvt_v2_b0)", with_head("pvt_v2_b0", drop_path_rate=0.1)),
    Network("timm", "EVA-02 (eva02_tiny_patch14_224)", with_head("eva02_tiny_patch14_224", img_size=56, drop_path_rate=0.1),
            (2, 3, 56, 56)),
    Network("timm", "EdgeNeXt (edgenext_xx_small)", with_head("edgenext_xx_small", drop_path_rate=0.1)),
    Network("timm", "FastViT (fastvit_t8)", with_head("fastvit_t8")),
    Network("timm", "Hiera (hiera_tiny_224)", with_head("hiera_tiny_224", img_size=(64, 64))),
    Network("timm", "NFNet (nfnet_l0)", with_head("nfnet_l0", drop_path_rate=0.1)),
    Network(SMP, "Unet, resnet18", lambda m: m.Unet("resnet18", **TWO)),
    Network(SMP, "Unet, efficientnet-b0", lambda m: m.Unet("efficientnet-b0", **TWO)),
    Network(SMP, "Unet, mit_b0", lambda m: m.Unet("mit_b0", **TWO)),
    Network(SMP, "Unet, vgg11_bn, scse", lambda m: m.Unet("vgg11_bn", decoder_attention_type="scse", **TWO)),
    Network(SMP, "Unet, tu-convnext_atto", lambda m: m.Unet(
        "tu-convnext_atto", encoder_depth=4, decoder_channels=(64, 32, 16, 8), drop_path_rate=0.1, **TWO)),
    Network(SMP, "Unet, tu-maxvit_nano_rw_256", lambda m: m.Unet("tu-maxvit_nano_rw_256", img_size=64, **TWO)),
    Network(SMP, "UnetPlusPlus, densenet121", lambda m: m.UnetPlusPlus("densenet121", **TWO)),
    Network(SMP, "MAnet, mobilenet_v2", lambda m: m.MAnet("mobilenet_v2", **TWO)),
    Network(SMP, "Linknet, mobileone_s0", lambda m: m.Linknet("mobileone_s0", **TWO)),
    Network(SMP, "FPN, timm-skresnet18", lambda m: m.FPN("timm-skresnet18", **TWO)),
    Network(SMP, "PSPNet, dpn68", lambda m: m.PSPNet("dpn68", **TWO)),
    Network(SMP, "PAN, mobilenet_v2", lambda m: m.PAN("mobilenet_v2", **TWO), (2, 3, 128, 128)),
    Network(SMP, "DeepLabV3, resnet18", lambda m: m.DeepLabV3("resnet18", **TWO)),
    Network(SMP, "DeepLabV3Plus, mobilenet_v2", lambda m: m.DeepLabV3Plus("mobilenet_v2", **TWO)),
    Network(SMP, "UPerNet, tu-resnest14d", lambda m: m.UPerNet("tu-resnest14d", **TWO)),
    Network(SMP, "Segformer, mit_b0", lambda m: m.Segformer("mit_b0", **TWO)),
    Network(SMP, "DPT, tu-vit_tiny_patch16_224", lambda m: m.DPT(
        "tu-vit_tiny_patch16_224", encoder_depth=4, decoder_intermediate_channels=(32, 48, 64, 64), decoder_fusion_channels=32,
        dynamic_img_size=True, **TWO)),
    Network("torchvision", "FCN, resnet50", lambda m: m.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=2, aux_loss=True), logits=out),
    Network("torchvision", "LR-ASPP, mobilenet_v3_large", lambda m: m.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2), logits=out),
    Network("transformers", "SegFormer", lambda m: m.SegformerForSemanticSegmentation(m.SegformerConfig(num_labels=2)),
            logits=enlarged(64, 64)),
    Network("transformers", "SegFormer, larger images", lambda m: m.SegformerForSemanticSegmentation(m.SegformerConfig(num_labels=2)),
            (4, 3, 192, 192), enlarged(192, 192)),
    Network("transformers", "UperNet, ConvNeXt", lambda m: upernet(m, m.ConvNextConfig(
        hidden_sizes=[24, 48, 96, 192], depths=[2, 2, 2, 2], out_features=STAGES, drop_path_rate=0.1)), logits=enlarged(64, 64)),
    Network("transformers", "UperNet, Swin", lambda m: upernet(m, m.SwinConfig(**SWIN, out_features=STAGES)), logits=enlarged(64, 64)),
    Network("transformers", "Mask2Former, Swin", mask2former, logits=of_queries(64, 64)),
    Network("transformers", "MaskFormer, Swin", maskformer, logits=of_queries(64, 64)),
    Network("transformers", "EoMT", lambda m: m.EomtForUniversalSegmentation(m.EomtConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8, num_blocks=2, **QUERIES)),
        logits=of_queries(64, 64)),
    Network("transformers", "DPT", lambda m: m.DPTForSemanticSegmentation(m.DPTConfig(
        **VIT, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 24, 32, 32], fusion_hidden_size=32)), logits=enlarged(64, 64)),
    Network("transformers", "BEiT", lambda m: m.BeitForSemanticSegmentation(m.BeitConfig(
        **VIT, use_relative_position_bias=True, out_indices=[1, 2, 3, 4])), logits=enlarged(64, 64)),
    Network("transformers", "MobileViT, DeepLabV3", lambda m: m.MobileViTForSemanticSegmentation(m.MobileViTConfig(
        num_labels=2, image_size=64)), logits=enlarged(64, 64)),
    Network("transformers", "MobileViT V2, DeepLabV3", lambda m: m.MobileViTV2ForSemanticSegmentation(m.MobileViTV2Config(
        num_labels=2, image_size=64, width_multiplier=0.5)), logits=enlarged(64, 64)),
    Network("transformers", "MobileNetV2, DeepLabV3+", lambda m: m.MobileNetV2ForSemanticSegmentation(m.MobileNetV2Config(
        num_labels=2, image_size=64)), logits=enlarged(64, 64)),
    Network(DNA, "PlainConvUNet, 2-D", lambda m: m.PlainConvUNet(**nnunet(2, "n_conv_per_stage")), GREY, first),
    Network(DNA, "PlainConvUNet, 3-D", lambda m: m.PlainConvUNet(**nnunet(3, "n_conv_per_stage")), GREY_3D, first),
    Network(DNA, "PlainConvUNet, 2-D, dropout", lambda m: m.PlainConvUNet(**nnunet(
        2, "n_conv_per_stage", dropout_op=nn.Dropout2d, dropout_op_kwargs={"p": 0.2})), GREY, first),
    Network(DNA, "ResidualEncoderUNet, 2-D", lambda m: m.ResidualEncoderUNet(**nnunet(2, "n_blocks_per_stage")), GREY, first),
    Network(DNA, "ResidualEncoderUNet, 3-D", lambda m: m.ResidualEncoderUNet(**nnunet(3, "n_blocks_per_stage")), GREY_3D, first),
    Network(DNA, "ResidualUNet, 3-D", lambda m: m.ResidualUNet(**nnunet(3, "n_blocks_per_stage")), GREY_3D, first),
    Network(DNA, "Primus, 3-D", primus, GREY_3D),
    Network("monai", "UNet, residual units, dropout", lambda m: m.UNet(2, 1, 2, (16, 32, 64), (2, 2), num_res_units=2, dropout=0.1), GREY),
    Network("monai", "UNet, batch norm, 3-D", lambda m: m.UNet(3, 1, 2, (8, 16, 32), (2, 2), norm="batch"), GREY_3D),
    Network("monai", "BasicUNet, 3-D", lambda m: m.BasicUNet(3, 1, 2, (8, 8, 16, 32, 64, 8)), GREY_3D),
    Network("monai", "BasicUNetPlusPlus, deep supervision", lambda m: m.BasicUNetPlusPlus(
        2, 1, 2, (16, 16, 32, 64, 64, 16), deep_supervision=True), GREY, first),
    Network("monai", "DynUNet", lambda m: m.DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3), GREY),
    Network("monai", "DynUNet, residual, deep supervision, 3-D", lambda m: m.DynUNet(
        3, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64], res_block=True, deep_supervision=True, deep_supr_num=2),
        GREY_3D, lambda answer: answer[:, 0]),
    Network("monai", "AttentionUnet, 3-D", lambda m: m.AttentionUnet(3, 1, 2, (8, 16, 32), (2, 2)), GREY_3D),
    Network("monai", "SegResNet, 3-D", lambda m: m.SegResNet(3, 8, 1, 2, dropout_prob=0.1), GREY_3D),
    Network("monai", "SegResNetDS, deep supervision", lambda m: m.SegResNetDS(2, 16, 1, 2, dsdepth=3), GREY, first),
    Network("monai", "SegResNetVAE, 3-D", lambda m: m.SegResNetVAE((32, 32, 32), vae_estimate_std=True, out_channels=2), GREY_3D, first),
    Network("monai", "UNETR, 3-D", lambda m: m.UNETR(1, 2, (32, 32, 32), 8, 48, 96, 4, dropout_rate=0.1), GREY_3D),
    Network("monai", "SwinUNETR, activation checkpoints", lambda m: m.SwinUNETR(
        1, 2, feature_size=12, spatial_dims=2, drop_rate=0.1, dropout_path_rate=0.1, use_checkpoint=True), GREY),
    Network("monai", "VNet, 3-D", lambda m: m.VNet(3, 1, 2), GREY_3D),
    Network("monai", "FlexibleUNet, efficientnet-b0", lambda m: m.FlexibleUNet(3, 2, "efficientnet-b0")),
    Network("monai", "HighResNet, 3-D", lambda m: m.HighResNet(3, 1, 2, dropout_prob=0.1), (2, 1, 16, 16, 16)),
    Network("monai", "AHNet", lambda m: m.AHNet(spatial_dims=2, in_channels=1, out_channels=2), (2, 1, 128, 128)),
    Network("monai", "MedNeXt, deep supervision", lambda m: m.MedNeXt(2, 8, 1, 2, kernel_size=3, deep_supervision=True), GREY, first),
    Network("monai", "QuickNAT, dropout", lambda m: m.Quicknat(2, 1, 16, drop_out=0.1), GREY),
)
# fmt: on


# --- one network ---------------------------------------------------------------------------------------------------------


def examine(network: Network) -> dict[str, Any]:
    """Return what `verify` finds, or why it cannot, as columns of the table."""
    module, _ = LIBRARIES[network.library]
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        return {"verdict": f"not installed: {error}"}
    found: dict[str, Any] = {"version": importlib.metadata.version(network.library), "torch": torch.__version__.split("+")[0]}
    torch.manual_seed(0)
    try:
        model = network.build(library).train()
    except Exception as error:
        traceback.print_exc()
        return found | {"verdict": f"not built: {first_line(error)}"}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    noisy, clean = ([torch.rand(network.images), torch.randint(2, (network.images[0], *network.images[2:]))] for _ in range(2))
    try:
        report = verify(model, noisy=Batch(*noisy), clean=Batch(*clean), logits=network.logits)
    except Exception as error:
        traceback.print_exc()
        return found | {"verdict": f"refused: {first_line(error)}"}
    choice = get_choice(model)
    return found | {
        "way": choice.way.name if choice else "",
        "passed_over": "; ".join(choice.passed_over) if choice else "",
        "without_rule": ", ".join(f"{name} ({times})" for name, times in report.without_rule.items()),
        "difference": float(f"{report.difference:.1e}"),
        "tolerance": report.tolerance,
        "cost": round(report.cost, 2),
        "verdict": "right" if report.right and report.pixels else "WRONG" if report.pixels else "nothing to compare",
    }


# --- the page ------------------------------------------------------------------------------------------------------------


def table_of(rows: pd.DataFrame) -> str:
    """Return the results as in docs/reference/networks.md: the ways with their cost, a table for each library, and what was not run yet."""
    lines = [line for library, own in rows.groupby("library") for line in _table_of_library(library, own)]
    known = {*zip(rows["library"], rows["network"], strict=True)}
    if missing := [f"{n.name} ({n.library})" for n in NETWORKS if (n.library, n.name) not in known]:
        lines += ["", textwrap.fill(f"Not run yet: {'; '.join(missing)}.", 120, break_on_hyphens=False)]
    return "\n".join([*_table_of_ways(rows), *lines])


def _table_of_ways(rows: pd.DataFrame) -> list[str]:
    passed = rows[rows["verdict"] == "right"]
    lines = [
        f"{len(passed)} of {len(rows)} pass.",
        "",
        "| way | passed | cost, median | lowest to highest |",
        "|---|---|---|---|",
    ]
    for way in (way.name for way in WAYS):
        cost = passed[passed["way"] == way]["cost"]
        spread = f"{cost.median():.2f} | {cost.min():.2f} to {cost.max():.2f}" if len(cost) else "|"
        lines.append(f"| {way} | {len(cost)} | {spread} |")
    return lines


def _table_of_library(library: str, rows: pd.DataFrame) -> list[str]:
    versions = ", ".join(rows["version"].dropna().unique())
    heads = ["network", "parameters", "input", "way", "operations without a rule", "difference", "cost"]
    lines = ["", f"### {library} {versions}".strip(), "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows.astype(object).fillna("").itertuples():
        if row.verdict == "right":
            way = row.way + (f" (not by {row.passed_over})" if row.passed_over else "")
            cells = [f"{row.parameters / 1e6:.2f} M", row.input, way, row.without_rule, f"{row.difference:.0e}", f"{row.cost:.2f}"]
        else:
            cells = ["", row.input, f"**{row.verdict}**", "", "", ""]
        lines.append(f"| {' | '.join([row.network, *cells])} |")
    return lines


# --- all of them ---------------------------------------------------------------------------------------------------------


def install(folder: Path) -> str:
    """Install the package with the pinned torch, and every library that can be; return the environment's Python."""
    python = str(folder / "bin" / "python")
    if not Path(python).is_file():
        venv.create(folder, with_pip=True)
    locked = re.findall(r"^[\w.-]+==[^\s;\\]+", (ROOT / "requirements/dev.txt").read_text(encoding="utf-8"), re.M)
    pins = folder / "pins.txt"
    pins.write_text("\n".join([*locked, (ROOT / "requirements/torch.txt").read_text(encoding="utf-8")]), encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(pins)]
    subprocess.run([*pip, "torch", "--editable", str(ROOT)], check=True)
    for library, (_, requirements) in LIBRARIES.items():
        if subprocess.run([*pip, *requirements]).returncode:
            print(f"{library} cannot be installed; its networks are left out", file=sys.stderr)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results/networks/networks.csv")
    parser.add_argument("--install", type=Path, metavar="ENV")
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--print", action="store_true", dest="show")
    asked = parser.parse_args()
    if asked.install:
        python = install(asked.install)
        os.execv(python, [python, __file__, "--out", str(asked.out), *(word for one in asked.only for word in ("--only", one))])
    rows = {(row["library"], row["network"]): row for row in pd.read_csv(asked.out).to_dict("records")} if asked.out.is_file() else {}
    if asked.show:
        print(table_of(pd.DataFrame(rows.values())))
        return
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore", GainsWarning)  # the table says it
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        key = (network.library, network.name)
        if not any(word in part for word in asked.only for part in key) if asked.only else key in rows:
            continue
        rows[key] = {"library": network.library, "network": network.name, "input": "x".join(map(str, network.images)), **examine(network)}
        print(rows[key], flush=True)
        table = pd.DataFrame([rows[n.library, n.name] for n in NETWORKS if (n.library, n.name) in rows]).reindex(columns=COLUMNS)
        table.astype({"parameters": "Int64"}).to_csv(asked.out, index=False)


COLUMNS = [
    *("library", "version", "torch", "network", "parameters", "input", "way", "passed_over", "without_rule"),
    *("difference", "tolerance", "cost", "verdict"),
]


if __name__ == "__main__":
    main()
