"""nnU-Net on masks that are too small, plainly and with trust: make the dataset, and measure against the true masks.

    python experiments/nnunet_eroded.py make SOURCE RAW/Dataset900_Hippocampus
    nnUNetv2_plan_and_preprocess -d 900 -c 3d_fullres -np 1
    nnUNetv2_train 900 3d_fullres 0 -tr nnUNetTrainerPixelTrust -device cpu     # and -tr nnUNetTrainer
    python experiments/nnunet_eroded.py score SOURCE RESULTS/…/fold_0

SOURCE holds volumes: images/, masks/ (<id>.nii.gz) and split.csv.
"""

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion


def make(source: Path, dataset: Path, cases: int, clean: int, thickness: int) -> None:
    """Write a raw dataset of nnU-Net: the masks of `clean` cases are true, the others lose `thickness` voxels all around."""
    ids = pd.read_csv(source / "split.csv").query("split == 'train'").id.tolist()[:cases]
    trusted = sorted(np.random.default_rng(0).choice(ids, clean, replace=False).tolist())
    for name in ("imagesTr", "labelsTr"):
        (dataset / name).mkdir(parents=True)
    for case in ids:
        image, mask = (nibabel.load(source / name / f"{case}.nii.gz") for name in ("images", "masks"))
        labels = np.asarray(mask.dataobj).astype(np.uint8)
        if case not in trusted:
            labels *= binary_erosion(labels > 0, iterations=thickness)
        values = np.asarray(image.dataobj).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, image.affine), dataset / "imagesTr" / f"{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), dataset / "labelsTr" / f"{case}.nii.gz")
    (dataset / "clean.txt").write_text("".join(f"{case}\n" for case in trusted))
    classes = {"background": 0, "anterior": 1, "posterior": 2}
    about = {"channel_names": {"0": "MRI"}, "labels": classes, "numTraining": len(ids), "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(about))


def score(source: Path, fold: Path) -> None:
    """Print the Dice of the validation cases of a fold against their true masks, and how well helped maps find wrong voxels."""
    dice = []
    for path in sorted((fold / "validation").glob("*.nii.gz")):
        predicted, truth = (np.asarray(nibabel.load(file).dataobj) for file in (path, source / "masks" / path.name))
        dice.append([2 * ((predicted == c) & (truth == c)).sum() / ((predicted == c).sum() + (truth == c).sum()) for c in (1, 2)])
    print(f"{fold}: Dice to the truth of {len(dice)} cases, by class {np.mean(dice, 0).round(3)}, mean {np.mean(dice):.3f}")
    right, wrong = [], []
    for path in sorted((fold / "helped").glob("*.npy")):
        truth = np.asarray(nibabel.load(source / "masks" / f"{path.stem}.nii.gz").dataobj).T > 0  # nnU-Net's arrays run the other way
        edge = truth & ~binary_erosion(truth, iterations=2)  # what the given masks have lost, given as background
        helped = np.load(path)
        wrong.append(helped[edge].mean() / 255)
        right.append(helped[~edge].mean() / 255)
    if right:
        print(f"helped share of {len(right)} cases: {np.mean(right):.3f} where the given mask is right, {np.mean(wrong):.3f} where wrong")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["make", "score"])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--thickness", type=int, default=2)
    given = parser.parse_args()
    if given.job == "make":
        make(given.source, given.folder, given.cases, given.clean, given.thickness)
    else:
        score(given.source, given.folder)
