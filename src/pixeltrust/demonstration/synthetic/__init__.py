"""Made-up dermoscopy images whose masks are exact: for the demo, for tests and for trying out.

Skin is a reflectance and everything in it a pigment that absorbs light: colour = skin · exp(−density · absorption),
so one brown pigment gives tan, brown and black, and looks right on every skin. Each picture is skin with texture and freckles,
one lesion, and some of what lies between the skin and the camera.

    size    height and width of a picture, px
    image   float32 (size, size, 3), RGB, 0 to 1, while it is being made
    field   float32 (size, size)
    frame   the unit of every length in this folder: the picture is 1 frame wide, (0, 0) is its middle
"""

from pixeltrust.demonstration.synthetic.picture import dermoscopy
from pixeltrust.demonstration.synthetic.source import write_source

__all__ = ["dermoscopy", "write_source"]
