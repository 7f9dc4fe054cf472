"""The data folder and its faults, images and masks, and batches of them."""
