"""One picture: skin, a lesion, and some of the things between the skin and the camera."""

import numpy as np

from pixeltrust.demonstration.synthetic.artefacts import ARTEFACTS
from pixeltrust.demonstration.synthetic.camera import photograph
from pixeltrust.demonstration.synthetic.lesion import lesion_depth, with_lesion
from pixeltrust.demonstration.synthetic.skin import freckles, skin

SMALLEST_SIZE = 32


def dermoscopy(generator: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Draw a made-up dermoscopy image and the exact mask of its lesion.

    Equal states of the generator give equal pictures, bit for bit on one machine. The lesion covers 2 to 46 % of the
    frame (half of them 6 to 19 %), a little less where the field of view cuts it. Freckles, blotches, hairs, rulers, ink
    and stickers are not in the mask; hairs, bubbles and rulers may run across the lesion, and the mask is what it is under them.

    Args:
        generator: everything random comes from here.
        size: height and width, px, at least 32.

    Returns:
        image uint8 (size, size, 3) in RGB, mask uint8 (size, size) of 0 (skin) and 1 (lesion).
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size} px; at least {SMALLEST_SIZE} are needed to draw a lesion")
    depth = lesion_depth(generator, size)
    mask = depth > 0
    image = skin(generator, size) * np.exp(-freckles(generator, mask))
    image = with_lesion(generator, image, depth)
    for element, chance in ARTEFACTS:
        if generator.random() < chance:
            image = element(generator, image, mask)
    image, seen = photograph(generator, image)
    return np.round(image * 255).clip(0, 255).astype(np.uint8), (mask & seen).astype(np.uint8)
