"""The label that is no label. It has a module of its own so that nobody has to load torch to know it."""

IGNORE = 255
"""Of pixels that do not count, in every tensor of masks. Which value of a mask file becomes 255 is decided in `data.masks`."""
