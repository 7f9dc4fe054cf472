"""Trust in nnU-Net: a trainer for `nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerPixelTrust`.

nnU-Net finds it once its environment variable for trainers of other packages names their folder, which this module prints:

    export nnUNet_extTrainer=$(python -m pixeltrust.adapters.nnunet)

`clean.txt` in the dataset's raw or preprocessed folder lists the ids of the cases whose labels are clean, one a line. Of the training cases
of a fold these are the clean batches, all others the noisy ones. Plans, patches, augmentation, network, deep supervision, optimizer,
schedule and validation are nnU-Net's. Trust is kept on the grid of each case as nnU-Net has preprocessed it.

Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature Methods 2021.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from pixeltrust.adapters.nnunet_streams import TwoStreams, read_clean
from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import weighted_dice_cross_entropy
from pixeltrust.method.tangents import require_logits
from pixeltrust.method.trust import MEMORY, SHARPNESS, Trust, write_helped_map
from pixeltrust.plumbing.errors import MOST_EXAMPLES, DataError

TRAINERS = Path(__file__).with_name("nnunet_trainer")  # this module's own folder would hide packages from nnU-Net, such as monai


class nnUNetTrainerPixelTrust(nnUNetTrainer):  # nnU-Net finds trainers by such names
    """nnU-Net's trainer with a step of `Trust`: Dice + cross-entropy of a noisy batch, weighted by trust, and of a clean one.

    A subclass sets memory, sharpness and clean_weight; and num_epochs and so on as nnU-Net's own variants do, in __init__.

    Raises:
        ValueError: regions, the second stage of a cascade, or several GPUs, none of which this trains.
        DataError: no clean.txt; an id in it that is not a case; no clean or no noisy case in the fold.
    """

    memory, sharpness, clean_weight = MEMORY, SHARPNESS, 1.0

    def __init__(self, plans: Any, configuration: str, fold: Any, dataset_json: Any, device: torch.device = torch.device("cuda")) -> None:  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        faults = {"several GPUs (leave -num_gpus out)": self.is_ddp, "the second stage of a cascade (take 3d_fullres)": self.is_cascaded}
        faults["regions, which overlap (give every class a number of its own)"] = self.label_manager.has_regions
        if any(faults.values()):
            raise ValueError(f"{type(self).__name__} does not train {next(name for name, is_so in faults.items() if is_so)}")
        self.trust = Trust(self.memory, self.sharpness).to(self.device)
        # The clean gradient is needed unscaled, and would vanish in nnU-Net's float16: bfloat16, or float32 on a GPU that has none.
        self.grad_scaler = None
        self.has_bfloat16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def _do_i_compile(self) -> bool:
        return False  # the pass that computes the gains runs uncompiled

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders; the one for training gives a noisy and a clean batch at a time, in as many processes as before."""
        train, validation = super().get_dataloaders()
        holder = "generator" if hasattr(train, "generator") else "data_loader"  # with processes, and without
        loader = getattr(train, holder)
        clean = read_clean(self.plans_manager.dataset_name, self.preprocessed_dataset_folder_base)
        known, trained = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)), set(loader.indices)
        if unknown := sorted(clean - known):
            raise DataError(f"{len(unknown)} ids in clean.txt are no case of this dataset: {', '.join(unknown[:MOST_EXAMPLES])}")
        if hasattr(train, "_finish"):
            train._finish()  # its processes; the next batch starts them anew
        setattr(train, holder, TwoStreams(loader, clean))
        self.print_to_log_file(f"{len(clean & trained)} of {len(trained)} training cases are clean")
        return train, validation

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a step of the optimizer, and return a loss on the scale of nnU-Net's, which has −Dice for 1 − Dice."""
        deep, device = self.enable_deep_supervision, self.device
        noisy, clean = (
            Batch(
                part["data"].to(device, non_blocking=True),
                (part["target"][0] if deep else part["target"]).to(device, non_blocking=True),
                self.label_manager.ignore_label,
            )
            for part in (batch, batch["clean"])
        )
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16) if self.has_bfloat16 else nullcontext():
            step = self.trust.step(
                self.network,
                noisy=noisy,
                clean=clean,
                where=Where(batch["keys"], batch["addresses"].to(device, non_blocking=True), batch["shapes"]),
                clean_weight=self.clean_weight,
                loss=self._weighted_loss,
                logits=list if deep else require_logits,
                head_weights=self.loss.weight_factors if deep else None,
            )
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": (step.loss - 1).cpu().numpy()}

    def _weighted_loss(self, logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        return weighted_dice_cross_entropy(logits, masks, weights) / (1 + self.clean_weight)  # a mean: nnU-Net's learning rate is for one

    def on_train_end(self) -> None:
        """Finish, and write the helped maps."""
        super().on_train_end()
        self.write_maps(Path(self.output_folder) / "helped")

    def write_maps(self, folder: Path) -> None:
        """Write folder/<id>.npy (of a picture, .png) of every noisy case that was seen, uint8, 255 where a voxel has always helped.

        They have the grid and the axes of what nnU-Net writes with `--npz`: its resampling, cropping and transposition are undone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plan, plans = self.configuration_manager, self.plans_manager
        for case in self.trust.ids:
            about = self.dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)[3]
            spacing = [about["spacing"][axis] for axis in plans.transpose_forward]
            trained = [*spacing[: 3 - len(plan.spacing)], *plan.spacing]  # a 2-D plan leaves the first axis as it is
            helped, size = self.trust.helped(case).cpu().numpy()[None], about["shape_after_cropping_and_before_resampling"]
            resampled = np.asarray(plan.resampling_fn_probabilities(helped, size, trained, spacing))[0].clip(0, 1)
            whole = insert_crop_into_image(np.ones(about["shape_before_cropping"], np.float32), resampled, about["bbox_used_for_cropping"])
            shares = whole.transpose(plans.transpose_backward)
            write_helped_map(folder, case, shares[0] if len(shares) == 1 else shares)  # a picture is a volume of one plane to nnU-Net

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the trust in it, whole or not at all."""
        partial = f"{filename}.partial"
        super().save_checkpoint(partial)
        if not self.disable_checkpointing:
            torch.save(torch.load(partial, map_location="cpu", weights_only=False) | {"trust": self.trust.state_dict()}, partial)
            Path(partial).replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load nnU-Net's checkpoint, and the trust in it."""
        super().load_checkpoint(filename_or_checkpoint)
        self.trust.load_state_dict(torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)["trust"])


if __name__ == "__main__":
    print(TRAINERS)
