"""Annotation formats of other tools: round trips, files by hand as their documentation describes, and files that mean harm."""

import base64
import inspect
import io
import json
import re
import shlex
import shutil
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as pycocotools_mask
from pycocotools.coco import COCO

import other_programs
from pixeltrust.auditing.folder import CASE_NUMBERS, AuditRecord
from pixeltrust.cli import making
from pixeltrust.data.image_files import MAX_PIXELS
from pixeltrust.data.images import read_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.formats import brushes, polygons, rle
from pixeltrust.formats.annotations import Annotations, Picture, Region
from pixeltrust.formats.convert import FORMATS, convert
from pixeltrust.formats.format import Format
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError

OTHERS = ("coco", "coco-polygons", "label-studio", "cvat", "fiftyone")
IDS = ("a", "Läsion 1", "<b>&", "007", "x.y")
SIZE = (13, 17)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def drawn(labels=2, seed=0, size=SIZE):
    """Random labels 0 … labels − 1 in blots."""
    return np.random.default_rng(seed).integers(0, labels, (size[0], size[1])).astype(np.uint8)


def data_folder(folder, masks):
    """images/ and noisy/ with these masks by id."""
    for part in ("images", "noisy"):
        (folder / part).mkdir(parents=True)
    for identity, mask in masks.items():
        write_png(folder / "noisy" / f"{identity}.png", mask)
        write_png(folder / "images" / f"{identity}.png", np.zeros((*mask.shape, 3), np.uint8))
    return folder


@pytest.fixture
def lesions(tmp_path):
    """Five binary cases, one of them empty."""
    masks = {identity: drawn(seed=seed) * np.uint8(255) for seed, identity in enumerate(IDS)}
    masks["007"][:] = 0
    return data_folder(tmp_path / "lesions", masks)


def run(source, out, **rest):
    return convert(Path(source), Path(out), show_progress=False, **rest)


def faults(source, out, **rest):
    with pytest.raises(DataError) as raised:
        run(source, out, **rest)
    assert not Path(out).exists()
    assert not [path for path in Path(out).parent.iterdir() if "unfinished" in path.name]
    return str(raised.value)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# --- round trips


@pytest.mark.parametrize("to", OTHERS)
def test_a_round_trip_returns_binary_masks_to_the_pixel(to, lesions, tmp_path):
    there = run(lesions / "noisy", tmp_path / "there", to=to)
    back = run(tmp_path / "there", tmp_path / "back", source_format=to.removesuffix("-polygons"))
    assert (there.masks, there.empty, back.masks, back.empty) == (5, 1, 5, 1)
    assert names(tmp_path / "back") == names(lesions / "noisy")
    for path in (lesions / "noisy").iterdir():
        assert (read_labels(tmp_path / "back" / path.name) == read_labels(path)).all(), path.name


@pytest.mark.parametrize("to", OTHERS)
def test_a_round_trip_returns_several_labels_and_ignored_pixels_to_the_pixel(to, tmp_path):
    masks = {identity: drawn(4, seed) for seed, identity in enumerate(IDS)}
    for mask in masks.values():
        mask[2:5, 3:6] = 255
    data = data_folder(tmp_path / "data", masks)
    run(data / "noisy", tmp_path / "there", to=to, classes=4, labels=["nevus", "hair", "ruler"])
    back = run(
        tmp_path / "there",
        tmp_path / "back",
        source_format=to.removesuffix("-polygons"),
        labels=["nevus", "hair", "ruler"],
        images=data / "images",
    )
    assert dict(back.labels) == {"nevus": 1, "hair": 2, "ruler": 3, "ignored": 255}
    for identity, mask in masks.items():
        assert (read_labels(tmp_path / "back" / f"{identity}.png") == mask).all(), identity


def test_formats_convert_into_one_another(lesions, tmp_path):
    run(lesions / "noisy", tmp_path / "a.json", to="label-studio")
    run(tmp_path / "a.json", tmp_path / "b.xml", to="cvat")
    run(tmp_path / "b.xml", tmp_path / "c.json", to="coco")
    run(tmp_path / "c.json", tmp_path / "d", to="fiftyone", images=lesions / "images")
    run(tmp_path / "d", tmp_path / "back")
    for path in (lesions / "noisy").iterdir():
        assert (read_labels(tmp_path / "back" / path.name) == read_labels(path)).all()


def test_binary_masks_with_ignored_pixels_keep_them(tmp_path):
    mask = drawn()
    mask[:3] = 255
    data = data_folder(tmp_path / "data", {"a": mask})
    run(data / "noisy", tmp_path / "a.xml", to="cvat")
    back = run(tmp_path / "a.xml", tmp_path / "back")
    assert (read_labels(tmp_path / "back/a.png") == mask).all()
    assert "ignore_label=255" in str(back)


def test_where_some_masks_ignore_pixels_255_is_ignored_in_all_files(tmp_path):
    ignoring = drawn()
    ignoring[:3] = 255
    masks = {"a": ignoring, "b": drawn(seed=1)}
    data = data_folder(tmp_path / "data", masks)
    run(data / "noisy", tmp_path / "back", to="png")
    for identity, mask in masks.items():
        assert (read_labels(tmp_path / "back" / f"{identity}.png") == mask).all()


@given(MASKS)
def test_runs_are_the_mask_again(mask):
    flat = mask.reshape(-1)
    counts = rle.encode_runs(flat)
    assert (rle.decode_runs(rle.checked_runs(counts.tolist(), flat.size)) == flat).all()
    assert (counts[1:] > 0).all()


@given(MASKS)
def test_compressed_runs_are_read_as_pycocotools_reads_them(mask):
    runs = pycocotools_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = rle.parse_compressed(runs["counts"].decode("ascii"))
    assert (mask == rle.decode_runs(rle.checked_runs(counts, mask.size)).reshape(mask.shape[::-1]).T).all()


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_text_for_compressed_runs_is_read_or_refused(text):
    with suppress(DataError):
        assert rle.checked_runs(rle.parse_compressed(text), 100).sum() == 100


@given(MASKS)
def test_outlines_filled_by_pycocotools_are_the_mask_again(mask):
    rings = polygons.trace(mask)
    assert (polygons.fill(rings, mask.shape) == mask).all()


@given(MASKS)
def test_outlines_are_simple_and_without_holes(mask):
    """Readers that join polygons, and readers that fill each, then see one mask: the areas add up, and no corner comes twice."""
    rings = polygons.trace(mask)
    areas = [
        abs(np.cross(np.c_[ring, ring[:, :1] * 0], np.roll(np.c_[ring, ring[:, :1] * 0], -1, axis=0))[:, 2].sum()) / 2 for ring in rings
    ]
    assert sum(areas) == mask.sum()
    assert all(len(np.unique(ring, axis=0)) == len(ring) for ring in rings)


@given(MASKS)
def test_brush_bytes_are_the_mask_again(mask):
    values = brushes.unpack(brushes.pack(mask), 4 * mask.size)
    assert (values.reshape(*mask.shape, 4) == mask[..., None] * 255).all()


def test_long_runs_of_a_brush_are_split():
    mask = np.zeros((300, 400), bool)
    mask[1:] = True
    assert (brushes.unpack(brushes.pack(mask), 480_000).reshape(300, 400, 4)[..., 3] == mask * 255).all()


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_for_a_brush_are_read_or_refused(packed):
    with suppress(DataError):
        assert brushes.unpack(packed, 24).size == 24


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-40, 60), st.floats(-40, 60)), min_size=3, max_size=8))
def test_polygons_beyond_the_image_are_clipped_as_if_the_image_were_larger(points):
    """To the pixel beside the border, where pycocotools rounds otherwise."""
    ring = np.array(points)
    inside = polygons.fill([ring], (20, 20))
    larger = polygons.fill([ring + 50], (120, 120))[50:70, 50:70]
    assert (inside ^ larger)[1:-1, 1:-1].sum() <= len(points) * 8


# --- COCO


def coco(segmentations, *, size=(4, 5), name="a.png", categories=("lesion",), **rest):
    """A COCO file of one image; segmentations are (category number from 1, segmentation)."""
    return {
        "images": [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": place, "name": category} for place, category in enumerate(categories, 1)],
        "annotations": [
            {"id": place, "image_id": 7, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
            for place, (category, segmentation) in enumerate(segmentations, 1)
        ],
    } | rest


def test_coco_runs_go_by_columns_and_begin_with_background(tmp_path):
    file = written(tmp_path / "a.json", coco([(1, {"size": [4, 5], "counts": [5, 2, 13]})]))
    run(file, tmp_path / "out")
    expected = np.zeros((4, 5), np.uint8)
    expected[1:3, 1] = 255
    assert (read_labels(tmp_path / "out/a.png") == expected).all()


def test_coco_polygons_of_one_annotation_are_joined(tmp_path):
    file = written(tmp_path / "a.json", coco([(1, [[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 4, 1, 4, 3, 1, 3]])]))
    run(file, tmp_path / "out")
    expected = np.zeros((4, 5), np.uint8)
    expected[:2, :2] = expected[1:3, 1:4] = 255
    assert (read_labels(tmp_path / "out/a.png") == expected).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")  # its own, with numpy 2
def test_pycocotools_itself_reads_what_is_written(lesions, tmp_path, capsys):
    for to in ("coco", "coco-polygons"):
        run(lesions / "noisy", tmp_path / f"{to}.json", to=to)
        read = COCO(tmp_path / f"{to}.json")
        for image in read.loadImgs(read.getImgIds()):
            mask = np.zeros(SIZE, bool)
            for annotation in read.loadAnns(read.getAnnIds(image["id"])):
                mask |= read.annToMask(annotation).astype(bool)
                assert annotation["area"] == mask.sum()
            assert (mask == (read_labels(lesions / "noisy" / image["file_name"]) > 0)).all()


def test_a_hole_is_kept_by_cutting_the_ring_in_two(tmp_path):
    mask = np.full((9, 9), 255, np.uint8)
    mask[3:6, 3:6] = 0
    data = data_folder(tmp_path / "data", {"a": mask})
    said = str(run(data / "noisy", tmp_path / "a.json", to="coco-polygons"))
    (annotation,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert len(annotation["segmentation"]) == 2
    assert "to the pixel" in said


def test_the_later_of_two_labels_stands_above_and_the_overlap_is_counted(tmp_path):
    one, two = [[0, 0, 3, 0, 3, 2, 0, 2]], [[1, 1, 4, 1, 4, 3, 1, 3]]
    file = written(tmp_path / "a.json", coco([(1, one), (2, two), (1, one)][:2], categories=("nevus", "hair")))
    said = run(file, tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png")[:3, :4] == [[1, 1, 1, 0], [1, 2, 2, 2], [0, 2, 2, 2]]).all()
    assert "pixels in which they overlap: 2" in str(said)
    assert "train with --set classes=3" in str(said)


def test_overlapping_instances_of_one_label_are_joined_without_a_word(tmp_path):
    file = written(tmp_path / "a.json", coco([(1, [[0, 0, 3, 0, 3, 2, 0, 2]]), (1, [[1, 1, 4, 1, 4, 3, 1, 3]])]))
    said = run(file, tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") > 0).sum() == 10
    assert "pixels in which they overlap" not in str(said)


def test_labels_are_numbered_as_declared_or_as_asked_and_the_others_counted(tmp_path):
    squares = [(place, [[place, 0, place + 1, 0, place + 1, 1, place, 1]]) for place in (1, 2, 3)]
    file = written(tmp_path / "a.json", coco(squares, categories=("nevus", "hair", "ruler")))
    declared = run(file, tmp_path / "declared")
    assert dict(declared.labels) == {"nevus": 1, "hair": 2, "ruler": 3}
    assert read_labels(tmp_path / "declared/a.png")[0].tolist() == [0, 1, 2, 3, 0]
    asked = run(file, tmp_path / "asked", labels=["ruler", "nevus"])
    assert read_labels(tmp_path / "asked/a.png")[0].tolist() == [0, 2, 0, 1, 0]
    assert "label hair, which was not asked for, left out: 1" in str(asked)
    run(file, tmp_path / "joined", classes=1)
    assert read_labels(tmp_path / "joined/a.png")[0].tolist() == [0, 255, 255, 255, 0]


def test_annotations_without_a_segmentation_and_images_without_annotations_are_counted(tmp_path):
    content = coco([(1, []), (1, [[0, 0, 3, 0, 3, 2, 0, 2]])])
    content["images"].append({"id": "b", "file_name": "deep/folder/b.jpg", "height": 3, "width": 2})
    said = str(run(written(tmp_path / "a.json", content), tmp_path / "out"))
    assert names(tmp_path / "out") == ["a.png", "b.png"]
    assert read_labels(tmp_path / "out/b.png").shape == (3, 2)
    assert "images without annotations, which get an empty mask: 1" in said
    assert "annotations with neither a segmentation nor a box, left out: 1" in said


def test_what_reaches_beyond_the_image_or_has_no_area_is_counted(tmp_path):
    file = written(tmp_path / "a.json", coco([(1, [[-2, -2, 2, -2, 2, 2, -2, 2]]), (1, [[0, 0, 5, 5]])]))
    said = str(run(file, tmp_path / "out"))
    assert (read_labels(tmp_path / "out/a.png") > 0).sum() == 4
    assert "polygons that reach beyond their image, clipped: 1" in said
    assert "fewer than three points, which have no area, left out: 1" in said


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        ({"size": [4, 5], "counts": [5, 2, 14]}, "the runs sum to 21, the mask has 20 pixels"),
        ({"size": [4, 5], "counts": [5, 2]}, "the runs sum to 7"),
        ({"size": [4, 5], "counts": [25, -5]}, "a run of length -5"),
        ({"size": [4, 5], "counts": [10**30, 2]}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": [20.0]}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": [[20]]}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": [[20], 3]}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": None}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": {}}, "not a list of whole numbers"),
        ({"size": [4, 5], "counts": "oo"}, "end within a number"),
        ({"size": [4, 5], "counts": "o" * 50}, "not compressed runs"),
        ({"size": [4, 5], "counts": "é"}, "not compressed runs"),
        ({"size": [5, 4], "counts": [20]}, "its runs have the size [5, 4]"),
        ({"counts": [20]}, "its runs have the size None"),
        ([[0, 0, 1, 1, 2]], "not pairs of x and y"),
        ([[0, 0, 1, 1, 2, float("nan")]], "not finite"),
        ([[0, 0, 1, 1, 2, float("inf")]], "not finite"),
        ([[0, 0, 1, 1, 2, 1e9]], "far outside the image of 5x4 pixels"),
        ([[0, 0, 1, 1, 2, "1"]], "not a list of numbers"),
        ([0, 0, 1, 1, 2, 2], "a polygon is 0, not a list"),
        ([[0, 0, 50, 50] * 60_000], "an outline of more than"),
        ("text", "polygons or runs are needed"),
        (5, "polygons or runs are needed"),
    ],
)
def test_broken_segmentations_are_named(segmentation, complaint, tmp_path):
    said = faults(written(tmp_path / "a.json", coco([(1, segmentation)])), tmp_path / "out")
    assert complaint in said
    assert f"{tmp_path / 'a.json'}, annotation 1" in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": {}}, "not a COCO file: images is {}, not a list"),
        ({"annotations": None}, "annotations is None, not a list"),
        ({"images": [3]}, "image no. 1: it is 3, not an object"),
        ({"annotations": ["x"]}, "annotation no. 1: it is 'x', not an object"),
        ({"annotations": [{"id": 3, "image_id": 8, "category_id": 1}]}, "annotation 3: image_id 8 is not the id of an image"),
        ({"annotations": [{"id": 3, "image_id": 7, "category_id": 9}]}, "annotation 3: category_id 9 is not the id of a category"),
        ({"annotations": [{"id": 3, "image_id": [7], "category_id": 1}]}, "an id [7]"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}, "one of them is there twice"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 10**6, "width": 10**6}]}, f"more than the {MAX_PIXELS:,}"),
        ({"categories": [{"id": 1, "name": "\ud800"}]}, "a text without control characters"),
        ({"categories": [{"id": 1, "name": ""}]}, "its name ''"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": -3, "width": 4}]}, "height -3: whole numbers from 1"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": "4", "width": 4}]}, "height '4': whole numbers from 1"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": True, "width": 4}]}, "height True: whole numbers from 1"),
        ({"images": [{"id": 1, "file_name": "..", "height": 4, "width": 4}]}, "the image's name '..' is not the name of a file"),
        ({"images": [{"id": 1, "file_name": "", "height": 4, "width": 4}]}, "the image's name '' is not the name of a file"),
        ({"images": [{"id": 1, "file_name": "a\0.png", "height": 4, "width": 4}]}, "is not the name of a file"),
        ({"images": [{"id": 1, "file_name": "\ud800.png", "height": 4, "width": 4}]}, "is not the name of a file"),
        ({"images": [{"id": 1, "file_name": 3, "height": 4, "width": 4}]}, "the image's name is 3, not a text"),
        ({"images": [{"id": k, "file_name": f"{k}/a.png", "height": 4, "width": 4} for k in (7, 8)]}, "2 images of one id, a"),
    ],
)
def test_broken_entries_of_coco_are_named(change, complaint, tmp_path):
    file = written(tmp_path / "a.json", coco([]) | change)
    said = faults(file, tmp_path / "out")
    assert complaint in said
    assert str(file) in said


def test_all_faults_come_in_one_go(tmp_path):
    content = coco([(1, {"size": [4, 5], "counts": [21]}), (1, [[0, 0, 1, 1, 2]]), (9, [])])
    content["images"].append({"id": 8, "file_name": "b.png", "height": 0, "width": 4})
    said = faults(written(tmp_path / "a.json", content), tmp_path / "out")
    assert all(complaint in said for complaint in ("4 faults", "annotation 1", "annotation 2", "annotation 3", "image 8"))


def test_a_name_that_leads_elsewhere_is_only_a_case_id(tmp_path):
    for place, name in enumerate(["../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "C:\\evil.png"]):
        run(written(tmp_path / f"{place}.json", coco([], name=name)), tmp_path / f"out{place}")
        assert names(tmp_path / f"out{place}") == ["evil.png"]
    assert not list(tmp_path.glob("evil*"))


@pytest.mark.parametrize("text", ['{"images": [', "", "[" * 100_000, "\xff\xfe", '{"images": 1' + "0" * 5000 + "}"])
def test_a_file_that_is_no_whole_json_is_named(text, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    assert str(file) in faults(file, tmp_path / "out")


# --- Label Studio


def brush(mask, label="lesion", **rest):
    return {
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brushes.pack(mask), "brushlabels": [label]},
    } | rest


def task(results, image="/data/upload/1/a.png", **rest):
    return {"id": 5, "data": {"image": image}, "annotations": [{"completed_by": 1, "result": results}]} | rest


SOME = np.array([[False, True, True], [True, True, False]])


def test_bytes_of_the_converter_of_label_studio_are_read(tmp_path):
    """What `label_studio_converter.brush.mask2rle` makes of the mask."""
    made = [0, 0, 0, 24, 57, 27, 252, 96, 23, 255, 227, 0, 0]
    result = brush(SOME) | {"value": {"format": "rle", "rle": made, "brushlabels": ["lesion"]}}
    run(written(tmp_path / "a.json", [task([result])]), tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == SOME * 255).all()
    assert brushes.pack(SOME) == made[:-1]


def test_brush_parts_with_a_value_each_are_read():
    """Header for 4 values of 8 bits and lengths of 1, 1, 1 and 2 bits; a part of four values of their own."""
    bits = f"{4:032b}{7:05b}" + "0000" * 3 + "0001" + "0" + "11" + "11" + "".join(f"{value:08b}" for value in (1, 2, 3, 200))
    packed = [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]
    assert brushes.unpack(packed, 4).tolist() == [1, 2, 3, 200]


def test_polygons_of_label_studio_are_in_percent(tmp_path):
    result = {
        "type": "polygonlabels",
        "original_width": 10,
        "original_height": 20,
        "value": {"points": [[0, 0], [50, 0], [50, 25], [0, 25]], "polygonlabels": ["lesion"]},
    }
    run(written(tmp_path / "a.json", [task([result])]), tmp_path / "out")
    expected = np.zeros((20, 10), np.uint8)
    expected[:5, :5] = 255
    assert (read_labels(tmp_path / "out/a.png") == expected).all()


@pytest.mark.parametrize(
    "image",
    ["a.png", "/data/upload/3/a.png", "/data/local-files/?d=some%20folder/a.png", "s3://bucket/x/a.png", "https://host/x/a.png?key=1/b"],
)
def test_the_case_is_named_by_the_end_of_the_address(image, tmp_path):
    run(written(tmp_path / "a.json", [task([brush(SOME)], image)]), tmp_path / "out")
    assert names(tmp_path / "out") == ["a.png"]


def test_data_under_another_name_than_image_is_found_by_its_ending(tmp_path):
    one = task([brush(SOME)]) | {"data": {"note": "seen/twice", "photo": "https://host/x/a.png?v=2"}}
    run(written(tmp_path / "a.json", [one]), tmp_path / "out")
    assert names(tmp_path / "out") == ["a.png"]


def test_the_prefix_of_an_upload_is_taken_off_where_an_image_has_the_rest_of_the_name(tmp_path):
    data = data_folder(tmp_path / "data", {"a": np.zeros((2, 3), np.uint8)})
    file = written(tmp_path / "a.json", [task([brush(SOME)], "/data/upload/1/0a1b2c3d-a.png")])
    said = run(file, tmp_path / "out", images=data / "images")
    assert names(tmp_path / "out") == ["a.png"]
    assert "before that of an upload: 1" in str(said)
    run(file, tmp_path / "unknown")
    assert names(tmp_path / "unknown") == ["0a1b2c3d-a.png"]


def test_results_of_no_kind_are_counted(tmp_path):
    said = str(run(written(tmp_path / "a.json", [task([brush(SOME, type=[]), brush(SOME)])]), tmp_path / "out"))
    assert "results of the kind [], left out: 1" in said


def test_the_latest_annotation_is_taken_or_the_one_that_is_asked_for(tmp_path):
    made = [
        {"completed_by": 1, "updated_at": "2026-01-02T00:00:00Z", "result": [brush(SOME)]},
        {"completed_by": {"id": 2, "email": "b@x.org"}, "updated_at": "2026-01-01T00:00:00Z", "result": [brush(~SOME)]},
        {"completed_by": 3, "updated_at": "2026-01-03T00:00:00Z", "was_cancelled": True, "result": []},
    ]
    file = written(tmp_path / "a.json", [task([], annotations=made)])
    said = str(run(file, tmp_path / "latest"))
    assert (read_labels(tmp_path / "latest/a.png") == SOME * 255).all()
    assert "further annotations of a task, left out (the latest was read; --annotator reads another): 1" in said
    assert "annotations that were cancelled, left out: 1" in said
    run(file, tmp_path / "asked", annotator="b@x.org")
    assert (read_labels(tmp_path / "asked/a.png") == ~SOME * 255).all()
    assert "nothing by the annotator 'c'" in faults(file, tmp_path / "out", annotator="c")


def test_predictions_stand_in_where_nobody_annotated(tmp_path):
    guesses = [{"model_version": "old", "result": [brush(SOME)]}, {"model_version": "new", "result": [brush(~SOME)]}]
    file = written(tmp_path / "a.json", [task([], annotations=[], predictions=guesses)])
    assert "of which the last prediction was read: 1" in str(run(file, tmp_path / "last"))
    assert (read_labels(tmp_path / "last/a.png") == ~SOME * 255).all()
    run(file, tmp_path / "old", annotator="old")
    assert (read_labels(tmp_path / "old/a.png") == SOME * 255).all()


def test_a_task_without_regions_needs_its_image_for_the_size(tmp_path):
    file = written(tmp_path / "a.json", [task([])])
    assert "has no size of a.png" in faults(file, tmp_path / "out")
    data = data_folder(tmp_path / "data", {"a": np.zeros((2, 3), np.uint8)})
    assert run(file, tmp_path / "out", images=data / "images").empty == 1


def test_columns_of_others_are_not_taken_for_the_size_of_an_image(tmp_path):
    columns = {"image": "a.png", "height": "172 cm", "width": 80}
    data = data_folder(tmp_path / "data", {"a": np.zeros((2, 3), np.uint8)})
    file = written(tmp_path / "a.json", [task([]) | {"data": columns}])
    assert run(file, tmp_path / "out", images=data / "images").empty == 1
    file = written(tmp_path / "b.json", [task([]) | {"data": columns | {"pixeltrust_id": "a"}}])
    assert "task 5: width 80 and height '172 cm'" in faults(file, tmp_path / "more")


@pytest.mark.parametrize("identity", ["../a", "", 7, None])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path, identity):
    columns = {"image": "a.png", "height": 2, "width": 3, "pixeltrust_id": identity}
    assert "is not the id of a case" in faults(written(tmp_path / "a.json", [task([]) | {"data": columns}]), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (["x"], "task no. 1: it is 'x', not an object"),
        ([{"id": 5}], "task 5: it has no data"),
        ([task("x")], "its result is 'x', not a list"),
        ([task(["x"])], "region no. 1: it is 'x', not an object"),
        ([task([brush(SOME, original_width=0)])], "width 0 and height 2"),
        ([task([brush(SOME, original_width=4)])], "the runs hold 24 values, the image needs 32"),
        ([task([brush(SOME, original_width=10**9)])], "more than the"),
        ([task([brush(SOME, image_rotation=90)])], "turned by 90 degrees"),
        ([task([brush(SOME, value={"rle": [1, 2], "brushlabels": ["x"]})])], "end before"),
        ([task([brush(SOME, value={"rle": [1, -2], "brushlabels": ["x"]})])], "whole numbers from 0 to 255"),
        ([task([brush(SOME, value={"rle": [[1], 2], "brushlabels": ["x"]})])], "whole numbers from 0 to 255"),
        ([task([brush(SOME, value={"rle": brushes.pack(SOME)[:8], "brushlabels": ["x"]})])], "end before"),
        ([task([brush(SOME, value={"rle": brushes.pack(SOME)})])], "it has no label"),
        ([task([brush(SOME, label="a\x01b")])], "a text without control characters"),
        ([task([brush(SOME, value=3)])], "its value is 3, not an object"),
        ([task([brush(SOME), brush(np.ones((3, 3), bool))])], "different sizes of the image"),
        ([task([], image="..")], "is not the name of a file"),
        ([task([], image=None)], "not a text"),
        ([task([brush(SOME)]), task([brush(SOME)], id=6)], "2 images of one id, a"),
    ],
)
def test_broken_tasks_of_label_studio_are_named(content, complaint, tmp_path):
    file = written(tmp_path / "a.json", content)
    said = faults(file, tmp_path / "out")
    assert complaint in said
    assert str(file) in said


def test_other_results_of_label_studio_are_counted(tmp_path):
    point = {"type": "keypointlabels", "original_width": 3, "original_height": 2, "value": {"x": 1, "y": 1, "keypointlabels": ["x"]}}
    said = run(written(tmp_path / "a.json", [task([point, brush(SOME)])]), tmp_path / "out")
    assert "results of the kind keypointlabels, left out: 1" in str(said)
    assert dict(said.labels) == {"lesion": 1}


# --- CVAT


def cvat(shapes, *, head='<image id="0" name="a.png" width="5" height="4">'):
    meta = "<meta><task><labels><label><name>hair</name></label><label><name>nevus</name></label></labels></task></meta>"
    return f"<annotations><version>1.1</version>{meta}{head}{shapes}</image></annotations>"


def test_masks_of_cvat_go_by_rows_within_their_box_and_the_higher_stands_above(tmp_path):
    shapes = (
        '<mask label="nevus" rle="1, 4, 1" left="1" top="1" width="3" height="2" z_order="2"/>'
        '<polygon label="hair" points="0.0,0.0;2.0,0.0;2.0,2.0;0.0,2.0" z_order="1"/>'
    )
    said = run(written(tmp_path / "a.xml", cvat(shapes)), tmp_path / "out")
    expected = [[1, 1, 0, 0, 0], [1, 1, 2, 2, 0], [0, 2, 2, 0, 0], [0, 0, 0, 0, 0]]
    assert read_labels(tmp_path / "out/a.png").tolist() == expected
    assert dict(said.labels) == {"hair": 1, "nevus": 2}


def test_masks_of_cvat_beyond_the_image_are_clipped_and_other_shapes_counted(tmp_path):
    shapes = '<mask label="nevus" rle="0,6" left="-1" top="3" width="3" height="2"/><points label="nevus" points="0,0;1,1"/>'
    said = str(run(written(tmp_path / "a.xml", cvat(shapes)), tmp_path / "out", labels=["nevus"]))
    assert (read_labels(tmp_path / "out/a.png") > 0).sum() == 2
    assert "masks that reach beyond their image, clipped: 1" in said
    assert "shapes of the kind points, left out: 1" in said


def test_what_is_written_for_cvat_has_the_documented_attributes(lesions, tmp_path):
    run(lesions / "noisy", tmp_path / "a.xml", to="cvat", labels=["lesion"])
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [name.text for name in root.findall("./meta/task/labels/label/name")] == ["lesion"]
    assert [image.get("id") for image in root.findall("image")] == ["0", "1", "2", "3", "4"]
    for image in root.findall("image"):
        mask = read_labels(lesions / "noisy" / image.get("name")) > 0
        for shape in image:
            box = {name: int(shape.get(name)) for name in ("left", "top", "width", "height")}
            counts = [int(run) for run in shape.get("rle").split(",")]
            part = mask[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
            assert (np.repeat(np.arange(len(counts)) % 2, counts) == part.reshape(-1)).all()
            assert part.sum() == mask.sum()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<annotations><image", "not a whole XML file"),
        ("", "not a whole XML file"),
        ("<other/>", "its root is <other>"),
        ("<annotations><track/></annotations>", "export it as CVAT for images 1.1"),
        (cvat("", head='<image id="0" name="a.png" width="x" height="4">'), "width = 'x': a whole number is needed"),
        (cvat("", head='<image id="0" name="a.png" width="999999" height="999999">'), "more than the"),
        (cvat("", head='<image id="0" name=".." width="5" height="4">'), "is not the name of a file"),
        (cvat("", head='<image id="0" width="5" height="4">'), "not a text"),
        (cvat('<mask label="nevus" rle="1,4" left="1" top="1" width="3" height="2"/>'), "the runs sum to 5, the mask has 6 pixels"),
        (cvat('<mask label="nevus" rle="-1,7" left="1" top="1" width="3" height="2"/>'), "a run of length -1"),
        (cvat('<mask label="nevus" rle="a" left="1" top="1" width="3" height="2"/>'), "not whole numbers with commas"),
        (cvat('<mask label="nevus" rle="6" left="1" top="1" width="0" height="2"/>'), "width 0"),
        (cvat('<mask label="nevus" rle="6" left="99999" top="1" width="3" height="2"/>'), "far outside"),
        (cvat('<mask label="nevus" rle="6" left="1" top="1" width="99999" height="99999"/>'), "more than the"),
        (cvat('<polygon label="nevus" points="0,0;1,x;2,2"/>'), "not pairs of numbers"),
        (cvat('<polygon label="nevus" points="0,0;1,nan;2,2"/>'), "not finite"),
        (cvat('<polygon label="nevus" points="0,0;1;2,2"/>'), "not pairs of x and y"),
        (cvat('<polygon points="0,0;1,1;2,2"/>'), "it has no label"),
        (cvat("").replace("</annotations>", '<image name="b/a.png" width="5" height="4"/></annotations>'), "2 images of one id, a"),
    ],
)
def test_broken_files_of_cvat_are_named(text, complaint, tmp_path):
    file = written(tmp_path / "a.xml", text)
    said = faults(file, tmp_path / "out")
    assert complaint in said
    assert str(file) in said


def test_entities_of_xml_are_refused(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + cvat("&b;")
    reach = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + cvat("&a;")
    for text in (bomb, reach):
        assert "document type or entities" in faults(written(tmp_path / "a.xml", text), tmp_path / "out")


# --- FiftyOne


def serialized(array, save=np.save):
    """As FiftyOne's documentation describes: .npy in zlib in base64."""
    with io.BytesIO() as file:
        save(file, array)
        return base64.b64encode(zlib.compress(file.getvalue())).decode()


def sample(mask, name="data/a.png", field="ground_truth", **rest):
    return {"filepath": name, "tags": [], field: {"_cls": "Segmentation", **mask}} | rest


def fiftyone_folder(folder, samples, metadata=None):
    folder.mkdir()
    written(folder / "samples.json", {"samples": samples})
    if metadata is not None:
        written(folder / "metadata.json", metadata)
    return folder


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: {"$binary": {"base64": text, "subType": "00"}},
        lambda text: {"$binary": text, "$type": "00"},
        lambda text: text,
    ],
)
def test_masks_of_fiftyone_are_read_in_each_of_their_forms(wrap, tmp_path):
    folder = fiftyone_folder(tmp_path / "d", [sample({"mask": wrap(serialized(SOME))})])
    run(folder, tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == SOME * 255).all()


def test_fiftyone_names_values_by_its_mask_targets(tmp_path):
    mask = np.array([[0, 5, 9]], np.uint8)
    for place, metadata in enumerate(
        (
            {"default_mask_targets": {"5": "nevus", "9": "hair"}},
            {"mask_targets": {"ground_truth": {"5": "nevus", "9": "hair"}}},
            {"info": {"mask_targets": {"5": "nevus", "9": "hair"}}},
        )
    ):
        folder = fiftyone_folder(tmp_path / f"d{place}", [sample({"mask": serialized(mask)})], metadata)
        said = run(folder, tmp_path / f"out{place}", labels=["hair", "nevus"])
        assert read_labels(tmp_path / f"out{place}/a.png").tolist() == [[0, 2, 1]]
        assert dict(said.labels) == {"hair": 1, "nevus": 2}


def test_a_mask_path_is_read_within_the_folder_alone(tmp_path):
    folder = fiftyone_folder(tmp_path / "d", [sample({"mask_path": "fields/a.png"})])
    (folder / "fields").mkdir()
    write_png(folder / "fields/a.png", SOME * np.uint8(255))
    run(folder, tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == SOME * 255).all()
    for place, path in enumerate(["../secret.png", str(tmp_path / "secret.png"), "a\0b"]):
        write_png(tmp_path / "secret.png", SOME * np.uint8(255))
        assert "leads out of the folder" in faults(
            fiftyone_folder(tmp_path / f"d{place}", [sample({"mask_path": path})]), tmp_path / "none"
        )


@pytest.mark.parametrize("targets", [{"x": "y"}, {"1": 3}])
def test_mask_targets_that_are_none_are_named(targets, tmp_path):
    folder = fiftyone_folder(tmp_path / "d", [sample({"mask": serialized(SOME)})], {"mask_targets": [], "default_mask_targets": targets})
    assert "metadata.json: the mask targets" in faults(folder, tmp_path / "out")


def test_a_file_name_that_no_document_can_hold_is_named(tmp_path):
    data = data_folder(tmp_path / "data", {"a\nb": drawn()})
    assert "the name 'a\\nb.png' has control characters" in faults(data / "noisy", tmp_path / "out", to="cvat")


def test_of_several_fields_one_must_be_named(tmp_path):
    one = sample({"mask": serialized(SOME)}) | {"other": {"_cls": "Segmentation", "mask": serialized(~SOME)}}
    folder = fiftyone_folder(tmp_path / "d", [one])
    assert "ground_truth, other" in faults(folder, tmp_path / "out")
    said = run(folder, tmp_path / "out", annotator="other")
    assert (read_labels(tmp_path / "out/a.png") == ~SOME * 255).all()
    assert "left out: 1" in str(said)
    assert "no sample has a Segmentation field 'third'" in faults(folder, tmp_path / "none", annotator="third")


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        ({}, "neither mask nor mask_path"),
        ({"mask": 3}, "its mask is 3, not a text"),
        ({"mask": "?"}, "not an array as FiftyOne writes it"),
        ({"mask": base64.b64encode(b"x").decode()}, "its mask ends too early"),
        ({"mask": base64.b64encode(b"xyz").decode()}, "not an array as FiftyOne writes it"),
        ({"mask": base64.b64encode(zlib.compress(b"x" * 300)).decode()}, "not an array as FiftyOne writes it"),
        ({"mask": serialized(SOME)[:40]}, "its mask"),
        ({"mask": serialized(np.zeros((2, 3, 3), np.uint8))}, "an array of shape (2, 3, 3)"),
        ({"mask": serialized(np.zeros((2, 3)))}, "of shape (2, 3) and type float64"),
        ({"mask": serialized(np.full((2, 3), -1))}, "holds -1 to -1"),
        ({"mask": serialized(np.full((2, 3), 70_000))}, "holds 70000 to 70000"),
        (
            {"mask": serialized(np.array([[{}]], object), save=lambda file, array: np.save(file, array, allow_pickle=True))},
            "not an array as",
        ),
        ({"_cls": "Heatmap", "map": "x"}, "is of the kind 'Heatmap', not Segmentation"),
        ({"mask_path": 3}, "its mask_path is 3, not a text"),
        ({"mask_path": "none.png"}, "there is no such file"),
    ],
)
def test_broken_masks_of_fiftyone_are_named(mask, complaint, tmp_path):
    samples = [sample(mask), sample({"mask": serialized(SOME)}, name="b.png")]
    said = faults(fiftyone_folder(tmp_path / "d", samples), tmp_path / "out", annotator="ground_truth")
    assert complaint in said
    assert "sample no. 1" in said


def test_a_mask_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pixeltrust.formats.fiftyone.MAX_PIXELS", 10_000)
    content = base64.b64encode(zlib.compress(b"\0" * 20_000)).decode()
    assert "larger than" in faults(fiftyone_folder(tmp_path / "d", [sample({"mask": content})]), tmp_path / "out")


# --- audits


@pytest.fixture
def audit(lesions, tmp_path):
    """An audit of three of the lesions, the worst first; the proposed mask is the given one upside down."""
    folder = tmp_path / "audit"
    (folder / "mended").mkdir(parents=True)
    how = {"weights": "last", "classes": 1, "ignore_label": None, "channels": 3, "tilt": (0.0, 0.0), "seconds": 1.0}
    (folder / "audit.json").write_text(AuditRecord(data=str(lesions), run="/run", **how).text())
    rows = []
    for rank, identity in enumerate(("Läsion 1", "007", "a"), 1):
        given_mask = lesions / "noisy" / f"{identity}.png"
        write_png(folder / "mended" / f"{identity}.png", read_labels(given_mask)[::-1].copy())
        share = "" if identity == "007" else 0.5
        image = lesions / "images" / f"{identity}.png"
        rows.append({"rank": rank, "id": identity, "image": image, "mask": given_mask, "agreement": rank / 4, "doubtful_share": share})
    table = pd.DataFrame(rows).assign(evidence="network")
    table[[name for name in CASE_NUMBERS if name not in table]] = 1
    table.to_csv(folder / "cases.csv", index=False)
    return folder


def test_fiftyone_gets_of_an_audit_both_masks_and_the_agreement_to_sort_by(audit, lesions, tmp_path):
    run(audit, tmp_path / "out", to="fiftyone", labels=["lesion"])
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert [(one["pixeltrust_id"], one["agreement"], one["rank"]) for one in samples] == [
        ("Läsion 1", 0.25, 1),
        ("007", 0.5, 2),
        ("a", 0.75, 3),
    ]
    assert all(Path(one["filepath"]).is_file() for one in samples)
    assert "doubtful_share" not in samples[1]
    for field, turn in (("given", 1), ("proposed", -1)):
        run(tmp_path / "out", tmp_path / field, annotator=field)
        for identity in ("Läsion 1", "007", "a"):
            given_mask = read_labels(lesions / "noisy" / f"{identity}.png")
            assert (read_labels(tmp_path / field / f"{identity}.png") == given_mask[::turn]).all()


def test_label_studio_gets_of_an_audit_both_masks_as_predictions_with_a_score(audit, lesions, tmp_path):
    said = run(audit, tmp_path / "a.json", to="label-studio", labels=["<nevus>"])
    tasks = json.loads((tmp_path / "a.json").read_text())
    assert [one["data"]["agreement"] for one in tasks] == [0.25, 0.5, 0.75]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=images/L%C3%A4sion%201.png"
    assert [(guess["model_version"], guess["score"]) for guess in tasks[2]["predictions"]] == [("given", 0.75), ("proposed", 0.75)]
    assert '<Label value="&lt;nevus&gt;"/>' in str(said)
    run(tmp_path / "a.json", tmp_path / "given", annotator="given")
    assert (read_labels(tmp_path / "given/a.png") == read_labels(lesions / "noisy/a.png")).all()


@pytest.mark.parametrize("to", ["coco", "cvat", "label-studio", "fiftyone"])
def test_cases_of_a_table_are_told_apart_where_their_images_have_one_name(audit, lesions, tmp_path, to):
    table = pd.read_csv(audit / "cases.csv", dtype=str)
    for row, identity in enumerate(table["id"]):
        image = tmp_path / "scans" / identity / "image.png"
        image.parent.mkdir(parents=True)
        shutil.copy(table["image"][row], image)
        table.loc[row, "image"] = str(image)
    table.to_csv(audit / "cases.csv", index=False)
    out = tmp_path / ("out" if to == "fiftyone" else "out.xml" if to == "cvat" else "out.json")
    run(audit, out, to=to)
    run(out, tmp_path / "png", annotator="proposed" if to in ("label-studio", "fiftyone") else None)
    for path in (audit / "mended").iterdir():
        assert (read_labels(tmp_path / "png" / path.name) == read_labels(path)).all()


def test_coco_gets_the_agreement_as_score_and_png_the_proposed_masks(audit, tmp_path):
    run(audit, tmp_path / "a.json", to="coco")
    assert [one["score"] for one in json.loads((tmp_path / "a.json").read_text())["annotations"]] == [0.25, 0.75]
    run(audit, tmp_path / "png")
    for path in (audit / "mended").iterdir():
        assert (read_labels(tmp_path / "png" / path.name) == read_labels(path)).all()


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("agreement", "nan", "between 0 and 1"),
        ("agreement", "x", "row 2"),
        ("rank", "1.5", "row 2"),
        ("id", "../x", "row 2: id '../x'"),
    ],
)
def test_broken_tables_of_an_audit_are_named(column, value, complaint, audit, tmp_path):
    table = pd.read_csv(audit / "cases.csv", dtype=str, keep_default_na=False)
    table.loc[0, column] = value
    table.to_csv(audit / "cases.csv", index=False)
    said = faults(audit, tmp_path / "out")
    assert complaint in said
    assert "cases.csv, row 2" in said


def test_an_audit_of_another_format_is_refused(audit, tmp_path):
    written(audit / "audit.json", {"format": 2, "classes": 1})
    assert "not an audit of format 1" in faults(audit, tmp_path / "out")


# --- what is asked, and where it goes


def test_images_of_another_size_and_masks_without_an_image_are_faults(lesions, tmp_path):
    run(lesions / "noisy", tmp_path / "a.json", to="coco")
    write_png(lesions / "images/a.png", np.zeros((3, 3, 3), np.uint8))
    (lesions / "images/007.png").unlink()
    assert "3x3 pixels, in " in faults(tmp_path / "a.json", tmp_path / "out", images=lesions / "images")
    said = faults(lesions / "noisy", tmp_path / "b.json", to="coco")
    assert "a mask without an image" in said
    assert "17x13 pixels, its image" in said


def test_images_that_only_one_side_has_are_said(lesions, tmp_path):
    (lesions / "noisy/a.png").unlink()
    run(lesions / "noisy", tmp_path / "a.json", to="coco")
    (lesions / "images/007.png").unlink()
    assert "this one is not among them" in faults(tmp_path / "a.json", tmp_path / "out", images=lesions / "images", to="fiftyone")
    said = str(run(tmp_path / "a.json", tmp_path / "out", images=lesions / "images"))
    assert "1 image of a.json not in" in said
    assert f"1 image of {lesions / 'images'} not in a.json: no mask" in said


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"to": "yolo"}, "to: 'yolo' is not one of png"),
        ({"source_format": "yolo"}, "from: 'yolo' is not one of png"),
        ({"source_format": "cvat"}, "is a folder"),
        ({"to": None}, "is a folder of masks already"),
        ({"labels": ["a", "b"]}, "the masks have 1 label, 2 names were given"),
        ({"labels": ["a", "a"]}, "each name once"),
        ({"labels": [""]}, "label '': a text"),
        ({"classes": 0}, "classes: 1 to 254, not 0"),
        ({"annotator": "me"}, "only for Label Studio and FiftyOne, not for PNG folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, complaint, lesions, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        run(lesions / "noisy", tmp_path / "out", **{"to": "coco"} | settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"labels": ["melanoma"]}, "none of melanoma in .*; it has nevus, hair"),
        ({"classes": 2}, "2 are the background and 1 more, but there are 2 labels"),
        ({"ignore_label": 3}, "only for a folder of masks"),
        ({"annotator": "me"}, "only for Label Studio and FiftyOne, not for COCO"),
        ({"source_format": "png"}, "png is a folder"),
        ({"to": "fiftyone"}, "say where they are"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(settings, complaint, tmp_path):
    file = written(tmp_path / "a.json", coco([], categories=("nevus", "hair")))
    with pytest.raises(ConfigError, match=complaint):
        run(file, tmp_path / "out", **settings)


@pytest.mark.parametrize("content", [{}, 3, [{"image_id": 1, "segmentation": []}], {"samples": 3}])
def test_json_of_no_known_kind_is_refused(content, tmp_path):
    assert str(tmp_path / "a.json") in faults(written(tmp_path / "a.json", content), tmp_path / "out")


def test_a_file_of_another_format_than_was_said_is_refused(tmp_path):
    assert "not a COCO file: it is [], not an object" in faults(written(tmp_path / "a.json", []), tmp_path / "out", source_format="coco")
    assert "not a Label Studio file: it is {}, not a list" in faults(
        written(tmp_path / "b.json", {}), tmp_path / "out", source_format="label-studio"
    )
    assert "not a FiftyOne file: it is [], not an object" in faults(
        written(tmp_path / "c.json", []), tmp_path / "out", source_format="fiftyone"
    )


def test_what_is_there_is_not_overwritten(lesions, tmp_path):
    file = written(tmp_path / "a.json", "mine")
    with pytest.raises(RunError, match="exists"):
        run(lesions / "noisy", file, to="coco")
    assert file.read_text() == "mine"
    with pytest.raises(RunError, match="not empty"):
        run(lesions / "noisy", lesions, to="fiftyone")


def test_a_data_folder_is_asked_which_masks_are_meant(lesions, tmp_path):
    assert f"is it {lesions / 'noisy'} that you mean?" in faults(lesions, tmp_path / "a.json", to="coco")


@pytest.mark.parametrize(("to", "module"), [("coco", "pycocotools"), ("cvat", "defusedxml")])
def test_a_missing_library_names_the_extra(to, module, lesions, tmp_path, monkeypatch):
    run(lesions / "noisy", tmp_path / "there", to=to)
    monkeypatch.setitem(sys.modules, module, None)
    source = (lesions / "noisy") if to == "coco" else tmp_path / "there"
    assert "pip install 'pixeltrust[formats]'" in faults(
        source, tmp_path / "out", **({"to": to} if to == "coco" else {"source_format": to})
    )


def test_the_command_converts_and_tells(lesions, tmp_path, run_command):
    code, said, _ = run_command("convert", lesions / "noisy", tmp_path / "a.json", "--to", "coco", "--label", "lesion")
    assert (code, said.splitlines()[:2]) == (
        0,
        [f"{tmp_path / 'a.json'}: 5 masks, 1 of them empty, from png, as coco", "labels: lesion = 1"],
    )
    code, said, _ = run_command("convert", tmp_path / "a.json", tmp_path / "out", "--images", lesions / "images", "--classes", "1")
    assert (code, said.splitlines()[1]) == (0, "labels: lesion = 255 in the files")
    code, _, error = run_command("convert", tmp_path / "none.json", tmp_path / "out2")
    assert (code, error) == (2, f"error: {tmp_path / 'none.json'}: there is no such file or folder\n")


def test_every_command_of_the_page_runs(lesions, audit, tmp_path, monkeypatch, run_command):
    """On files as other tools would have made them, beside lesions/ and audit/."""
    monkeypatch.chdir(tmp_path)
    run(lesions / "noisy", "instances.json", to="coco")
    run(lesions / "noisy", "annotations.xml", to="cvat", labels=["lesion"])
    run(lesions / "noisy", "project-1.json", to="label-studio")
    tasks = json.loads(Path("project-1.json").read_text())
    by = {"completed_by": {"email": "expert@clinic.org"}}
    written(Path("project-1.json"), [one | {"annotations": [one["annotations"][0] | by]} for one in tasks])
    run(lesions / "noisy", "fiftyone-export", to="fiftyone")
    samples = Path("fiftyone-export/samples.json")
    samples.write_text(samples.read_text().replace('"mask":{"_cls"', '"ground_truth":{"_cls"'))
    shutil.move(lesions / "noisy", tmp_path / "noisy")  # the first command makes it anew
    page = (Path(__file__).parents[1] / "docs/reference/formats.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M) for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        code, _, error = run_command(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {error}"


# --- the table of formats ---------------------------------------------------------------------------------------------


def read_signs(source):
    read = Annotations(source.path, ["lesion"])
    for line in source.path.read_text().splitlines():
        name, *rows = line.split()
        mask = np.array([[sign == "#" for sign in row] for row in rows])
        read.pictures.append(Picture(name, name, mask.shape, (Region("lesion", lambda _size, _tally, mask=mask: mask),)))
    return read


def encode_signs(mask, _output):
    return " ".join([mask.id, *("".join(".#"[value] for value in row) for row in mask.labels)])


SIGNS = Format(
    name="signs",
    title="Signs",
    sources=("file",),
    recognises=lambda source: source.path.suffix == ".signs",
    read=read_signs,
    makes="file",
    encode=encode_signs,
    document=lambda encoded, _output: "".join(f"{line}\n" for _, line in encoded),
)


def test_a_format_of_ones_own_is_written_recognised_and_read(tmp_path):
    masks = {"a": drawn(seed=1), "b": drawn(seed=2)}
    noisy = data_folder(tmp_path / "data", masks) / "noisy"
    run(noisy, tmp_path / "there.signs", to="signs", formats=(*FORMATS, SIGNS))
    back = run(tmp_path / "there.signs", tmp_path / "back", formats=(*FORMATS, SIGNS))
    assert (back.source_format, back.masks) == ("signs", 2)
    for identity, mask in masks.items():
        assert (read_labels(tmp_path / "back" / f"{identity}.png") == 255 * mask).all()
    assert "of no known format" in faults(tmp_path / "there.signs", tmp_path / "out")


def test_the_help_of_the_command_lists_the_formats():
    options = inspect.signature(making.convert).parameters
    reads, writes = (options[name].annotation.__metadata__[0].help for name in ("source_format", "to"))
    assert set(re.findall("[a-z0-9-]+", reads)) >= {form.name for form in FORMATS if form.read}
    assert set(re.findall("[a-z0-9-]+", writes)) >= {form.name for form in FORMATS if form.encode}


def test_the_page_lists_the_formats():
    page = (Path(__file__).parents[1] / "docs/reference/formats.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([^|]*) \| `([a-z][a-z0-9-]*)`", page.partition("## Which shapes are drawn")[0], re.M)
    assert listed == [(form.title, form.name) for form in FORMATS]


def test_every_format_is_of_use_and_has_a_name_of_its_own():
    assert len({form.name for form in FORMATS}) == len({form.title for form in FORMATS}) == len(FORMATS)
    for form in FORMATS:
        assert form.read or form.encode
        assert bool(form.read) == bool(form.sources) == bool(form.looks)
        assert bool(form.encode) == bool(form.document) == bool(form.makes)


# --- what other programs wrote ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["coco", "cvat", "fiftyone", "label-studio"])
def test_masks_that_other_programs_wrote_are_read_to_the_pixel(tmp_path, form):
    """By tests/reliability/other_programs.py, with FiftyOne, Label Studio's SDK and Datumaro."""
    masks = other_programs.true_masks()
    other_programs.write_images(masks, tmp_path / "images")
    (kept,) = (path for path in (Path(__file__).parent / "format_files" / form).iterdir() if path.name != "metadata.json")
    source = kept
    if form == "fiftyone":  # as it exports, with the images
        source = tmp_path / "export"
        shutil.copytree(kept.parent, source)
        shutil.copytree(tmp_path / "images", source / "data")
    read = other_programs.read_back(source, form, tmp_path)
    assert read.keys() == masks.keys()
    for one, mask in masks.items():
        np.testing.assert_array_equal(read[one], mask, err_msg=one)
