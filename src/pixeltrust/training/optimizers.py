"""The optimiser and the schedule of its learning rate."""

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR

from pixeltrust.config import Config


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return the optimiser of the settings for the trainable parameters, in one fused kernel."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = True if all(parameter.is_floating_point() for parameter in trained) else None  # no fused kernel takes complex numbers
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
        case "sgd":
            momentum, decay = config.momentum, config.weight_decay
            return torch.optim.SGD(trained, lr=config.learning_rate, momentum=momentum, weight_decay=decay, fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, config: Config, updates: int) -> LRScheduler:
    """Return the schedule of the learning rate over so many updates; it steps once an update."""
    match config.schedule:
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=updates)
        case "step":
            return MultiStepLR(optimizer, milestones=[updates // 3, 2 * updates // 3])
        case "constant":
            return ConstantLR(optimizer, factor=1.0, total_iters=1)
