"""Published losses against noisy masks, and the field's usual one, Dice with cross-entropy; shapes and labels as in `method.losses`.

p_k is the probability of class k at a pixel (K = 1: σ(z) for class 1), y its label, ℓ = −log p_y its cross-entropy. Losses of pixels are
(B, *S), not reduced, and written in ℓ: they keep their precision where the network is sure, and stay finite. Losses of batches are scalars.
Ignored pixels cost nothing and have no gradient, masks hold valid labels (see `cross_entropy_of_labels`), and K = 1 is everywhere the same
as K = 2 with logits (0, z). With several ranks (see `plumbing.processes`) the loss of a batch is that of the joined one, and its gradient
this rank's part. The constants are those of the papers, or of their authors' code where a comment says so.
"""

import math

import torch
from torch import Tensor

from pixeltrust.method.losses import DICE_SMOOTH, cross_entropy_of_labels, foreground, mean_over_counted
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks

GCE_EXPONENT = 0.7  # q, in all of the paper's experiments
SCE_ALPHA, SCE_BETA = 0.1, 1.0  # the authors' code, for their data of few classes (CIFAR-10)
SCE_LOG_ZERO = math.log(1e-4)  # A: the authors' code takes 1e-4 for a label's 0
NR_DICE_EXPONENT = 1.5  # γ, the paper's choice between 1 and 2


def generalised_cross_entropy(logits: Tensor, masks: Tensor, *, exponent: float = GCE_EXPONENT) -> Tensor:
    """Return (1 − p_y^q) / q of every pixel, (B, *S): cross-entropy as q → 0, half of `absolute_error` at q = 1.

    Source: Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018, eq. 6.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
        exponent: q, above 0 to 1.
    """
    return -torch.expm1(-exponent * cross_entropy_of_labels(logits, masks)) / exponent


def absolute_error(logits: Tensor, masks: Tensor) -> Tensor:
    """Return Σ_k |p_k − (k = y)| = 2 (1 − p_y) of every pixel, (B, *S).

    Source: A. Ghosh, H. Kumar, P. Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
    """
    return -2 * torch.expm1(-cross_entropy_of_labels(logits, masks))


def symmetric_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return α ℓ − β A (1 − p_y) of every pixel, (B, *S).

    The second part is the reverse cross-entropy −Σ_k p_k log (k = y), with A in place of log 0.

    Source: Y. Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
    """
    forward = cross_entropy_of_labels(logits, masks)
    return SCE_ALPHA * forward + SCE_BETA * SCE_LOG_ZERO * torch.expm1(-forward)


def dice_cross_entropy(logits: Tensor, masks: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Return the mean cross-entropy plus MONAI's Dice loss, the mean over images and classes but 0; a scalar.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
    """
    from monai.losses import DiceLoss

    dice = DiceLoss(smooth_nr=DICE_SMOOTH, smooth_dr=DICE_SMOOTH)
    (images,) = ranks.sum_counts(len(masks))
    overlap: Tensor = dice(*foreground(logits, masks)) * (len(masks) / images) if len(masks) else logits.sum()  # without images: 0
    return ranks.all_reduce_sum(overlap) + mean_over_counted(cross_entropy_of_labels(logits, masks), masks, ranks=ranks)


def noise_robust_dice(logits: Tensor, masks: Tensor, *, exponent: float = NR_DICE_EXPONENT, ranks: Ranks = ALONE) -> Tensor:
    """Return the mean over the classes but 0 of Σ |p − y|^γ / (Σ p² + Σ y² + ε), with sums over the whole batch; a scalar.

    With γ = 2 that is the Dice loss with squares, with γ = 1 an absolute error. Sums over the batch, as the authors' PyMIC takes them, make
    sense of images without foreground too. (PyMIC has p and y without their squares below.)

    Source: G. Wang et al., "A Noise-Robust Framework for Automatic Segmentation of COVID-19 Pneumonia Lesions", IEEE TMI 2020.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
        exponent: γ, 1 to 2.
    """
    predicted, truth = foreground(logits, masks)
    axes = (0, *range(2, predicted.ndim))
    errors, squares, pixels = (predicted - truth).abs().pow(exponent).sum(axes), predicted.square().sum(axes), truth.sum(axes)
    return (ranks.all_reduce_sum(errors) / (ranks.all_reduce_sum(squares) + ranks.all_reduce_sum(pixels) + DICE_SMOOTH)).mean()


def student_t(logits: Tensor, masks: Tensor, *, nu: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Return the T-Loss: the residuals of an image are one draw of a Student t distribution; a scalar.

    For an image with D free residuals and their sum of squares S, Σ = I, it is the negative log-likelihood

        log Γ(ν/2) − log Γ((ν + D)/2) + D/2 log(π ν) + (ν + D)/2 log(1 + S/ν),

    summed over the images, over the sum of their D. (The paper does not divide by D. That changes no step of Adam's, keeps the scale of a
    mean whatever the size, and takes nothing from images that are ignored.) The K residuals of a pixel sum to 0, so K − 1 are free and
    S = Σ (p_k − (k = y))² / 2: for two classes the square of one, as published, for more no class is special.

    Source: A. Gonzalez-Jimenez et al., "Robust T-Loss for Medical Image Segmentation", MICCAI 2023. Its code has Σ = I/e.

    Args:
        logits, masks: as in `cross_entropy_of_labels`.
        nu: ν > 0, without axes.
    """
    predicted, truth = foreground(logits, masks)
    others = predicted - truth
    squares = (others.square().sum(1) + others.sum(1).square()) / 2  # class 0 has minus the sum of the others
    total = squares.flatten(1).sum(1)
    free = others.shape[1] * (masks != IGNORE).flatten(1).sum(1, dtype=total.dtype)
    # log ν is taken out of both logarithms: what is large in ν's gradient then cancels here, and not in float32.
    spread = (nu + free) / 2 * (nu + total).log() - nu / 2 * nu.log() + free / 2 * math.log(math.pi)
    likelihoods = torch.lgamma(nu / 2) - torch.lgamma((nu + free) / 2) + spread
    return ranks.all_reduce_sum(likelihoods.sum()) / ranks.all_reduce_sum(free.sum()).clamp(min=1)
