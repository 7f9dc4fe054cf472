"""The folder for nnU-Net's environment variable `nnUNet_extTrainer`: every other file of it is searched for trainers by their name."""
