"""Volumes: what is read, what is given back to the bit, what is refused; and checks of folders of them."""

import gzip
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.images import link_image, mask_name, read_header, read_image, read_labels, read_shown, read_values, write_labels
from pixeltrust.data.listings import Listing, files_by_id, join_channels
from pixeltrust.data.volumes import HEADERS, NIFTI, SUFFIXES, Grid
from pixeltrust.formats.convert import convert
from pixeltrust.noise.kinds import KINDS, VOLUME_KINDS, find_kind
from pixeltrust.noise.simulate import simulate
from pixeltrust.noise.structures import LABEL_KINDS, draw_labels
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.prediction.evaluate import evaluate
from volumes import SHAPE, TURNED, ellipsoid, simple_itk, write_data, write_nifti, write_series

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"
LABELS = ellipsoid()
GEOMETRY = (slice(76, 108), slice(123, 124), slice(252, 328))  # of a NIfTI header: pixdim, xyzt_units, both transforms


def refused(read, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        read(*args, **kwargs)
    return str(caught.value)


def grid(shape=SHAPE, spacing=(5, 0.8, 0.8), origin=(1, 2, 3), turn=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    return Grid(shape, np.diag(spacing)[:, ::-1] @ np.asarray(turn).T, np.array(origin, float))


# Files


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nii", "V.NII.GZ"])
def test_a_nifti_volume_is_read_slice_by_slice_with_its_grid(tmp_path, name):
    path = write_nifti(tmp_path / name, LABELS)
    header = read_header(path)
    assert header.size == SHAPE
    assert header.spacing_mm == pytest.approx((5, 0.8, 0.8))
    assert header.states_orientation
    world = TURNED @ [7, 5, 2, 1]  # of the voxel (2, 5, 7)
    assert header.grid.origin + np.array([2, 5, 7]) @ header.grid.steps == pytest.approx(world[:3] * [-1, -1, 1], abs=1e-5)
    assert (read_labels(path) == LABELS).all()
    values = read_values(path)
    assert values.dtype == np.float32
    assert (values == LABELS).all()


@pytest.mark.parametrize(("ending", "written_as"), [(".nrrd", ".nrrd"), (".mha", ".mha"), *HEADERS.items()])
def test_what_itk_writes_is_read_and_written_as_nifti_is(tmp_path, ending, written_as):
    itk = simple_itk()
    nifti = write_nifti(tmp_path / "v.nii.gz", LABELS)
    image = itk.GetImageFromArray(LABELS)
    image.CopyInformation(itk.ReadImage(str(nifti)))
    path = tmp_path / f"v{ending}"
    itk.WriteImage(image, str(path))
    header = read_header(path)
    assert header.size == SHAPE
    assert header.grid.difference(read_header(nifti).grid) == ""
    assert (read_labels(path) == LABELS).all()
    assert header.states_orientation
    assert mask_name("w", path) == f"w{written_as}"
    write_labels(tmp_path / f"w{written_as}", 2 - LABELS, like=path)
    written = read_header(tmp_path / f"w{written_as}").grid
    exact = 1e-5 if written_as in NIFTI else 0
    assert written.steps == pytest.approx(header.grid.steps, abs=exact)
    assert written.origin == pytest.approx(header.grid.origin, abs=exact)
    assert (read_labels(tmp_path / f"w{written_as}") == 2 - LABELS).all()


@pytest.mark.parametrize(("ending", "joined"), HEADERS.items())
@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_and_the_file_beside_it_are_one_image(tmp_path, ending, joined, compressed):
    itk = simple_itk()
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nifti = write_nifti(tmp_path / "v.nii.gz", values)
    (tmp_path / "two").mkdir()
    itk.WriteImage(itk.ReadImage(str(nifti)), str(tmp_path / "two" / f"v.1{ending}"), useCompression=compressed)
    (tmp_path / "two" / "notes.raw.txt").touch()
    (tmp_path / "two" / "v.1.folder").mkdir()
    assert len(list((tmp_path / "two").iterdir())) == 4
    listing = files_by_id(tmp_path / "two")
    assert list(listing.files) == ["v.1"]
    assert [path.name for path in listing.others] == ["notes.raw.txt", "v.1.folder"]
    (tmp_path / "one").mkdir()
    to = link_image(listing.files["v.1"], tmp_path / "one", "w")
    assert [path.name for path in (tmp_path / "one").iterdir()] == [f"w{joined}"] == [to.name]
    assert (read_values(to) == values).all()
    assert read_header(to).grid.difference(read_header(nifti).grid) == ""


def test_a_pair_of_nifti_keeps_its_scale_and_its_type_as_one_file(tmp_path):
    pair = nibabel.Nifti1Pair(LABELS.T.astype(np.int16), TURNED)
    pair.header.set_slope_inter(0.5, -3)
    pair.to_filename(tmp_path / "v.hdr")
    to = link_image(tmp_path / "v.hdr", tmp_path, "w")
    assert (read_values(to) == read_values(tmp_path / "v.hdr")).all()
    assert nibabel.load(to).get_data_dtype() == np.int16
    assert (nibabel.load(to).affine == nibabel.load(tmp_path / "v.hdr").affine).all()
    nibabel.AnalyzeImage(LABELS.T.astype(np.int16), TURNED).to_filename(tmp_path / "old.img")
    assert refused(read_header, tmp_path / "old.hdr").endswith("which does not tell left from right; save it as NIfTI")


@pytest.mark.parametrize("ending", HEADERS)
def test_a_file_beside_a_header_that_is_cut_off_or_lost_is_said(tmp_path, ending, capfd):
    itk = simple_itk()
    header = tmp_path / f"v{ending}"
    itk.WriteImage(itk.GetImageFromArray(np.random.default_rng(0).normal(size=SHAPE)), str(header))
    (voxels,) = (path for path in tmp_path.iterdir() if path != header)
    voxels.write_bytes(voxels.read_bytes()[:900])
    for read in (read_values, lambda path: link_image(path, tmp_path, "w")):
        assert re.search("voxels are damaged, or cut off|Expected 38400 bytes, got 900", refused(read, header))
    voxels.unlink()
    assert "v" in refused(read_values, header)
    assert [path.name for path in tmp_path.iterdir()] == [header.name]


def test_a_damaged_gzip_is_refused(tmp_path):
    path = write_nifti(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    for read in (read_values, read_labels):
        assert refused(read, path).startswith(f"{path}: cannot be read: ")


def test_what_follows_compressed_values_does_not_count(tmp_path):
    path = write_nifti(tmp_path / "v.nii.gz", LABELS)
    path.write_bytes(path.read_bytes() + b"trailing")
    assert (read_labels(path) == LABELS).all()


def test_a_damaged_plane_is_refused(tmp_path):
    draws = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    nibabel.save(nibabel.Nifti1Image(draws, np.eye(4)), tmp_path / "p.nii.gz")
    whole = bytearray((tmp_path / "p.nii.gz").read_bytes())
    whole[-6] ^= 1  # of the checksum
    (tmp_path / "p.nii.gz").write_bytes(whole)
    assert "CRC" in refused(read_image, tmp_path / "p.nii.gz")


@pytest.mark.parametrize(("steps", "letters"), [(np.eye(3), "RAS"), (np.diag([-1, -1, 1]), "LPS"), (np.eye(3)[[1, 2, 0]], "SRA")])
def test_orientations_are_named_as_nibabel_does(tmp_path, steps, letters):
    affine = np.eye(4)
    affine[:3, :3] = steps
    nibabel.save(nibabel.Nifti1Image(LABELS.transpose(), affine), tmp_path / "v.nii.gz")
    assert "".join(nibabel.aff2axcodes(affine)) == letters
    assert read_header(tmp_path / "v.nii.gz").grid.orientation == letters


def test_a_slice_is_shown_in_its_true_proportions(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    labels = (values > 0).astype(np.uint8)
    path = write_nifti(tmp_path / "v.nii.gz", values, np.diag([0.5, 1.5, 3, 1]))
    interest = np.zeros((4, 5, 6), bool)
    interest[2, 1, 1] = True
    image, (shown,) = read_shown(path, [labels], interest)
    assert image.shape == (15, 6, 3)
    assert (shown == labels[2].repeat(3, axis=0)).all()
    assert (image[::3] == image[2::3]).all()


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_what_itk_cannot_read_is_said_in_one_line(tmp_path, capfd, ending):
    itk = simple_itk()
    path = tmp_path / f"v{ending}"
    itk.WriteImage(itk.GetImageFromArray(np.random.default_rng(0).normal(size=SHAPE)), str(path))
    path.write_bytes(path.read_bytes()[:9000])
    assert refused(read_values, path) == f"{path}: cannot be read: its voxels are damaged, or cut off"
    path.write_text("nothing of this kind")
    assert refused(read_header, path).startswith(f"{path}: cannot be read: ")
    itk.WriteImage(itk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True), str(path))
    assert "3 numbers per voxel" in refused(read_header, path)
    assert "WARNING" not in capfd.readouterr().err  # MetaImage's own lines cannot be kept back


def test_a_dicom_series_is_read_by_its_folder(tmp_path):
    values = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5)
    write_series(tmp_path / "scan", values)
    header = read_header(tmp_path / "scan")
    assert header.size == (4, 6, 5)
    assert header.spacing_mm == pytest.approx((2.5, 0.5, 0.5))
    assert header.grid.origin == pytest.approx((1, 2, 3))
    assert (read_values(tmp_path / "scan") == values).all()
    (tmp_path / "scan" / "8.dcm").unlink()
    assert "do not lie evenly" in refused(read_header, tmp_path / "scan")
    (tmp_path / "none").mkdir()
    assert f"without a volume ({', '.join(SUFFIXES)}) or a DICOM series" in refused(read_header, tmp_path / "none")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_mask_is_written_with_the_geometry_of_another_to_the_bit(tmp_path, ending):
    like = write_nifti(tmp_path / f"like{ending}", LABELS.astype(np.float32))
    file = nibabel.load(like, mmap=False)
    file.header["qoffset_x"] = 1 / 3  # the two transforms differ, as in real files
    file.header["sform_code"], file.header["qform_code"] = 4, 2
    nibabel.save(nibabel.Nifti1Image(file.get_fdata(dtype=np.float32), None, file.header), like)
    written = tmp_path / mask_name("w", like)
    assert written.name == f"w{ending}"
    write_labels(written, 2 - LABELS, like=like)
    blocks = [nibabel.load(path).header.binaryblock for path in (written, like)]
    assert all(blocks[0][part] == blocks[1][part] for part in GEOMETRY)
    assert nibabel.load(written).get_data_dtype() == np.uint8
    assert (read_labels(written) == 2 - LABELS).all()
    assert list(tmp_path.glob(".*")) == []


def test_a_picture_reader_says_that_volumes_are_not_read_yet(tmp_path):
    text = refused(read_image, write_nifti(tmp_path / "v.nii", LABELS))
    assert "a volume of 20 x 24 x 10 voxels" in text
    assert "\n" not in text


def broken(change):
    def make(path):
        write_nifti(path, LABELS.astype(np.float32))
        file = nibabel.load(path, mmap=False)
        image = nibabel.Nifti1Image(np.asarray(file.dataobj), None, file.header)
        nibabel.save(change(image) or image, path)

    return make


def set_affine(affine, code=1):
    return broken(lambda image: image.header.set_sform(affine, code))


def write_pixels(values):
    return lambda path: write_nifti(path, values)


def cut(path):
    write_nifti(path, np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    path.write_bytes(path.read_bytes()[:2000])


NOT_A_NUMBER = LABELS.astype(np.float32)
NOT_A_NUMBER[1, 2, 3:5] = np.nan, np.inf


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda path: write_nifti(path, np.zeros((2, *SHAPE), np.float32)), "4 axes", id="four axes"),
        pytest.param(set_affine(np.zeros((4, 4))), "its affine gives no direction to an axis", id="affine of zeros"),
        pytest.param(set_affine(np.diag([1, 1, 0, 1])), "its affine gives no direction to an axis", id="flat affine"),
        pytest.param(set_affine(np.full((4, 4), np.nan)), "not finite", id="affine of NaN"),
        pytest.param(write_pixels(NOT_A_NUMBER), "2 voxels whose value is not finite", id="NaN voxels"),
        pytest.param(write_pixels(LABELS.astype(np.complex64)), "one real number per voxel", id="complex numbers"),
        pytest.param(cut, "cannot be read: it ends too early; copy it again", id="truncated gzip"),
        pytest.param(lambda path: path.write_bytes(gzip.compress(b"no header")), "cannot be read", id="no NIfTI"),
        pytest.param(lambda path: simple_itk() and path.mkdir(), "a folder", id="folder"),
    ],
)
def test_odd_volumes_are_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "v.nii.gz"
    make(path)
    text = refused(read_values, path)
    assert text.startswith(f"{path}: ")
    assert words in text
    assert "\n" not in text


def test_a_header_that_claims_too_many_voxels_is_refused_before_they_are_read(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.uint8)
    header["magic"] = b"n+1"
    (tmp_path / "bomb.nii").write_bytes(header.binaryblock + bytes(4))
    assert "decompression bomb" in refused(read_header, tmp_path / "bomb.nii")


# Grids


def test_grids_are_one_where_no_voxel_is_a_tenth_off():
    assert grid().difference(grid()) == ""
    assert grid(origin=(1.05, 2, 3)).difference(grid()) == ""
    assert grid(spacing=(5.003, 0.8, 0.8)).difference(grid()) == ""
    assert "spacing 0.8 x 0.8 x 5.02 mm, not 0.8 x 0.8 x 5" in grid(spacing=(5.02, 0.8, 0.8)).difference(grid())
    off = grid(origin=(1, 2.3, 3.4)).difference(grid())
    assert off == "up to 0.5 mm off (origin 0.5 mm off)"
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    assert "axes turned by up to 5.73 degrees" in grid(turn=turn).difference(grid())
    assert "axes turned by up to 180 degrees" in grid(turn=np.diag([-1, 1, 1])).difference(grid())


# Folders


def test_check_says_what_volumes_are_there(tmp_path, run_command):
    data = write_data(tmp_path / "data")
    write_nifti(data / "noisy" / "c0.nii.gz", LABELS)
    code, out, err = run_command("check", data, "--classes", "3")
    assert code == 0, err
    assert "3 noisy, 2 clean, 0 test cases" in out
    assert "5 volumes: 20 x 24 x 10 voxels in all, spacing 0.8 x 0.8 x 5 mm in all" in out
    counts = np.bincount(LABELS.ravel()) * 6
    assert f"1 {counts[1]:,} ({counts[1] / (6 * LABELS.size):.2%}, in 6 masks)" in out


def test_check_warns_of_volumes_that_are_turned_in_different_ways(tmp_path, run_command):
    data = write_data(tmp_path / "data")
    _, out, _ = run_command("check", data, "--classes", "3")
    assert "point different ways" not in out
    for part in ("images", "noisy"):
        write_nifti(data / part / "n0.nii.gz", LABELS, np.diag([1, 1, 1, 1]))
    code, out, _ = run_command("check", data, "--classes", "3")
    assert code == 0
    assert "axes of volumes point different ways (4 " in out
    assert "1 RAS)" in out


def test_check_of_headers_reads_no_pixel(tmp_path, run_command):
    data = write_data(tmp_path / "data", shape=(6, 8, 9))
    write_nifti(data / "images" / "n0.nii.gz", np.full((6, 8, 9), np.nan, np.float32))
    code, out, _ = run_command("check", data, "--headers")
    assert code == 0
    assert "no pixel was read" in out
    code, _, err = run_command("check", data, "--classes", "3")
    assert code == 2
    assert "432 voxels whose value is not finite" in err


def test_masks_on_other_grids_are_faults_that_say_by_how_much(tmp_path):
    data = write_data(tmp_path / "data", noisy=4)
    moved, flipped = TURNED.copy(), TURNED @ np.diag([-1, 1, 1, 1])
    moved[0, 3] += 2
    write_nifti(data / "noisy" / "n0.nii.gz", LABELS, moved)
    write_nifti(data / "noisy" / "n1.nii.gz", LABELS, flipped)
    write_nifti(data / "noisy" / "n2.nii.gz", LABELS[:-1])
    write_nifti(data / "noisy" / "n3.nii.gz", LABELS, None)
    text = refused(check, data, classes=3, show_progress=False)
    assert f"{data}/noisy/n0.nii.gz: not on the grid of its image {data}/images/n0.nii.gz: up to 2 mm off (origin 2 mm off)" in text
    assert "n1.nii.gz: up to 30.4 mm off (axes turned by up to 180 degrees)" in text
    assert "n2.nii.gz: 20x24x9 voxels, its image" in text
    assert "has 20x24x10" in text
    assert "states its orientation" in text
    assert text.startswith(f"{data}: 4 faults")


def test_pictures_and_volumes_together_are_a_fault(tmp_path):
    data = write_data(tmp_path / "data")
    for folder in ("images", "noisy"):
        write_nifti(data / folder / "p.nii.gz", LABELS[:1])
    write_nifti(data / "noisy" / "n0.nii.gz", LABELS[:1])
    text = refused(check, data, classes=3, show_progress=False)
    assert f"{data}/images/p.nii.gz a picture" in text
    assert "20x24 pixels, its image" in text
    assert "has 20x24x10 voxels" in text


def channels(data, numbers, affine=TURNED):
    for number in numbers:
        for path in sorted((data / "images").glob("*[0-9].nii.gz")):
            if "_" not in path.name:
                write_nifti(path.with_name(path.name.replace(".nii", f"_{number:04}.nii")), LABELS.astype(np.float32), affine)
    for path in (data / "images").iterdir():
        if "_" not in path.name:
            path.unlink()
    return data


def test_channels_are_one_case(tmp_path):
    data = channels(write_data(tmp_path / "data"), (0, 1))
    cases = check(data, classes=3, show_progress=False)
    assert [case.id for case in cases.cases] == ["c0", "c1", "n0", "n1", "n2"]
    assert cases.cases[0].image_files == [data / "images" / f"c0_000{number}.nii.gz" for number in (0, 1)]
    assert "5 volumes, 2 channels:" in str(cases)
    write_nifti(data / "images" / "c0_0001.nii.gz", LABELS.astype(np.float32), np.eye(4))
    write_nifti(data / "images" / "n0_0001.nii.gz", np.full(SHAPE, np.nan, np.float32))
    (data / "images" / "n1_0001.nii.gz").rename(data / "images" / "n1_0002.nii.gz")
    (data / "images" / "n2_0001.nii.gz").unlink()
    text = refused(check, data, classes=3, show_progress=False)
    assert "c0_0001.nii.gz: not on the grid of its first channel" in text
    assert "n0_0001.nii.gz: holds 4,800 voxels whose value is not finite" in text
    assert "n1 has the channels n1_0000.nii.gz, n1_0002.nii.gz" in text
    assert "n2_0000.nii.gz: 1 channel, where most cases have 2" in text


def test_numbers_that_are_ids_are_no_channels(tmp_path):
    data = write_data(tmp_path / "data")
    for folder in ("images", "noisy", "clean"):
        for path in sorted((data / folder).iterdir()):
            path.rename(path.with_name({"n": "p_000", "c": "p_010"}[path.name[0]] + path.name[1:]))
    assert [case.id for case in check(data, classes=3, show_progress=False).cases][:2] == ["p_0000", "p_0001"]


def test_a_file_with_a_mask_of_its_own_is_no_channel():
    images = Listing(Path("images"), {name: Path(f"images/{name}.nii.gz") for name in ("p_0000", "q_0000", "q_0001")}, [], [])
    assert join_channels(images, {"p", "p_0000", "q"}) == {"q": 2}
    assert images.files == {"p_0000": Path("images/p_0000.nii.gz"), "q": Path("images/q_0000.nii.gz")}


def test_a_label_that_no_class_has_names_the_file(tmp_path):
    text = refused(check, write_data(tmp_path / "data"), show_progress=False)
    assert "holds 3 values (0, 1, 2) where classes = 1 allows 0 and one other" in text


# Datasets of nnU-Net


def nnunet(folder, *, labels=LABELS, record=(), test=0):
    names = {"background": 0, "head": 1, "tail": 2}
    written = {"channel_names": {"0": "MR"}, "labels": names, "numTraining": 4, "file_ending": ".nii.gz", **dict(record)}
    for part, number in (("Tr", 4), ("Ts", test)):
        for place in range(number):
            write_nifti(folder / f"images{part}" / f"{part}{place}_0000.nii.gz", LABELS.astype(np.float32))
            write_nifti(folder / f"labels{part}" / f"{part}{place}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps(written))
    (folder / "clean.txt").write_text("Tr1\nTr2\n")
    return folder


def test_a_dataset_of_nnunet_is_read_as_it_is(tmp_path, run_command):
    data = nnunet(tmp_path / "Dataset001_X", test=2)
    cases = check(data, show_progress=False)
    assert {role: [case.id for case in cases.of(role)] for role in ("noisy", "clean", "test")} == {
        "noisy": ["Tr0", "Tr3"],
        "clean": ["Tr1", "Tr2"],
        "test": ["Ts0", "Ts1"],
    }
    assert cases.cases[0].image == data / "imagesTr" / "Tr0_0000.nii.gz"
    (tmp_path / "ids").write_text("Tr0\n")
    code, out, _ = run_command("check", data, "--clean", tmp_path / "ids")
    assert code == 0
    assert "3 noisy, 1 clean, 2 test" in out


def test_the_ignore_label_of_nnunet_is_ignored(tmp_path):
    labels = LABELS.copy()
    labels[0] = 3
    record = {"labels": {"background": 0, "all": [1, 2], "tail": 2, "ignore": 3}}
    cases = check(nnunet(tmp_path / "data", labels=labels, record=record), show_progress=False)
    assert "ignored 1,920 (10.00%, in 4 masks)" in str(cases)


@pytest.mark.parametrize(
    ("record", "options", "words"),
    [
        ({"file_ending": None}, {}, "has no file_ending; wanted is the format of nnU-Net 2"),
        ({"labels": {"0": "background"}}, {}, "its label '0' is 'background'"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, {}, "has 2 channels (_0000, _0001)"),
        ({"file_ending": ".mha"}, {}, "without the file_ending .mha"),
        ({}, {"noisy": "weak"}, "leave out --noisy weak"),
        ({}, {"clean": "gone.txt"}, "there is no such file"),
    ],
)
def test_what_is_wrong_with_a_dataset_of_nnunet_is_said(tmp_path, record, options, words):
    assert words in refused(check, nnunet(tmp_path / "data", record=record), show_progress=False, **options)


def test_clean_ids_that_no_mask_has_are_a_fault(tmp_path):
    data = nnunet(tmp_path / "data")
    (data / "clean.txt").write_text("Tr1\nTr7\n")
    assert "1 id that no mask in" in refused(check, data, show_progress=False)


# Noise


def source(folder, *, number=6, labels=LABELS, ending=".nii.gz"):
    for place in range(number):
        values = np.random.default_rng(place).normal(size=labels.shape).astype(np.float32)
        write_nifti(folder / "images" / f"{place}{ending}", values)
        write_nifti(folder / "masks" / f"{place}{ending}", np.roll(labels, place % 3 - 1, axis=2))
    return folder


VOLUME_NOISE = [name for name, kind in (KINDS | VOLUME_KINDS).items() if kind.suits(3)]


def ball(spacing=(1, 1, 1), radius_mm=12):
    shape = [int(2 * (radius_mm + 8) / step) + 1 for step in spacing]
    axes = [(np.arange(extent) - extent // 2) * step for extent, step in zip(shape, spacing, strict=True)]
    return (sum(axis**2 for axis in np.ix_(*axes)) <= radius_mm**2).astype(np.uint8)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


SOME = ("triangle", "human", "lost-slices", "skipped-slices")  # one of each way to work
EACH_NOISE = ["neighbour", *(pytest.param(kind, marks=() if kind in SOME else pytest.mark.slow) for kind in VOLUME_NOISE)]


@pytest.mark.parametrize("kind", EACH_NOISE)
def test_noise_leaves_valid_labels_with_the_geometry_of_the_truth(tmp_path, kind):
    summary = simulate(source(tmp_path / "source"), tmp_path / "data", noise=kind, classes=3, clean=2, show_progress=False)
    assert (summary.noisy, summary.pairs) == (4, 2)
    changed = 0
    for path in sorted((tmp_path / "data" / "noisy").iterdir()):
        truth = tmp_path / "source" / "masks" / path.name
        blocks = [nibabel.load(file).header.binaryblock for file in (path, truth)]
        assert all(blocks[0][part] == blocks[1][part] for part in GEOMETRY)
        noisy = read_labels(path)
        assert set(np.unique(noisy)) <= {0, 1, 2}
        changed += (noisy != read_labels(truth)).any()
    assert changed >= 3 or kind == "mixture"
    assert summary.mean_dice < 1
    for path in (tmp_path / "data" / "clean").iterdir():
        assert (read_labels(path) == read_labels(tmp_path / "source" / "masks" / path.name)).all()
    assert check(tmp_path / "data", classes=3, show_progress=False).of("clean")


@pytest.mark.parametrize("kind", VOLUME_NOISE)
def test_no_strength_is_no_noise_and_a_little_is_a_little(kind):
    truth, random = ball((4, 1, 1)), np.random.default_rng
    assert (find_kind(kind)(truth, random(3), 0.0, None, (4.0, 1.0, 1.0)) == truth).all()
    nearly = [dice(truth, find_kind(kind)(truth, random(seed), 0.02, None, (4.0, 1.0, 1.0))) for seed in range(4)]
    assert min(nearly) > 0.9


@pytest.mark.parametrize(("kind", "radius"), [("dilate", 15), ("erode", 9)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (10.0, 1.0, 1.0), (1.0, 2.0, 10.0)])
def test_distances_are_in_mm_whatever_the_spacing(kind, radius, spacing):
    wide = 20
    noisy = find_kind(kind)(ball(spacing), np.random.default_rng(0), 1.0, None, spacing)
    finest = int(np.argmin(spacing))
    line = np.moveaxis(noisy, finest, 0)[(slice(None), *(extent // 2 for axis, extent in enumerate(noisy.shape) if axis != finest))]
    assert line.sum() / 2 * spacing[finest] == pytest.approx(radius, abs=1.2)
    assert wide * 2 / spacing[finest] + 1 >= line.sum()


def test_no_slice_is_reached_that_is_further_off():
    spacing = (10.0, 1.0, 1.0)
    truth = ball(spacing)
    wider = find_kind("dilate")(truth, np.random.default_rng(0), 1.0, None, spacing)  # by 3 mm
    assert (wider.any(axis=(1, 2)) == truth.any(axis=(1, 2))).all()
    assert wider.sum() > truth.sum()


def test_classes_that_grow_into_each_other_keep_their_border():
    halves = np.where(np.arange(41) < 20, 1, 2).astype(np.uint8) * ball()
    noisy = draw_labels(find_kind("dilate"), halves, lambda: np.random.default_rng(0), 1.0, classes=3, spacing=(1.0, 1.0, 1.0))
    assert (noisy[halves > 0] == halves[halves > 0]).mean() > 0.99
    assert {label: (noisy == label).sum() > (halves == label).sum() for label in (1, 2)} == {1: True, 2: True}


def test_a_shift_moves_as_far_in_mm_across_thick_slices():
    spacing = (4.0, 1.0, 1.0)
    truth = ball(spacing)
    moved = find_kind("shift")(truth, np.random.default_rng(1), 1.0, None, spacing)
    centres = [np.array(np.nonzero(mask)).mean(axis=1) * spacing for mask in (truth, moved)]
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(6, abs=1)


def test_slices_lie_across_the_thickest_axis():
    truth = ball((1, 1, 6))
    boxes = find_kind("box")(truth, np.random.default_rng(0), 1.0, None, (1.0, 1.0, 6.0))
    for plane, box in zip(np.moveaxis(truth, 2, 0), np.moveaxis(boxes, 2, 0), strict=True):
        assert box.any() == plane.any()
        if plane.any():
            rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
            assert box.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_lost_slices_are_one_run():
    truth = ball()
    noisy = find_kind("lost-slices")(truth, np.random.default_rng(2), 1.0)
    lost = np.flatnonzero(truth.any(axis=(1, 2)) & ~noisy.any(axis=(1, 2)))
    assert len(lost) > 3
    assert (np.diff(lost) == 1).all()
    kept = np.delete(np.arange(len(truth)), lost)
    assert (noisy[kept] == truth[kept]).all()


def test_skipped_slices_are_interpolated_between_those_that_are_drawn():
    truth = ball()
    noisy = find_kind("skipped-slices")(truth, np.random.default_rng(0), 1.0)
    filled = np.flatnonzero(truth.any(axis=(1, 2)))
    same = [place for place in filled if (noisy[place] == truth[place]).all()]
    assert filled[0] in same
    assert filled[-1] in same
    assert len(filled) / 4 <= len(same) < len(filled) / 1.5
    assert noisy[filled].any(axis=(1, 2)).all()
    assert 0.9 < dice(truth, noisy) < 1


def test_the_neighbour_takes_border_and_leaves_the_outline():
    drawn = [LABEL_KINDS["neighbour"].draw(LABELS, np.random.default_rng(0), strength, (5.0, 0.8, 0.8)) for strength in (0, 1, 2)]
    assert (drawn[0] == LABELS).all()
    wrong = [noisy != LABELS for noisy in drawn]
    assert all(((noisy > 0) == (LABELS > 0)).all() for noisy in drawn)
    assert 0 < wrong[1].sum() < wrong[2].sum()
    assert not (wrong[1] & ~wrong[2]).any()


def test_a_target_dice_is_met_over_both_classes(tmp_path):
    summary = simulate(source(tmp_path / "s"), tmp_path / "d", noise="drop", classes=3, clean=1, target_dice=0.8, show_progress=False)
    assert summary.mean_dice == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise", "unsupervised", "--classes", "3"], "makes no sense for volumes; there are"),
        (["--noise", "neighbour"], "needs classes = 3 or more (--classes 3)"),
        (["--noise", "erode"], "holds 3 values (0, 1, 2)"),
    ],
)
def test_noise_that_makes_no_sense_is_refused_in_words(tmp_path, run_command, options, words):
    source(tmp_path / "source", number=2)
    code, _, err = run_command("simulate", tmp_path / "source", tmp_path / "out", "--clean", 1, *options)
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


def test_kinds_for_volumes_are_refused_for_pictures(tmp_path):
    for folder in ("images", "masks"):
        for place in range(2):
            write_nifti(tmp_path / "s" / folder / f"{place}.nii.gz", LABELS[4:5])
    with pytest.raises(ConfigError, match=r"lost-slices .* makes no sense for pictures"):
        simulate(tmp_path / "s", tmp_path / "out", noise="lost-slices", classes=3, clean=1, show_progress=False)
    assert simulate(tmp_path / "s", tmp_path / "out", noise="box", classes=3, clean=1, show_progress=False).mean_dice < 1
    assert {path.suffix for path in (tmp_path / "out" / "noisy").iterdir()} == {".png"}


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the hippocampus data are not here")
@pytest.mark.parametrize(("kind", "target"), [("human", None), ("skipped-slices", None), ("erode", 0.8), ("shift", 0.9)])
def test_noise_of_the_hippocampus(tmp_path, kind, target):
    for folder in ("images", "masks"):
        (tmp_path / "s" / folder).mkdir(parents=True)
        for path in sorted((HIPPOCAMPUS / folder).iterdir())[:6]:
            (tmp_path / "s" / folder / path.name).symlink_to(path)
    summary = simulate(tmp_path / "s", tmp_path / "d", noise=kind, classes=3, clean=2, target_dice=target, show_progress=False)
    assert summary.mean_dice == pytest.approx(target, abs=0.01) if target else 0.4 < summary.mean_dice < 0.99


# Evaluation


def test_volumes_are_measured_in_mm_by_class(tmp_path, run_command):
    for place, shift in enumerate((0, 1)):
        write_nifti(tmp_path / "truth" / f"{place}.nii.gz", LABELS)
        write_nifti(tmp_path / "predicted" / f"{place}.nii.gz", np.roll(LABELS, shift, axis=0))
    code, out, err = run_command(
        "evaluate", tmp_path / "predicted", tmp_path / "truth", "--classes", 3, "--tolerance", 2, "--out", tmp_path / "f.csv"
    )
    assert code == 0, err
    assert "distances in mm, surface Dice at 2 mm" in out
    table = pd.read_csv(tmp_path / "f.csv").set_index("id")
    assert table.loc[0, ["dice", "dice_1", "dice_2", "surface_dice"]].tolist() == [1, 1, 1, 1]
    assert table.loc[1, "hausdorff95"] == pytest.approx(5)  # a slice
    assert table.loc[1, "dice"] == pytest.approx(table.loc[1, ["dice_1", "dice_2"]].mean())
    assert {"surface_distance_1", "surface_dice_2"} <= set(table.columns)
    assert "dice_2" in out


def test_predictions_on_another_grid_and_pictures_among_volumes_are_faults(tmp_path):
    for name in ("a", "b"):
        write_nifti(tmp_path / "truth" / f"{name}.nii.gz", LABELS)
    moved = TURNED.copy()
    moved[1, 3] += 3
    write_nifti(tmp_path / "predicted" / "a.nii.gz", LABELS, moved)
    write_nifti(tmp_path / "predicted" / "b.nii.gz", LABELS[1:])
    text = refused(evaluate, tmp_path / "predicted", tmp_path / "truth", classes=3, show_progress=False)
    assert "up to 3 mm off (origin 3 mm off)" in text
    assert "20 × 24 × 9 voxels, but its truth" in text
    assert "resample them to its grid" in text
    for folder in ("truth", "predicted"):
        write_nifti(tmp_path / folder / "a.nii.gz", LABELS)
        write_nifti(tmp_path / folder / "b.nii.gz", LABELS[:1])
    assert "pictures and volumes together" in refused(evaluate, tmp_path / "predicted", tmp_path / "truth", classes=3, show_progress=False)


# What is to come


def test_convert_refuses_volumes_in_one_line(tmp_path):
    write_data(tmp_path / "data")
    text = refused(convert, tmp_path / "data" / "noisy", tmp_path / "out.json", to="coco", show_progress=False)
    assert "3D Slicer and ITK-SNAP open the NIfTI files as they are" in text


# Real ones


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the hippocampus data are not here")
def test_the_hippocampus_volumes_are_read(tmp_path):
    for split, role in (("train", "noisy"), ("val", "clean")):
        (tmp_path / role).mkdir()
        ids = [line.split(",")[0] for line in (HIPPOCAMPUS / "split.csv").read_text().splitlines() if line.endswith(split)]
        for identity in ids[:20]:
            (tmp_path / role / f"{identity}.nii.gz").symlink_to(HIPPOCAMPUS / "masks" / f"{identity}.nii.gz")
    (tmp_path / "images").symlink_to(HIPPOCAMPUS / "images")
    cases = check(tmp_path, classes=3, show_progress=False)
    assert "spacing 1 x 1 x 1 mm in all" in str(cases)
    assert "volumes" in refused(read_cases, tmp_path, show_progress=False)
