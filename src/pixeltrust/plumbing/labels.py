"""The label of ignored pixels. It has a module of its own, so that it is known without torch."""

IGNORE = 255
"""The label of ignored pixels in every tensor of masks. `data.masks` decides which value of a mask file becomes 255."""
