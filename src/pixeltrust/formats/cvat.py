"""CVAT XML for images 1.1: masks as runs within their box, polygons, boxes and ellipses.

    <annotations><version>1.1</version>
      <meta><task><labels><label><name>…</name></label></labels></task></meta>
      <image id="0" name="a.png" width="640" height="480">
        <mask label="lesion" rle="3, 5, 3" left="10" top="20" width="4" height="3" z_order="0"/>
        <polygon label="lesion" points="1.0,2.0;3.0,2.0;3.0,4.0" z_order="0"/>
        <box label="lesion" xtl="1.0" ytl="2.0" xbr="3.0" ybr="4.0" rotation="30.0" z_order="0"/>
        <ellipse label="lesion" cx="8.0" cy="8.0" rx="3.0" ry="2.0" rotation="30.0" z_order="0"/>
      </image>
    </annotations>

The runs go by rows within the box and begin with background; boxes and ellipses are turned clockwise about their
middle, in degrees. Source: CVAT's documentation, "XML annotation format".
"""

from collections.abc import Mapping
from functools import partial
from math import isfinite
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from pixeltrust.formats import rle, shapes
from pixeltrust.formats.annotations import AnnotatedMask, Annotations, Picture, Region, Size, Tally, split_labels
from pixeltrust.formats.documents import read_xml, shortened
from pixeltrust.formats.format import Encoded, Format, Output, Source
from pixeltrust.formats.names import checked_size, file_name, id_of
from pixeltrust.plumbing.errors import DataError

_NOT_DRAWN = ("polyline", "points", "cuboid", "skeleton", "tag")  # also types of labels


def read(source: Source) -> Annotations:
    """Read the pictures of a CVAT file; `faults` lists the broken entries."""
    file = source.path
    root = read_xml(file)
    if root.tag != "annotations":
        raise DataError(f"{file}: not a CVAT file: its root is <{root.tag}>, not <annotations>")
    if root.find("track") is not None:
        raise DataError(f"{file}: a file for video (it has tracks); export it as CVAT for images 1.1")
    read = Annotations(file)
    for label in root.findall("./meta//labels/label"):
        name = label.findtext("name")
        of_no_mask = label.findtext("type") in _NOT_DRAWN or label.find("parent") is not None  # parts of a skeleton have a parent
        if name and not of_no_mask:
            read.add_label(name)
    for place, image in enumerate(root.findall("image")):
        where = f"image {shortened(image.get('name', f'no. {place + 1}'))}"
        with read.collect_fault(where):
            name = file_name(image.get("name"))
            size = checked_size(_whole(image, "height"), _whole(image, "width"))
            regions, left_out = _regions(read, image, where)
            read.pictures.append(Picture(id_of(name), name, size, regions, left_out))
    return read


def _regions(read: Annotations, image: Element, where: str) -> tuple[tuple[Region, ...], tuple[str | None, ...]]:
    """Return the regions of an image from the lowest to the highest, and the labels of what is not drawn."""
    regions: list[tuple[int, Region]] = []
    left_out = []
    for shape in image:
        decode = _DECODE.get(shape.tag)
        if decode is None:
            read.tally[f"shapes of the kind {shape.tag}, left out"] += 1
            left_out.append(shape.get("label"))
            continue
        there = f"{where}, {shape.tag} no. {len(regions) + 1}"
        with read.collect_fault(there):
            label, order = shape.get("label"), _whole(shape, "z_order", 0)
            if not label:
                raise DataError("it has no label")
            region = Region(read.add_label(label), partial(decode, dict(shape.attrib)), f"{read.file}, {there}")
            regions.append((order, region))
    return tuple(region for _, region in sorted(regions, key=lambda region: region[0])), tuple(left_out)


def _decode_mask(attributes: Mapping[str, str], size: Size, tally: Tally) -> np.ndarray | None:
    left, top = _whole(attributes, "left"), _whole(attributes, "top")
    height, width = checked_size(_whole(attributes, "height"), _whole(attributes, "width"))
    texts = attributes.get("rle", "").split(",")
    try:
        runs = [int(text) for text in texts]
    except ValueError:
        raise DataError(f"the runs {shortened(attributes.get('rle'))} are not whole numbers with commas between") from None
    mask = rle.decode_runs(rle.checked_runs(runs, height * width)).reshape(height, width)
    return shapes.place_bitmap(mask, (left, top, left + width, top + height), size, tally)


def _decode_polygon(attributes: Mapping[str, str], size: Size, tally: Tally) -> np.ndarray | None:
    text = attributes.get("points", "")
    try:
        points = [[float(number) for number in pair.split(",")] for pair in text.split(";") if pair.strip()]
    except ValueError:
        raise DataError(f"the points {shortened(text)} are not pairs of numbers") from None
    return shapes.fill_polygon([points], size, tally)


def _decode_box(attributes: Mapping[str, str], size: Size, tally: Tally) -> np.ndarray | None:
    left, top, right, bottom = (_number(attributes, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    return shapes.fill_box((left, top), (right - left, bottom - top), size, tally, degrees=_number(attributes, "rotation", 0))


def _decode_ellipse(attributes: Mapping[str, str], size: Size, tally: Tally) -> np.ndarray | None:
    x, y, radius_x, radius_y = (_number(attributes, name) for name in ("cx", "cy", "rx", "ry"))
    return shapes.fill_ellipse((x, y), (radius_x, radius_y), size, tally, degrees=_number(attributes, "rotation", 0))


_DECODE = {"mask": _decode_mask, "polygon": _decode_polygon, "box": _decode_box, "ellipse": _decode_ellipse}


def _number(attributes: Mapping[str, str] | Element, name: str, default: float | None = None, kind: type = float) -> Any:
    text = attributes.get(name)
    if text is None and default is not None:
        return default
    try:
        number = kind(text or "")
    except ValueError:
        raise DataError(f"{name} = {shortened(text)}: a {'whole ' if kind is int else ''}number is needed") from None
    if kind is float and not isfinite(number):
        raise DataError(f"{name} = {shortened(text)}: it is not finite")
    return number


_whole = partial(_number, kind=int)


def encode(mask: AnnotatedMask, output: Output) -> Element:
    """Encode a case as an <image> with one <mask> per label that has pixels."""
    height, width = mask.labels.shape
    image = Element("image", name=mask.name, width=str(width), height=str(height))
    for order, (name, pixels) in enumerate(split_labels(mask.labels, output.names)):
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        runs = ", ".join(map(str, rle.encode_runs(box.reshape(-1)).tolist()))
        where = {"left": columns[0], "top": rows[0], "width": box.shape[1], "height": box.shape[0], "z_order": order}
        attributes = {"label": name, "source": "file", "occluded": "0", "rle": runs}
        SubElement(image, "mask", attributes | {key: str(value) for key, value in where.items()})
    return image


def document(encoded: Encoded, output: Output) -> str:
    """Return the CVAT file of encoded cases."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task: Any = SubElement(SubElement(root, "meta"), "task")
    SubElement(task, "name").text = "pixeltrust"
    SubElement(task, "size").text = str(len(encoded))
    SubElement(task, "mode").text = "annotation"
    labels = SubElement(task, "labels")
    for name in output.names.values():
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "type").text = "mask"
        SubElement(label, "attributes")
    for place, (_, image) in enumerate(encoded):
        image.set("id", str(place))
        root.append(image)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


CVAT = Format(
    name="cvat", title="CVAT for images 1.1", looks="an .xml file",
    sources=("file",), recognises=lambda source: source.path.suffix.lower() == ".xml" and source.path.is_file(), read=read,
    makes="file", encode=encode, document=document,
)  # fmt: skip
