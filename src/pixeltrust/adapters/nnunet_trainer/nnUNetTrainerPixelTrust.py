"""Found by nnU-Net by its name, for `-tr nnUNetTrainerPixelTrust`."""

from pixeltrust.adapters.nnunet import nnUNetTrainerPixelTrust as nnUNetTrainerPixelTrust
