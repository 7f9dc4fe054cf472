"""The annotation formats that people use already, into masks by case id and back: COCO, Label Studio, CVAT, FiftyOne.

from pixeltrust.formats import convert
convert(Path("instances.json"), Path("lesions/noisy"), images=Path("lesions/images"))
"""

from pixeltrust.formats.convert import FORMATS, Converted, convert
from pixeltrust.formats.format import Format, Output, Source

__all__ = ["FORMATS", "Converted", "Format", "Output", "Source", "convert"]
