"""The annotation formats that people use already, into masks by case id and back: COCO, Label Studio, CVAT, FiftyOne.

from pixeltrust.formats.convert import convert
convert(Path("instances.json"), Path("lesions/noisy"), images=Path("lesions/images"))
"""
