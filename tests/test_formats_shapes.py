"""What people draw in other programs: every shape becomes a mask, is left out in words, or is refused, and never an empty mask."""

import base64
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixeltrust.data.images import read_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.formats import brushes, shapes
from pixeltrust.formats.annotations import Tally
from pixeltrust.formats.convert import convert
from pixeltrust.formats.names import id_of
from pixeltrust.plumbing.errors import DataError

SIZE = (48, 64)
WHOLE = {"original_width": 64, "original_height": 48, "image_rotation": 0}
SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]
IN_PERCENT = [[x / 0.64, y / 0.48] for x, y in SQUARE]


def run(source, out, **rest):
    return convert(Path(source), Path(out), show_progress=False, **rest)


def refusal(source, out, **rest):
    with pytest.raises(DataError) as raised:
        run(source, out, **rest)
    assert not Path(out).exists()
    return str(raised.value)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def images(folder, *names, size=SIZE):
    folder.mkdir(exist_ok=True)
    for name in names:
        write_png(folder / f"{name}.png", np.zeros((*size, 3), np.uint8))
    return folder


def names(folder):
    return sorted(path.stem for path in folder.iterdir())


def area(path):
    return int((read_labels(path) > 0).sum())


def square():
    mask = np.zeros(SIZE, bool)
    mask[10:30, 10:30] = True
    return mask


def as_png(pixels):
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="PNG")
        return file.getvalue()


def serialized(array):
    with io.BytesIO() as file:
        np.save(file, array)
        return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}


# --- the shapes themselves


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, -60, 400])
def test_an_ellipse_holds_the_pixels_whose_centres_its_equation_holds(degrees):
    mask = shapes.fill_ellipse((30.2, 22.7), (15, 6), SIZE, Tally(), degrees=degrees)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    turn = math.radians(degrees)  # clockwise on the screen, where y goes down
    along = (x - 30.2) * math.cos(turn) + (y - 22.7) * math.sin(turn)
    across = (y - 22.7) * math.cos(turn) - (x - 30.2) * math.sin(turn)
    assert (mask == ((along / 15) ** 2 + (across / 6) ** 2 < 1)).all()


@pytest.mark.parametrize("degrees", [30, 90, 135, -60])
@pytest.mark.parametrize("pivot", [0, 0.5])
def test_a_turned_box_holds_the_pixels_that_turned_back_lie_in_it(degrees, pivot):
    mask = shapes.fill_box((26, 20), (14, 8), SIZE, Tally(), degrees=degrees, pivot=pivot)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    turn, middle_x, middle_y = math.radians(degrees), 26 + pivot * 14, 20 + pivot * 8
    along = (x - middle_x) * math.cos(turn) + (y - middle_y) * math.sin(turn) + middle_x
    across = (y - middle_y) * math.cos(turn) - (x - middle_x) * math.sin(turn) + middle_y
    inside = (along > 26) & (along < 40) & (across > 20) & (across < 28)
    assert (mask ^ inside).sum() <= 22  # half the pixels on its edges, which pycocotools rounds
    assert mask.sum() == pytest.approx(112, abs=12)


def test_a_box_of_whole_pixels_is_those_pixels():
    mask = shapes.fill_box((10, 10), (20, 20), SIZE, Tally())
    assert (mask == square()).all()


def test_a_bitmap_is_stretched_to_its_place_and_clipped():
    found = Tally()
    mask = shapes.place_bitmap(np.array([[True, False], [False, True]]), (-2, 0, 2, 4), (4, 4), found)
    assert mask.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert dict(found) == {"masks that reach beyond their image, clipped": 1}


@pytest.mark.parametrize(
    "draw",
    [
        lambda found: shapes.fill_box((3, 3), (0, 5), SIZE, found),
        lambda found: shapes.fill_box((3.1, 3.1), (0.2, 0.2), SIZE, found),
        lambda found: shapes.fill_box((100, 3), (5, 5), SIZE, found),
        lambda found: shapes.fill_ellipse((3, 3), (0, 5), SIZE, found),
        lambda found: shapes.fill_ellipse((-30, 3), (5, 5), SIZE, found),
        lambda found: shapes.fill_polygon([[[3, 3], [4, 4]]], SIZE, found),
        lambda found: shapes.fill_polygon([[[3.1, 3.1], [3.2, 3.1], [3.2, 3.2]]], SIZE, found),
        lambda found: shapes.place_bitmap(np.ones((2, 2), bool), (70, 3, 72, 5), SIZE, found),
        lambda found: shapes.place_bitmap(np.ones((2, 2), bool), (7, 3, 7, 5), SIZE, found),
    ],
)
def test_a_shape_without_a_pixel_is_left_out_and_counted(draw):
    found = Tally()
    assert draw(found) is None
    assert any("left out" in what for what in found)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: shapes.fill_box((1e9, 3), (5, 5), SIZE, Tally()),
        lambda: shapes.fill_ellipse((3, 3), (1e9, 5), SIZE, Tally(), degrees=30),
    ],
)
def test_shapes_far_beyond_the_image_are_refused(draw):
    with pytest.raises(DataError, match="far outside the image of 64x48 pixels"):
        draw()


# --- COCO


def coco(annotations, categories=({"id": 1, "name": "lesion"},), files=("a.png",), size=SIZE):
    return {
        "images": [{"id": place, "file_name": name, "height": size[0], "width": size[1]} for place, name in enumerate(files, 1)],
        "categories": list(categories),
        "annotations": [{"id": place, "image_id": 1, "category_id": 1} | one for place, one in enumerate(annotations, 1)],
    }


FLAT = [[value for point in SQUARE for value in point]]


@pytest.mark.parametrize("segmentation", [{}, {"segmentation": []}, {"segmentation": None}, {"segmentation": [[]]}, {"segmentation": {}}])
def test_a_coco_annotation_without_an_outline_is_drawn_as_its_box(segmentation, tmp_path):
    said = run(written(tmp_path / "a.json", coco([{"bbox": [10, 10, 20, 20]} | segmentation])), tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == square() * 255).all()
    assert "annotations without an outline, whose box is drawn: 1" in str(said)


def test_an_outline_counts_before_the_box(tmp_path):
    run(written(tmp_path / "a.json", coco([{"bbox": [0, 0, 60, 40], "segmentation": FLAT}])), tmp_path / "out")
    assert area(tmp_path / "out/a.png") == 400


def test_a_rotated_box_of_cvats_coco_is_turned_about_its_middle(tmp_path):
    turned = {"bbox": [10, 10, 40, 10], "segmentation": [], "attributes": {"occluded": False, "rotation": 90.0}}
    run(written(tmp_path / "a.json", coco([turned])), tmp_path / "out")
    rows, columns = np.nonzero(read_labels(tmp_path / "out/a.png"))
    assert (rows.min(), columns.min(), columns.max()) == (0, 25, 34)


@pytest.mark.parametrize("box", [[10, 10, 20], ["1", 1, 2, 2], [1, 1, float("nan"), 3], [1, 1, 10**400, 3], 7, {"x": 1}])
def test_broken_boxes_of_coco_are_named(box, tmp_path):
    said = refusal(written(tmp_path / "a.json", coco([{"bbox": box}])), tmp_path / "out")
    assert "annotation 1: its bbox" in said
    assert "4 finite numbers needed" in said


@pytest.mark.parametrize(
    "nothing", [{}, {"keypoints": [1, 1, 2], "num_keypoints": 1}, {"bbox": [5, 5, 0, 0]}, {"segmentation": [[0, 0, 5, 5]]}]
)
def test_an_image_whose_annotations_are_all_left_out_gets_no_mask(nothing, tmp_path):
    content = coco([nothing, {"image_id": 2, "segmentation": FLAT}], files=("a.png", "b.png", "c.png"))
    said = str(run(written(tmp_path / "a.json", content), tmp_path / "out"))
    assert names(tmp_path / "out") == ["b", "c"]
    assert "images whose annotations were all left out, which get no mask: 1: a.png" in said
    assert "images without annotations, which get an empty mask: 1" in said
    assert "left out: 1" in said


def test_what_is_left_out_beside_a_shape_is_counted_and_the_shape_drawn(tmp_path):
    said = str(run(written(tmp_path / "a.json", coco([{}, {"segmentation": FLAT}])), tmp_path / "out"))
    assert area(tmp_path / "out/a.png") == 400
    assert "neither a segmentation nor a box, left out: 1" in said


@pytest.mark.parametrize("to", ["png", "coco", "cvat", "label-studio"])
def test_where_no_image_gets_a_mask_nothing_is_written(to, tmp_path):
    said = refusal(written(tmp_path / "a.json", coco([{}])), tmp_path / "out", to=to)
    assert "a.json: none of its images gets a mask" in said
    assert "neither a segmentation nor a box, left out: 1" in said


def test_what_is_left_out_of_a_label_that_was_not_asked_for_leaves_the_mask_empty(tmp_path):
    content = coco([{"category_id": 2}], categories=[{"id": 1, "name": "lesion"}, {"id": 2, "name": "hair"}])
    file = written(tmp_path / "a.json", content)
    assert run(file, tmp_path / "out", labels=["lesion"]).empty == 1
    assert "none of its images gets a mask" in refusal(file, tmp_path / "none", labels=["hair"])


@pytest.mark.parametrize("root", ["lesion", "skin-x1"])
def test_the_root_that_roboflow_puts_above_the_categories_takes_no_label(root, tmp_path):
    categories = [{"id": 0, "name": root, "supercategory": "none"}, {"id": 1, "name": "lesion", "supercategory": root}]
    said = run(written(tmp_path / "a.json", coco([{"segmentation": FLAT}], categories)), tmp_path / "out")
    assert dict(said.labels) == {"lesion": 1}
    assert (read_labels(tmp_path / "out/a.png") == square() * 255).all()
    assert f"take no label ({root}, id 0): 1" in str(said)


def test_a_category_of_id_0_with_annotations_is_a_label(tmp_path):
    categories = [{"id": 0, "name": "hair", "supercategory": "none"}, {"id": 1, "name": "lesion", "supercategory": "none"}]
    said = run(written(tmp_path / "a.json", coco([{"category_id": 0, "segmentation": FLAT}], categories)), tmp_path / "out")
    assert dict(said.labels) == {"hair": 1, "lesion": 2}


@pytest.mark.parametrize("ending", [".png", ""])
def test_an_id_with_a_point_is_kept_whole(ending, tmp_path):
    folder = images(tmp_path / "images", "img.v2")
    file = written(tmp_path / "a.json", coco([{"segmentation": FLAT}], files=(f"set/img.v2{ending}",)))
    said = run(file, tmp_path / "out", images=folder)
    assert names(tmp_path / "out") == ["img.v2"]
    assert "not in" not in str(said)


@pytest.mark.parametrize(("name", "identity"), [("a.webp", "a"), ("a.b.dcm", "a.b"), ("img.v2", "img.v2"), ("a.NII.GZ", "a"), ("a", "a")])
def test_only_the_endings_of_images_are_no_part_of_an_id(name, identity):
    assert id_of(name) == identity


def test_an_image_of_another_ending_is_found_by_the_rest_of_its_name(tmp_path):
    file = written(tmp_path / "a.json", coco([{"segmentation": FLAT}], files=("a.czi",)))
    assert "another ending: 1" in str(run(file, tmp_path / "out", images=images(tmp_path / "images", "a")))
    assert names(tmp_path / "out") == ["a"]


def test_a_coco_export_of_label_studio_finds_its_images_without_the_prefix_of_an_upload(tmp_path):
    file = written(tmp_path / "a.json", coco([{"segmentation": FLAT}], files=("..\\..\\media\\upload\\4\\0a1b2c3d-a.png",)))
    run(file, tmp_path / "out", images=images(tmp_path / "images", "a"))
    assert names(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "PNG"])
def test_a_size_from_before_the_exif_turn_is_refused_with_the_reason(form, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(folder / f"a.{form.lower()}", format=form, exif=exif)
    file = written(tmp_path / "a.json", coco([{"segmentation": FLAT}], files=(f"a.{form.lower()}",)))
    said = refusal(file, tmp_path / "out", images=folder)
    assert "48x64 pixels" in said
    assert "its EXIF orientation turns it" in said
    assert "swap width and height" in said
    plain = images(tmp_path / "plain", "a", size=SIZE[::-1])
    assert "EXIF" not in refusal(file, tmp_path / "out", images=plain)


# --- CVAT


def cvat(shapes, *others, labels="<label><name>lesion</name></label>"):
    pictures = "".join(
        f'<image id="{place}" name="{name}.png" width="64" height="48">{inside}</image>'
        for place, (name, inside) in enumerate([("a", shapes), *others])
    )
    return f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>{pictures}</annotations>"


def test_boxes_and_ellipses_of_cvat_are_drawn(tmp_path):
    text = cvat(
        '<box label="lesion" xtl="10.0" ytl="10.0" xbr="30.0" ybr="30.0" z_order="0"/>',
        ("b", '<box label="lesion" xtl="10" ytl="10" xbr="50" ybr="20" rotation="90" z_order="0"/>'),
        ("c", '<ellipse label="lesion" cx="32.0" cy="24.0" rx="10.0" ry="8.0" z_order="0"/>'),
        ("d", '<ellipse label="lesion" cx="32" cy="24" rx="20" ry="5" rotation="90" z_order="0"/>'),
    )
    run(written(tmp_path / "a.xml", text), tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == square() * 255).all()
    _, columns = np.nonzero(read_labels(tmp_path / "out/b.png"))
    assert (columns.min(), columns.max()) == (25, 34)
    assert area(tmp_path / "out/c.png") == pytest.approx(math.pi * 80, rel=0.03)
    rows, columns = np.nonzero(read_labels(tmp_path / "out/d.png"))
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (40, 10)


@pytest.mark.parametrize(
    "shape",
    [
        '<points label="lesion" points="1,1;2,2"/>',
        '<polyline label="lesion" points="1,1;20,20;30,5"/>',
        '<cuboid label="lesion" xtl1="1"/>',
        '<skeleton label="lesion"><points label="eye" points="1,1"/></skeleton>',
        '<tag label="lesion"/>',
        '<mask label="lesion" rle="0,6" left="80" top="3" width="3" height="2"/>',
    ],
)
def test_an_image_of_cvat_with_nothing_that_is_drawn_gets_no_mask(shape, tmp_path):
    other = ("b", '<box label="lesion" xtl="10" ytl="10" xbr="30" ybr="30"/>')
    said = str(run(written(tmp_path / "a.xml", cvat(shape, other, ("c", ""))), tmp_path / "out"))
    assert names(tmp_path / "out") == ["b", "c"]
    assert "which get no mask: 1: a.png" in said
    assert "left out: 1" in said
    assert "none of its images gets a mask" in refusal(written(tmp_path / "b.xml", cvat(shape)), tmp_path / "none")


def test_labels_of_cvat_that_no_mask_can_have_take_no_number(tmp_path):
    labels = "".join(
        f"<label><name>{name}</name><type>{kind}</type>{rest}</label>"
        for name, kind, rest in [
            ("good", "tag", ""),
            ("lesion", "any", ""),
            ("face", "skeleton", ""),
            ("eye", "points", "<parent>face</parent>"),
        ]
    )
    said = run(
        written(tmp_path / "a.xml", cvat(f'<polygon label="lesion" points="{";".join(f"{x},{y}" for x, y in SQUARE)}"/>', labels=labels)),
        tmp_path / "out",
    )
    assert dict(said.labels) == {"lesion": 1}
    assert set(np.unique(read_labels(tmp_path / "out/a.png"))) == {0, 255}


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ('<box label="lesion" xtl="x" ytl="1" xbr="2" ybr="2"/>', "xtl = 'x': a number is needed"),
        ('<box label="lesion" ytl="1" xbr="2" ybr="2"/>', "xtl = None: a number is needed"),
        ('<box label="lesion" xtl="0" ytl="1" xbr="2" ybr="2" rotation="inf"/>', "rotation = 'inf': it is not finite"),
        ('<ellipse label="lesion" cx="1" cy="nan" rx="2" ry="2"/>', "cy = 'nan': it is not finite"),
        ('<ellipse label="lesion" cx="1" cy="1" rx="2e99" ry="2"/>', "far outside"),
        ('<ellipse cx="1" cy="1" rx="2" ry="2"/>', "it has no label"),
    ],
)
def test_broken_shapes_of_cvat_are_named(shape, complaint, tmp_path):
    said = refusal(written(tmp_path / "a.xml", cvat(shape)), tmp_path / "out")
    assert complaint in said
    assert f"{tmp_path / 'a.xml'}, image 'a.png', {shape[1 : shape.index(' ')]} no. 1" in said


# --- Label Studio


def region(kind, value, label="lesion", **rest):
    labels = {} if label is None else {f"{kind}labels": [label]}
    return {"type": f"{kind}labels", "to_name": "image", "value": value | labels} | WHOLE | rest


def polygon(points=IN_PERCENT, **rest):
    return region("polygon", {"points": points, "closed": True}, **rest)


def annotated(results, **rest):
    return {"completed_by": 1, "was_cancelled": False, "result": results} | rest


def task(results, image="/data/upload/1/a.png", **rest):
    return {"id": 5, "data": {"image": image}, "annotations": [annotated(results)], "predictions": []} | rest


def brush_of_alpha(mask, alpha):
    """Bytes as Label Studio packs them, with this alpha (and 0 in red, green and blue)."""
    values = np.zeros((mask.size, 4), np.uint8)
    values[:, 3] = mask.reshape(-1) * alpha
    bits = f"{values.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += f"011{values.size - 1:016b}" + "".join(f"{value:08b}" for value in values.reshape(-1))
    return [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]


@pytest.mark.parametrize("alpha", [1, 100, 255])
def test_a_brush_counts_from_the_faintest_stroke_on(alpha, tmp_path):
    result = region("brush", {"format": "rle", "rle": brush_of_alpha(square(), alpha)})
    run(written(tmp_path / "a.json", [task([result])]), tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == square() * 255).all()


def bitmask(pixels):
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(as_png(pixels)).decode()}


def black_where(mask, alpha=255):
    return np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask * np.uint8(alpha)])


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("rectangle", {"x": 10 / 0.64, "y": 10 / 0.48, "width": 20 / 0.64, "height": 20 / 0.48, "rotation": 0}, 400),
        ("rectangle", {"x": 10 / 0.64, "y": 10 / 0.48, "width": 20 / 0.64, "height": 20 / 0.48}, 400),
        ("ellipse", {"x": 50, "y": 50, "radiusX": 10 / 0.64, "radiusY": 8 / 0.48, "rotation": 0}, math.pi * 80),
        ("bitmask", bitmask(black_where(square())), 400),
        ("bitmask", bitmask(black_where(square(), alpha=1)), 400),
    ],
)
def test_the_shapes_of_label_studio_are_drawn(kind, value, expected, tmp_path):
    run(written(tmp_path / "a.json", [task([region(kind, value)])]), tmp_path / "out")
    assert area(tmp_path / "out/a.png") == pytest.approx(expected, rel=0.03)


def test_a_rectangle_of_label_studio_is_turned_about_its_upper_left_corner(tmp_path):
    value = {"x": 30 / 0.64, "y": 10 / 0.48, "width": 20 / 0.64, "height": 5 / 0.48, "rotation": 90}
    run(written(tmp_path / "a.json", [task([region("rectangle", value)])]), tmp_path / "out")
    rows, columns = np.nonzero(read_labels(tmp_path / "out/a.png"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 25, 29)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"imageDataURL": 3}, "its imageDataURL is 3, not a text"),
        ({"imageDataURL": "data:image/png;base64,?"}, "is not a PNG in base64"),
        ({"imageDataURL": "https://host/a.png"}, "is not a PNG in base64"),
        ({"imageDataURL": "data:image/png;base64,AAAA"}, "it is not a PNG that can be read"),
        (bitmask(np.zeros((*SIZE, 3), np.uint8)), "it has no transparency"),
        (bitmask(np.zeros((20_000, 2, 4), np.uint8)), "it has 2x20000 pixels, its image 64x48"),
    ],
)
def test_broken_bitmasks_are_named(value, complaint, tmp_path):
    said = refusal(written(tmp_path / "a.json", [task([region("bitmask", value)])]), tmp_path / "out")
    assert complaint in said
    assert "task 5, region no. 1" in said


@pytest.mark.parametrize(
    "value",
    [{"x": 1, "y": 1, "width": 3}, {"x": "1", "y": 1, "width": 3, "height": 4}, {"x": 1, "y": 1, "width": 3, "height": 4, "rotation": "x"}],
)
def test_broken_rectangles_are_named(value, tmp_path):
    said = refusal(written(tmp_path / "a.json", [task([region("rectangle", value)])]), tmp_path / "out")
    assert "task 5, region no. 1" in said
    assert "needed" in said


@pytest.mark.parametrize(
    "result",
    [
        region("keypoint", {"x": 1, "y": 1, "width": 1}),
        region("polygon", {"points": IN_PERCENT, "closed": False}),
        region("vector", {"vertices": []}),
        region("polygon", {"points": IN_PERCENT[:2]}),
        {"type": "videorectangle", "to_name": "image", "value": {"sequence": [], "labels": ["lesion"]}},
        {"type": "choices", "from_name": "quality", "to_name": "image", "value": {"choices": ["good"]}},
    ],
)
def test_a_task_with_nothing_that_is_drawn_gets_no_mask(result, tmp_path):
    file = written(tmp_path / "a.json", [task([result]), task([polygon()], image="b.png", id=6)])
    said = str(run(file, tmp_path / "out", images=images(tmp_path / "images", "a", "b")))
    assert names(tmp_path / "out") == ["b"]
    assert "which get no mask: 1: a.png" in said
    assert "left out: 1" in said


def test_answers_about_the_image_do_not_count_where_a_label_is_asked_for(tmp_path):
    answer = {"type": "choices", "to_name": "image", "value": {"choices": ["good"]}}
    file = written(tmp_path / "a.json", [task([answer]), task([polygon()], image="b.png", id=6)])
    run(file, tmp_path / "out", images=images(tmp_path / "images", "a", "b"), labels=["lesion"])
    assert area(tmp_path / "out/a.png") == 0


def test_only_a_task_that_was_submitted_empty_gives_an_empty_mask(tmp_path):
    tasks = [
        task([polygon()], "a.png", id=1),
        task([], "b.png", id=2, annotations=[annotated([], was_cancelled=True)]),
        task([], "c.png", id=3, annotations=[]),
        task([], "d.png", id=4),
        task([], "e.png", id=5, annotations=[], predictions=[{"model_version": "m", "result": [polygon()]}]),
        task([], "f.png", id=6, annotations=[annotated([polygon()], was_cancelled=True)]),
    ]
    folder = images(tmp_path / "images", *"abcdef")
    file = written(tmp_path / "a.json", tasks)
    said = str(run(file, tmp_path / "out", images=folder))
    assert [(name, area(tmp_path / f"out/{name}.png")) for name in names(tmp_path / "out")] == [("a", 400), ("d", 0)]
    assert "images that nobody has annotated, which get no mask: 4: b.png, c.png, e.png, f.png" in said
    assert "tasks that only a model has annotated, left out (--annotator reads a model version): 1" in said
    assert "not in a.json" not in said
    run(file, tmp_path / "model", images=folder, annotator="m")
    assert names(tmp_path / "model") == ["e"]


def test_tasks_that_the_asked_annotator_has_not_seen_get_no_mask(tmp_path):
    tasks = [task([polygon()], "a.png", id=1), task([], "b.png", id=2, annotations=[annotated([polygon()], completed_by=2)])]
    run(written(tmp_path / "a.json", tasks), tmp_path / "out", annotator="2")
    assert names(tmp_path / "out") == ["b"]


def test_the_skipped_task_of_an_image_stands_in_no_ones_way(tmp_path):
    tasks = [task([polygon()], id=1), task([], id=2, annotations=[annotated([], was_cancelled=True)])]
    assert run(written(tmp_path / "a.json", tasks), tmp_path / "out").masks == 1


# Regions as <Polygon> and the like beside <Labels> make them.


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("polygon", {"points": IN_PERCENT, "closed": True}),
        ("brush", {"format": "rle", "rle": brush_of_alpha(square(), 255)}),
        ("magicwand", {"format": "rle", "rle": brush_of_alpha(square(), 255)}),
        ("bitmask", bitmask(black_where(square()))),
        ("rectangle", {"x": 10 / 0.64, "y": 10 / 0.48, "width": 20 / 0.64, "height": 20 / 0.48, "rotation": 0}),
        ("ellipse", {"x": 20 / 0.64, "y": 20 / 0.48, "radiusX": 10 / 0.64, "radiusY": 10 / 0.48, "rotation": 0}),
    ],
)
def test_a_shape_beside_labels_is_one_region_with_its_label(kind, value, tmp_path):
    shape = {"id": "r1", "type": kind, "from_name": "shape", "to_name": "image", "value": value} | WHOLE
    label = shape | {"type": "labels", "from_name": "labels", "value": value | {"labels": ["lesion"]}}
    note = shape | {"type": "textarea", "from_name": "note", "value": value | {"text": ["odd"]}}
    for place, results in enumerate(([shape, label], [label, shape], [shape, note, label])):
        said = run(written(tmp_path / f"{place}.json", [task(results)]), tmp_path / f"out{place}")
        assert dict(said.labels) == {"lesion": 1}
        assert area(tmp_path / f"out{place}/a.png") == pytest.approx(400 if kind != "ellipse" else math.pi * 100, rel=0.03)
    assert "it has no label" in refusal(written(tmp_path / "b.json", [task([shape])]), tmp_path / "none")


def test_two_shapes_that_share_an_id_are_two_regions(tmp_path):
    other = [[x + 40, y] for x, y in IN_PERCENT]
    run(written(tmp_path / "a.json", [task([polygon(id="r"), polygon(other, id="r", label="lesion")])]), tmp_path / "out")
    assert area(tmp_path / "out/a.png") > 600


def test_labels_of_two_controls_of_a_region_are_counted(tmp_path):
    shape = {"id": "r1", "type": "polygon", "to_name": "image", "value": {"points": IN_PERCENT}} | WHOLE
    labels = [shape | {"type": "labels", "value": {"points": IN_PERCENT, "labels": [name]}} for name in ("lesion", "severe")]
    said = run(written(tmp_path / "a.json", [task([shape, *labels])]), tmp_path / "out")
    assert dict(said.labels) == {"lesion": 1}
    assert "regions of several labels, of which the first was taken: 1" in str(said)


# Several images in a task.


def of_two(first, second, columns=("left", "right")):
    small = [[x, y] for x, y in IN_PERCENT[:3]]
    data = dict(zip(columns, ["/data/upload/1/before.png", "/data/upload/1/after.png"], strict=True))
    return {"id": 1, "data": data, "annotations": [annotated([polygon(to_name=first, id="1"), polygon(small, to_name=second, id="2")])]}


@pytest.mark.parametrize("tags", [("left", "right"), ("img-left", "img-right"), ("image_left", "RIGHT")])
def test_two_images_of_a_task_keep_their_own_regions(tags, tmp_path):
    run(written(tmp_path / "a.json", [of_two(*tags)]), tmp_path / "out")
    assert names(tmp_path / "out") == ["after", "before"]
    assert area(tmp_path / "out/before.png") == 400
    assert area(tmp_path / "out/after.png") < 300


@pytest.mark.parametrize("tags", [("img1", "img2"), ("left", "img2"), ("left-a", "left-b")])
def test_images_of_a_task_that_cannot_be_told_apart_are_refused(tags, tmp_path):
    said = refusal(written(tmp_path / "a.json", [of_two(*tags)]), tmp_path / "out")
    assert f"task 1: regions are on {', '.join(tags)}" in said
    assert "give the columns the names of the tags" in said


def test_both_images_of_a_task_that_was_submitted_empty_get_an_empty_mask(tmp_path):
    empty = {"id": 2, "data": {"left": "c.png", "right": "d.png"}, "annotations": [annotated([])]}
    run(
        written(tmp_path / "a.json", [of_two("left", "right"), empty]),
        tmp_path / "out",
        images=images(tmp_path / "i", "before", "after", "c", "d"),
    )
    assert names(tmp_path / "out") == ["after", "before", "c", "d"]


def test_a_list_of_images_has_its_regions_by_their_number(tmp_path):
    pages = {"id": 1, "data": {"pages": ["s3://b/one.png", "s3://b/two.png", "s3://b/three.png"]}}
    results = [polygon(item_index=1, id="1", to_name="image"), region("keypoint", {"x": 1, "y": 1}, item_index=2)]
    folder = images(tmp_path / "images", "one", "two", "three")
    said = run(written(tmp_path / "a.json", [pages | {"annotations": [annotated(results)]}]), tmp_path / "out", images=folder)
    assert [(name, area(tmp_path / f"out/{name}.png")) for name in names(tmp_path / "out")] == [("one", 0), ("two", 400)]
    assert "which get no mask: 1: three.png" in str(said)
    wrong = [pages | {"annotations": [annotated([polygon(item_index=3)])]}]
    assert "item 3, and the task has no such image" in refusal(written(tmp_path / "b.json", wrong), tmp_path / "none")


# Names.


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://bucket/set/lesion #3.png", "lesion #3"),
        ("gs://bucket/set/what?.png", "what?"),
        ("s3://bucket/50%25.png", "50%25"),
        ("s3://bucket/a.png?versionId=3", "a"),
        ("azure-blob://container/x/img.v2.png", "img.v2"),
        ("s3://bucket/x/img.v2", "img.v2"),
        ("https://host/x/lesion%20%233.png?key=1", "lesion #3"),
        ("https://host/x/what%3F.png", "what?"),
        ("https://host/x/a.png#part", "a"),
        ("https://host/x/lesion #3.png", "lesion #3"),
        ("/data/upload/1/lesion #3.png", "lesion #3"),
        ("/data/upload/1/what?.png", "what?"),
        ("/data/local-files/?d=some%20folder/lesion%20%233.png", "lesion #3"),
        ("/data/local-files/?d=folder/lesion #3.png", "lesion #3"),
        ("/data/local-files/?d=folder/img.v2", "img.v2"),
        ("/data/local-files/?d=folder/a%2Bb%26c.png", "a+b&c"),
        ("/tasks/1/resolve/?fileuri=" + base64.urlsafe_b64encode(b"s3://bucket/set/lesion #3.png").decode(), "lesion #3"),
        ("/tasks/1/resolve/?fileuri=" + base64.urlsafe_b64encode("gs://b/Läsion ÿ?.png".encode()).decode().rstrip("="), "Läsion ÿ?"),
        ("https://host/projects/1/presign/?fileuri=s3%3A%2F%2Fbucket%2Fa%20b.png", "a b"),
        ("/tasks/1/resolve/?fileuri=" + base64.b64encode(b"s3://b/>>>???.png").decode(), ">>>???"),
    ],
)
def test_names_within_addresses_are_kept_whole(address, name, tmp_path):
    folder = images(tmp_path / "images", name)
    said = run(written(tmp_path / "a.json", [task([polygon()], image=address)]), tmp_path / "out", images=folder)
    assert names(tmp_path / "out") == [name]
    assert "not in" not in str(said)


def test_a_key_with_coded_signs_finds_the_image_of_the_plain_name(tmp_path):
    file = written(tmp_path / "a.json", [task([polygon()], image="s3://bucket/my%20lesion.png")])
    said = run(file, tmp_path / "out", images=images(tmp_path / "images", "my lesion"))
    assert names(tmp_path / "out") == ["my lesion"]
    assert "signs in codes: 1" in str(said)


# --- FiftyOne


def fiftyone(folder, fields, size=SIZE):
    """A sample for each field, a, b, …"""
    folder.mkdir()
    samples = [
        {"filepath": f"data/{name}.png", "metadata": {"_cls": "ImageMetadata", "height": size[0], "width": size[1]}} | field
        for name, field in zip("abcdef", fields, strict=False)
    ]
    written(folder / "samples.json", {"samples": samples})
    return folder


def detections(*entries, name="truth"):
    return {name: {"_cls": "Detections", "detections": [{"_cls": "Detection", "label": "lesion"} | entry for entry in entries]}}


def polylines(*entries):
    return {"truth": {"_cls": "Polylines", "polylines": [{"_cls": "Polyline", "label": "lesion"} | entry for entry in entries]}}


BOX = {"bounding_box": [10 / 64, 10 / 48, 20 / 64, 20 / 48]}
OUTLINE = {"points": [[[x / 64, y / 48] for x, y in SQUARE]]}


def test_detections_of_fiftyone_are_drawn_as_their_mask_or_their_box(tmp_path):
    mask = np.zeros((20, 20), bool)
    mask[5:] = True
    folder = fiftyone(
        tmp_path / "d",
        [
            detections(BOX | {"mask": serialized(mask)}),
            detections(BOX | {"mask_path": "fields/b.png"}),
            detections(BOX),
            detections(BOX | {"mask": serialized(mask[::5, ::5])}),
            detections(),
            {"truth": None},
        ],
    )
    (folder / "fields").mkdir()
    write_png(folder / "fields/b.png", mask * np.uint8(255))
    said = run(folder, tmp_path / "out")
    assert [(name, area(tmp_path / f"out/{name}.png")) for name in names(tmp_path / "out")] == [
        ("a", 300),
        ("b", 300),
        ("c", 400),
        ("d", 300),
        ("e", 0),
    ]
    assert (read_labels(tmp_path / "out/a.png")[15:30, 10:30] == 255).all()
    assert "images that nobody has annotated, which get no mask: 1: f.png" in str(said)


@pytest.mark.parametrize(("closed", "filled"), [(True, False), (False, True), (True, True)])
def test_polylines_of_fiftyone_that_are_closed_or_filled_are_drawn(closed, filled, tmp_path):
    folder = fiftyone(tmp_path / "d", [polylines(OUTLINE | {"closed": closed, "filled": filled})])
    run(folder, tmp_path / "out")
    assert (read_labels(tmp_path / "out/a.png") == square() * 255).all()


def test_fields_of_one_shape_are_drawn(tmp_path):
    one = {"truth": {"_cls": "Detection", "label": "lesion"} | BOX}
    other = {"truth": {"_cls": "Polyline", "label": "lesion", "filled": True} | OUTLINE}
    run(fiftyone(tmp_path / "d", [one, other]), tmp_path / "out")
    assert (area(tmp_path / "out/a.png"), area(tmp_path / "out/b.png")) == (400, 400)


@pytest.mark.parametrize(
    "field",
    [
        polylines(OUTLINE | {"closed": False, "filled": False}),
        polylines({"points3d": [[[0, 0, 0]]], "closed": True}),
        detections({"location": [1, 2, 3], "dimensions": [1, 1, 1]}),
        detections({"bounding_box": [0.1, 0.1, 0, 0.2]}),
    ],
)
def test_samples_with_nothing_that_is_drawn_get_no_mask(field, tmp_path):
    field = {"truth": field["truth"]}
    said = str(run(fiftyone(tmp_path / "d", [field, detections(BOX)]), tmp_path / "out"))
    assert names(tmp_path / "out") == ["b"]
    assert "which get no mask: 1: a.png" in said
    assert "left out: 1" in said


@pytest.mark.parametrize("kind", ["Keypoints", "Heatmap", "Classification"])
def test_a_dataset_without_a_field_that_is_drawn_is_refused(kind, tmp_path):
    said = refusal(fiftyone(tmp_path / "d", [{"truth": {"_cls": kind}}]), tmp_path / "out")
    assert "samples.json: none of its images gets a mask" in said
    assert f"fields of the kind {kind}, left out: 1" in said


def test_of_several_fields_of_shapes_one_must_be_named(tmp_path):
    folder = fiftyone(tmp_path / "d", [detections(BOX) | detections(BOX, name="guess")])
    assert "fields: truth, guess; say which by --annotator NAME" in refusal(folder, tmp_path / "out")
    run(folder, tmp_path / "out", annotator="guess")
    assert area(tmp_path / "out/a.png") == 400


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        (detections({"bounding_box": [1, 2, 3]}), "4 finite numbers needed"),
        (detections(BOX | {"label": None}), "its label None"),
        (detections(BOX | {"mask": serialized(np.zeros((2, 2, 2), np.uint8))}), "an array of shape (2, 2, 2)"),
        (detections(BOX | {"mask_path": "../a.png"}), "leads out of the folder"),
        (detections({"bounding_box": [1e200, 0, 1, 1], "mask": serialized(np.ones((2, 2), bool))}), "not a list of numbers"),
        (detections({"bounding_box": [99, 0, 1, 1], "mask": serialized(np.ones((2, 2), bool))}), "far outside"),
        (polylines({"points": [3], "closed": True}), "an outline is 3, not a list"),
        ({"truth": {"_cls": "Detections", "detections": 3}}, "it is 3, not a list"),
    ],
)
def test_broken_shapes_of_fiftyone_are_named(field, complaint, tmp_path):
    said = refusal(fiftyone(tmp_path / "d", [field]), tmp_path / "out")
    assert complaint in said
    assert "the sample a.png, " in said


def test_a_field_whose_kind_is_no_text_is_refused(tmp_path):
    said = refusal(fiftyone(tmp_path / "d", [{"truth": {"_cls": []}}]), tmp_path / "out", annotator="truth")
    assert "is of the kind [], not Segmentation or Detections" in said


def test_packed_and_faint_brushes_are_one_format():
    assert (brushes.unpack(brush_of_alpha(square(), 255), square().size * 4).reshape(*SIZE, 4)[..., 3] > 0).sum() == 400
