"""The losses of the method's rivals as their papers print them: float64, class by class, image by image, no care for extremes.

Each is a scalar, the mean over the counted pixels where it is one of pixels; p and y are (B, K, *S), K = 2 also where there is one logit.
"""

import math

import numpy as np
import torch
from scipy.stats import multivariate_t

GAMMA, SMOOTH, NU = 1.5, 1e-5, math.e + 1e-8


def spread(logits, masks):
    """p, y and which pixels count."""
    if logits.shape[1] == 1:
        foreground = 1 / (1 + torch.exp(-logits))
        p = torch.cat([1 - foreground, foreground], 1)
    else:
        p = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    y = torch.stack([(masks == k).to(p.dtype) for k in range(p.shape[1])], 1)
    return p, y, masks != 255


def pixelwise(formula):
    def loss(logits, masks):
        p, y, counted = spread(logits, masks)
        return formula(p.movedim(1, -1)[counted], y.movedim(1, -1)[counted]).mean()

    return loss


def cross_entropy(p, y):  # here and below (pixels, K)
    return -(y * torch.log(p)).sum(1)


def generalised(p, y):
    return (1 - (y * p).sum(1) ** 0.7) / 0.7


def absolute(p, y):
    return (p - y).abs().sum(1)


def symmetric(p, y):
    return 0.1 * cross_entropy(p, y) + 1.0 * -(p * torch.log(y.clamp(1e-4, 1))).sum(1)


def dice_ce(logits, masks):
    p, y, counted = spread(logits, masks)
    scores = []
    for image in range(len(p)):
        for k in range(1, p.shape[1]):
            found, truth = p[image, k][counted[image]], y[image, k][counted[image]]
            scores.append((2 * (found * truth).sum() + SMOOTH) / (found.sum() + truth.sum() + SMOOTH))
    return 1 - sum(scores) / len(scores) + pixelwise(cross_entropy)(logits, masks)


def nr_dice(logits, masks):
    p, y, counted = spread(logits, masks)
    losses = []
    for k in range(1, p.shape[1]):
        found, truth = p[:, k][counted], y[:, k][counted]
        losses.append((found - truth).abs().pow(GAMMA).sum() / (found.square().sum() + truth.square().sum() + SMOOTH))
    return sum(losses) / len(losses)


def t_loss(logits, masks, nu=NU):
    """The formula of the paper for every image, over all that is free; ν a number or a tensor."""
    p, y, counted = spread(logits, masks)
    nu, total, free = torch.as_tensor(nu, dtype=p.dtype), 0, 0
    for image in range(len(p)):
        residuals = (p - y)[image][:, counted[image]]
        dimensions = (p.shape[1] - 1) * residuals.shape[1]
        squares = (residuals**2).sum() / 2
        total += -torch.lgamma((nu + dimensions) / 2) + torch.lgamma(nu / 2) + dimensions / 2 * torch.log(math.pi * nu)
        total += (nu + dimensions) / 2 * torch.log(1 + squares / nu)
        free += dimensions
    return total / free


def t_density(logits, masks, nu=NU):
    """The same by SciPy's density, without ignored pixels; less the constant log determinant of the free residuals' shape matrix."""
    p, y, _ = spread(logits, masks)
    free = p.shape[1] - 1
    shape = 2 * np.linalg.inv(np.eye(free) + np.ones((free, free)))
    total = 0.0
    for image in range(len(p)):
        residuals = (p - y)[image, 1:].flatten(1).T  # pixels by free classes
        matrix = np.kron(np.eye(len(residuals)), shape)
        total -= multivariate_t.logpdf(residuals.flatten().numpy(), shape=matrix, df=float(nu))
        total -= len(residuals) * np.linalg.slogdet(shape)[1] / 2
    return total / (p.shape[0] * free * p[0, 0].numel())


PUBLISHED = {
    "dice-ce": dice_ce,
    "gce": pixelwise(generalised),
    "mae": pixelwise(absolute),
    "sce": pixelwise(symmetric),
    "nr-dice": nr_dice,
    "t-loss": t_loss,
}
