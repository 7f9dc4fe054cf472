"""Every kind of image file is read as the docstrings say, or refused by one DataError that names it."""

import os
import struct
import zlib
from contextlib import suppress

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from examples import examples
from pixeltrust.data.image_files import case_id, image_suffix
from pixeltrust.data.images import media_type, read_header, read_image, read_labels, read_size
from pixeltrust.data.pictures import decode_png, encode_image, write_jpeg, write_png
from pixeltrust.data.resizing import resize_image, resize_labels
from pixeltrust.plumbing.errors import DataError

ORIENTATION = 0x0112
GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
LABELS = GREY % 3
# EXIF orientation n: how the stored picture is to be shown.
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def saved(path, pixels, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def with_palette(labels, palette=(9, 8, 7, 255, 0, 0, 0, 255, 0)):
    picture = Image.fromarray(labels)
    picture.putpalette(palette)  # grey becomes a palette picture of the same numbers
    assert picture.mode == "P"
    return picture


def nifti(path, values, spacing_mm=(1, 1)):
    """A plane (H, W, …) as ITK's programs write a picture: columns to the left, rows to the back."""
    row, column = spacing_mm
    nibabel.save(nibabel.Nifti1Image(values.swapaxes(0, 1), np.diag([-column, -row, 1, 1])), path)
    return path


def png_chunk(name, content=b""):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def refused(read, path, *words):
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for word in words:
        assert word in text


# Names


@pytest.mark.parametrize(
    ("name", "suffix", "identity"),
    [
        ("a.b.nii.gz", ".nii.gz", "a.b"),
        ("scan.v2.PNG", ".png", "scan.v2"),
        ("x.NII.GZ", ".nii.gz", "x"),
        ("x.Jpeg", ".jpeg", "x"),
        ("x.webp", ".webp", "x"),
        ("x.GIF", ".gif", "x"),
        ("x.png.tif", ".tif", "x.png"),
        ("x.gz", None, "x"),
        ("notes.txt", None, "notes"),
        ("png", None, "png"),
    ],
)
def test_the_id_is_the_name_without_the_image_ending(tmp_path, name, suffix, identity):
    assert image_suffix(tmp_path / name) == suffix
    assert case_id(tmp_path / name) == identity


def test_a_name_has_one_id_however_its_accents_are_coded(tmp_path):
    assert case_id(tmp_path / "e\N{COMBINING ACUTE ACCENT}.png") == case_id(tmp_path / "é.png") == "é"


def test_an_id_can_be_written_even_where_the_name_is_no_text(tmp_path):
    assert case_id(tmp_path / os.fsdecode(b"l\xe4sion.png")) == "l\\xe4sion"


def test_names_outside_ascii_and_with_spaces_are_read_and_written(tmp_path):
    path = tmp_path / "läsion 皮膚 №1.png"
    write_png(path, GREY)
    assert read_size(path) == (12, 20)
    assert (read_labels(path) == GREY).all()
    assert case_id(path) == "läsion 皮膚 №1"


# What is read


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp", "A.PNG"])
def test_lossless_colour_keeps_its_values(tmp_path, name):
    path = saved(tmp_path / name, COLOUR)
    assert read_size(path) == (12, 20)
    assert read_image(path).dtype == np.uint8
    assert (read_image(path) == COLOUR).all()


def test_jpeg_is_read_nearly_as_it_was(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 20).astype(np.uint8)[None, :, None], (12, 20, 3))
    path = saved(tmp_path / "a.jpg", np.ascontiguousarray(smooth), quality=95)
    assert np.abs(read_image(path).astype(int) - smooth).max() < 10  # what quality 95 loses of a ramp


def test_grey_becomes_colour_by_repetition_and_colour_grey_by_luma(tmp_path):
    grey, colour = saved(tmp_path / "g.png", GREY), saved(tmp_path / "c.png", COLOUR)
    assert (read_image(grey) == GREY[..., None].repeat(3, -1)).all()
    assert (read_image(grey, channels=1) == GREY[..., None]).all()
    luma = COLOUR @ [0.299, 0.587, 0.114]
    assert np.abs(read_image(colour, channels=1)[..., 0] - luma).max() < 1  # rounding


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_alpha_is_dropped_not_blended(tmp_path, mode, ending):
    picture = Image.fromarray(GREY).convert(mode)
    picture.putalpha(Image.fromarray(255 - GREY))
    path = saved(tmp_path / f"a.{ending}", picture)
    assert (read_image(path) == GREY[..., None]).all()
    assert (read_labels(path) == GREY).all()


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
def test_a_palette_gives_its_colours_as_an_image_and_its_indices_as_labels(tmp_path, transparency):
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(tmp_path / "p.png", with_palette(LABELS), **options)
    assert (read_labels(path) == LABELS).all()
    assert (read_image(path) == np.array([(9, 8, 7), (255, 0, 0), (0, 255, 0)])[LABELS]).all()


@pytest.mark.parametrize("ending", ["bmp", "tif"])
def test_other_palette_files_give_their_indices_too(tmp_path, ending):
    assert (read_labels(saved(tmp_path / f"p.{ending}", with_palette(LABELS))) == LABELS).all()


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_bilevel_files_are_0_and_1_as_labels_and_black_and_white_as_images(tmp_path, ending):
    path = saved(tmp_path / f"b.{ending}", GREY > 99)
    assert (read_labels(path) == (GREY > 99)).all()
    assert read_labels(path).dtype == np.uint8
    assert (read_image(path, channels=1)[..., 0] == 255 * (GREY > 99)).all()


WHITE_FIRST, BLACK_FIRST = (255, 255, 255, 0, 0, 0), (0, 0, 0, 255, 255, 255)


@pytest.mark.parametrize(
    ("ending", "palette"),
    [*((ending, WHITE_FIRST) for ending in ("png", "gif", "tif", "bmp")), ("png", (200, 180, 90, 40, 0, 60)), ("bmp", (9, 9, 9, 0, 0, 9))],
)
@pytest.mark.parametrize("padding", [0, 254])
def test_a_palette_of_two_colours_counts_by_colour_as_a_mask(tmp_path, ending, palette, padding):
    path = saved(tmp_path / f"m.{ending}", with_palette((LABELS == 0).astype(np.uint8), (*palette, *palette[3:] * padding)))
    assert read_header(path).two_colours
    assert (read_labels(path) == (LABELS > 0)).all()


@pytest.mark.parametrize("ending", ["png", "gif", "tif"])
def test_the_brighter_colour_may_be_the_second_one_too(tmp_path, ending):
    path = saved(tmp_path / f"m.{ending}", with_palette((LABELS > 0).astype(np.uint8), BLACK_FIRST))
    assert (read_labels(path) == (LABELS > 0)).all()


@pytest.mark.parametrize(("labels", "palette"), [(LABELS, (*WHITE_FIRST, 9, 9, 9)), (LABELS * 2, (*BLACK_FIRST, *WHITE_FIRST[:3] * 254))])
def test_a_palette_of_more_colours_or_indices_stays_one_of_labels(tmp_path, labels, palette):
    assert (read_labels(saved(tmp_path / "m.png", with_palette(labels, palette))) == labels).all()


@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_counts_by_colour_however_a_tiff_writes_it(tmp_path, photometric):
    path = saved(tmp_path / "m.tif", LABELS > 0, tiffinfo={262: photometric})
    with Image.open(path) as opened:
        assert opened.tag_v2[262] == photometric
    assert (read_labels(path) == (LABELS > 0)).all()


def test_a_bmp_of_one_bit_counts_by_colour_whichever_is_first(tmp_path):
    path = saved(tmp_path / "m.bmp", LABELS > 0)
    assert (read_labels(path) == (LABELS > 0)).all()
    data = bytearray(path.read_bytes())
    data[54:62] = data[58:62] + data[54:58]  # the two colours change places
    path.write_bytes(data)
    assert (read_labels(path) == (LABELS == 0)).all()


def test_a_bmp_that_pillow_would_take_for_one_of_fewer_bits_is_refused(tmp_path):
    path = saved(tmp_path / "m.bmp", with_palette((LABELS > 0).astype(np.uint8), BLACK_FIRST))
    for read in (read_labels, read_image, read_size):
        refused(read, path, "a BMP of 8 bits a pixel", "save it as PNG")


def test_a_webp_file_is_read_and_a_mask_where_it_has_no_loss(tmp_path):
    assert (read_image(saved(tmp_path / "i.webp", COLOUR, lossless=True)) == COLOUR).all()
    assert (read_labels(saved(tmp_path / "m.webp", np.repeat(LABELS[..., None], 3, 2), lossless=True)) == LABELS).all()


def test_the_header_tells_the_orientation(tmp_path):
    for ending in ("png", "jpg", "tif", "webp"):
        for orientation in (1, 3, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = saved(tmp_path / f"{orientation}.{ending}", COLOUR, exif=exif)
            assert read_header(path).exif_orientation == orientation
            assert read_header(path).size == read_image(path).shape[:2]
        assert read_header(saved(tmp_path / f"none.{ending}", COLOUR)).exif_orientation == 1


def test_cmyk_jpeg_is_an_image_but_no_mask(tmp_path):
    path = saved(tmp_path / "c.jpg", Image.new("CMYK", (20, 12), (0, 255, 255, 0)))
    red, green, blue = read_image(path)[6, 10]
    assert red > 240
    assert max(green, blue) < 15
    refused(read_labels, path, "its channels differ")


def test_a_colour_file_is_a_mask_where_all_its_channels_agree(tmp_path):
    assert (read_labels(saved(tmp_path / "m.png", LABELS[..., None].repeat(3, -1))) == LABELS).all()
    refused(read_labels, saved(tmp_path / "c.png", COLOUR), "its channels differ", "save it as grey")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_are_stretched_between_their_percentiles(tmp_path, name, order):
    values = 1000 + 3 * np.arange(1000, dtype=np.uint16).reshape(20, 50)
    values[0, 0], values[0, 1] = 0, 65535  # two hot pixels must not take the range
    if name == "a.png" or order == "<":
        picture = Image.fromarray(values)
    else:
        picture = Image.frombytes("I;16B", (50, 20), values.astype(">u2").tobytes())
    grey = read_image(saved(tmp_path / name, picture), channels=1)[..., 0]
    low, high = np.percentile(values, (0.5, 99.5))
    assert (grey == (((values - low) / (high - low)).clip(0, 1) * 255).round()).all()
    assert grey.min() == 0
    assert grey.max() == 255


def test_floats_are_stretched_and_a_constant_picture_is_black(tmp_path):
    ramp = np.linspace(-1e-3, 1e-3, 240, dtype=np.float32).reshape(12, 20)
    assert np.ptp(read_image(saved(tmp_path / "f.tif", ramp))) == 255
    assert not read_image(saved(tmp_path / "c.tif", np.full((4, 5), 0.7, np.float32))).any()


def test_stretching_keeps_the_range_of_a_picture_that_is_nearly_constant(tmp_path):
    values = np.zeros((40, 50), np.float32)
    values[3, 4] = 2  # both percentiles are 0
    grey = read_image(saved(tmp_path / "f.tif", values), channels=1)[..., 0]
    assert grey[3, 4] == 255
    assert grey.sum() == 255


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_refused(tmp_path, wrong):
    values = GREY.astype(np.float32)
    values[3, 4] = wrong
    path = saved(tmp_path / "f.tif", values)
    assert read_size(path) == (12, 20)
    refused(read_image, path, "not finite")
    refused(read_labels, path, str(wrong))


@pytest.mark.parametrize(("values", "named"), [(np.float32(0.5), "0.5"), (np.int32(-1), "-1"), (np.uint16(256), "256")])
def test_a_mask_with_a_value_that_is_no_label_is_refused_and_the_value_named(tmp_path, values, named):
    pixels = np.zeros((4, 5), values.dtype)
    pixels[2, 3] = values
    refused(read_labels, saved(tmp_path / "m.tif", pixels), "whole numbers from 0 to 255", named)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_whole_numbers_of_any_type_are_labels(tmp_path, dtype):
    labels = read_labels(saved(tmp_path / "m.tif", GREY.astype(dtype)))
    assert labels.dtype == np.uint8
    assert (labels == GREY).all()


# Orientation


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("jpg", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
def test_exif_orientation_is_applied_to_size_image_and_labels_alike(tmp_path, ending, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.zeros((16, 32), np.uint8)  # in blocks of 8, as JPEG has them, so that no edge is blurred
    stored[:8, :8], stored[8:, 24:], stored[:8, 16:24] = 200, 100, 50
    path = saved(tmp_path / f"o.{ending}", stored, exif=exif, **options)
    shown = SHOWN[orientation](stored)
    assert read_size(path) == shown.shape
    assert (read_image(path, channels=1)[..., 0] == shown).all()
    assert (read_labels(path) == shown).all()


def test_an_orientation_behind_the_pixels_of_a_png_counts_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "o.png", GREY)
    whole = path.read_bytes()
    end = png_chunk(b"IEND")
    assert whole.endswith(end)
    path.write_bytes(whole[: -len(end)] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end)
    assert read_image(path).shape == (20, 12, 3)
    assert read_size(path) == (20, 12)
    assert media_type(path) is None


def test_the_size_and_what_a_browser_can_show_come_from_the_header_alone(tmp_path, monkeypatch):
    paths = [saved(tmp_path / name, GREY) for name in ("a.png", "a.jpg", "a.tif", "a.bmp")]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail(f"decoded {self.filename}"))
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", lambda self: pytest.fail(f"decoded {self.filename}"))
    assert {read_size(path) for path in paths} == {(12, 20)}
    assert [media_type(path) for path in paths] == ["image/png", "image/jpeg", None, None]


# NIfTI


@pytest.mark.parametrize("name", ["n.nii.gz", "n.nii", "N.NII.GZ"])
@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 1), (12, 20, 1, 1)])
def test_a_nifti_plane_is_read_as_it_is_shown(tmp_path, name, shape):
    path = nifti(tmp_path / name, GREY.astype(np.int16).reshape(shape), spacing_mm=(0.5, 2))
    assert read_size(path) == (12, 20)
    assert (read_labels(path) == GREY).all()
    assert read_image(path).shape == (12, 20, 3)
    assert read_image(path)[0, 0, 0] < read_image(path)[0, -1, 0] < read_image(path)[-1, 0, 0]
    assert read_header(path).spacing_mm == (0.5, 2.0)


def test_only_nifti_knows_its_spacing(tmp_path):
    assert read_header(saved(tmp_path / "a.png", GREY)).spacing_mm is None


@pytest.mark.parametrize("read", [read_size, read_image])
def test_a_nifti_volume_is_refused(tmp_path, read):
    refused(read, nifti(tmp_path / "v.nii.gz", np.zeros((5, 4, 6), np.int16)), "volume", "4 x 5 x 6")


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_nifti_without_one_real_number_per_pixel_is_refused(tmp_path, dtype, read):
    refused(read, nifti(tmp_path / "c.nii", np.zeros((4, 5, 1), dtype)), "one real number per pixel")


def test_nifti_without_nibabel_names_the_extra(tmp_path, monkeypatch):
    path = nifti(tmp_path / "n.nii.gz", GREY.astype(np.int16))
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    refused(read_size, path, "pixeltrust[medical]")


# Broken files

READERS = pytest.mark.parametrize("read", [read_size, read_image, read_labels])


@READERS
@pytest.mark.parametrize("name", ["gone.png", "gone.nii.gz"])
def test_a_missing_file_is_named(tmp_path, read, name):
    refused(read, tmp_path / name, "no such file")


@READERS
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"id,image\n1,2\n"])
def test_an_empty_file_and_a_text_file_are_named(tmp_path, read, name, content):
    (tmp_path / name).write_bytes(content)
    refused(read, tmp_path / name)


@READERS
def test_a_folder_named_like_an_image_is_named(tmp_path, read):
    (tmp_path / "folder.png").mkdir()
    refused(read, tmp_path / "folder.png")


@pytest.mark.parametrize("name", ["t.jpg", "t.png", "t.bmp", "t.nii"])
def test_a_truncated_file_has_a_size_but_no_pixels(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = nifti(tmp_path / name, noise.astype(np.int16)) if name == "t.nii" else saved(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:-1500])
    assert read_size(path) == (64, 64)
    refused(read_image, path, "cannot be read")
    refused(read_labels, path, "cannot be read")


@READERS
def test_a_broken_gzip_stream_is_named(tmp_path, read):
    path = nifti(tmp_path / "n.nii.gz", GREY.astype(np.int16))
    content = bytearray(path.read_bytes())
    content[10:40] = bytes(255 for _ in range(30))
    path.write_bytes(content)
    refused(read, path, "cannot be read")


@READERS
def test_a_header_that_claims_a_huge_picture_is_refused_before_decoding(tmp_path, read):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND")
    )
    refused(read, path, "decompression bomb")


@given(st.data())
@examples(60)
@pytest.mark.filterwarnings("ignore")  # Pillow and nibabel warn of broken headers before they give up
def test_a_file_with_changed_bytes_is_read_or_refused_never_more(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    name = data.draw(st.sampled_from(["f.png", "f.bmp", "f.nii", "f.nii.gz"]))  # libtiff and libjpeg would write to standard error
    path = nifti(folder / name, GREY.astype(np.int16)) if ".nii" in name else saved(folder / name, with_palette(LABELS))
    content = bytearray(path.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=5)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for read in (read_size, read_image, read_labels):
        with suppress(DataError):  # whatever else is raised fails the test
            read(path)


# Resizing


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@examples(200)
def test_resizing_labels_never_invents_a_label(labels, size):
    resized = resize_labels(labels, size)
    assert resized.shape == size
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(labels))


def test_each_shrunk_pixel_has_the_label_of_most_of_its_area():
    labels = np.kron([[0, 7], [255, 3]], np.ones((4, 4))).astype(np.uint8)
    labels[1, 2], labels[6, 1], labels[5:7, 5] = 7, 0, 255  # specks of less than half
    assert (resize_labels(labels, (2, 2)) == [[0, 7], [255, 3]]).all()


def test_at_equal_shares_the_lowest_label_wins():
    assert resize_labels(np.array([[2, 1]], np.uint8), (1, 1)) == 1
    assert resize_labels(np.array([[0, 255], [255, 0]], np.uint8), (1, 1)) == 0


def test_labels_between_two_classes_stay_one_of_the_two_when_enlarged():
    enlarged = resize_labels(np.array([[0, 2]], np.uint8), (1, 8))
    assert enlarged.tolist() == [[0, 0, 0, 0, 2, 2, 2, 2]]


def test_a_mask_stays_in_register_with_its_image():
    rows, columns = np.mgrid[:90, :120]
    disc = ((rows - 40) ** 2 + (columns - 70) ** 2 < 30**2).astype(np.uint8)
    image = resize_image(255 * disc[..., None], (32, 48))[..., 0]
    assert (resize_labels(disc, (32, 48))[image > 130] == 1).all()
    assert (resize_labels(disc, (32, 48))[image < 125] == 0).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@examples(50)
def test_at_the_same_size_nothing_changes(labels):
    assert (resize_labels(labels, labels.shape) == labels).all()
    assert (resize_image(labels[..., None], labels.shape)[..., 0] == labels).all()


def test_images_are_resized_linearly_and_averaged_when_they_shrink():
    ramp = np.array([[[0], [100]]], np.uint8)
    assert resize_image(ramp, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    checkers = (255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)[..., None]
    assert np.abs(resize_image(checkers, (8, 8)).astype(int) - 127.5).max() < 2  # a pick of single pixels would be 0 or 255


def test_by_area_a_new_pixel_is_the_plain_mean_of_its_own_area():
    shrunk = resize_image(COLOUR, (4, 5), by_area=True)
    means = COLOUR.reshape(4, 3, 5, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - means).max() < 1  # Pillow rounds twice: after it has averaged along the rows, and along the columns
    assert (resize_image(COLOUR, (4, 5)) != shrunk).any()


def test_by_area_a_new_label_is_that_of_more_than_half_of_its_own_area():
    labels = np.zeros((4, 8), np.uint8)
    labels[0, :3] = 1  # 3 of 4
    labels[0, 4:6] = 1  # 2 of 4: equal shares, so the lowest
    assert resize_labels(labels, (4, 2), by_area=True).tolist() == [[1, 0], [0, 0], [0, 0], [0, 0]]


def test_a_written_jpeg_is_nearly_the_picture_and_keeps_sharp_colours(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 0] = 200  # red stripes of a pixel's width: gone where colours are stored at half the resolution
    write_jpeg(tmp_path / "a.jpg", pixels)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - pixels).max() <= 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_channels_are_resized_apart():
    resized = resize_image(COLOUR, (6, 7))
    assert resized.shape == (6, 7, 3)
    for c in range(3):
        assert (resized[..., c] == resize_image(COLOUR[..., c : c + 1], (6, 7))[..., 0]).all()


# Writing


@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_what_is_written_is_read_back(tmp_path, pixels):
    write_png(tmp_path / "a.png", pixels)
    assert (read_image(tmp_path / "a.png", channels=3 if pixels.ndim == 3 else 1).squeeze() == pixels).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, GREY)

    def fails(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="no space"):
        write_png(path, COLOUR)
    assert (read_labels(path) == GREY).all()
    assert list(tmp_path.iterdir()) == [path]


def turned_by(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("name", "mode", "how", "kind"),
    [
        ("a.png", "RGB", {}, "image/png"),
        ("a.png", "L", {}, "image/png"),
        ("a.jpg", "RGB", {}, "image/jpeg"),
        ("a.png", "RGB", {"format": "JPEG"}, "image/jpeg"),
        ("a.png", "RGBA", {}, None),
        ("a.png", "P", {}, None),
        ("a.png", "I;16", {}, None),
        ("a.png", "L", {"transparency": 3}, None),
        ("a.jpg", "CMYK", {}, None),
        ("a.jpg", "RGB", {"exif": turned_by(6)}, None),
        ("a.tif", "RGB", {}, None),
    ],
)
def test_a_file_goes_to_a_browser_as_it_is_only_where_that_shows_what_is_read(tmp_path, name, mode, how, kind):
    Image.new(mode, (6, 4)).save(tmp_path / name, **how)
    assert media_type(tmp_path / name) == kind


def test_what_is_encoded_is_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert (decode_png(encode_image(pixels, "PNG")) == pixels).all()
    assert encode_image(pixels, "JPEG", quality=90)[:2] == b"\xff\xd8"
