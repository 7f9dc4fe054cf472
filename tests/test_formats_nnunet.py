"""A data folder as a dataset of nnU-Net, and that as a data folder again."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from pixeltrust.data.cases import check
from pixeltrust.data.images import read_header, read_image, read_labels, read_values
from pixeltrust.formats.convert import convert
from pixeltrust.plumbing.errors import DataError
from volumes import SHAPE, ellipsoid, simple_itk, write_data, write_nifti

GEOMETRY = (slice(76, 108), slice(123, 124), slice(252, 328))  # of a NIfTI header: pixdim, xyzt_units, both transforms
LABELS = ellipsoid()


def run(source, out, **rest):
    return convert(source, out, to="nnunet", show_progress=False, **rest)


def geometry(path):
    block = nibabel.load(path).header.binaryblock
    return [block[part] for part in GEOMETRY]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Volumes of two classes with ignored voxels, a pair, a test case and files that are not compressed."""
    folder = write_data(tmp_path_factory.mktemp("nnunet") / "data")
    write_nifti(folder / "images" / "n2.nii", np.ones(SHAPE, np.int16))
    (folder / "images" / "n2.nii.gz").unlink()
    ignored = LABELS.copy()
    ignored[0] = 255
    write_nifti(folder / "noisy" / "n1.nii.gz", ignored)
    write_nifti(folder / "noisy" / "c1.nii.gz", 0 * LABELS)
    write_nifti(folder / "images" / "t0.nii.gz", np.zeros(SHAPE, np.float32))
    write_nifti(folder / "test" / "t0.nii.gz", LABELS)
    return folder


def test_a_data_folder_of_volumes_becomes_a_dataset_and_is_read_again(data, tmp_path, run_command):
    out = tmp_path / "Dataset001_Ellipsoids"
    code, said, error = run_command("convert", data, out, "--to", "nnunet", "--classes", "3", "--label", "head", "--label", "tail")
    assert code == 0, error
    assert f"{out}: 6 masks, from a data folder, as nnunet\nlabels: head = 1, tail = 2, ignore = 3\n" in said
    assert "the noisy ones of 1 pair are left out" in said
    assert "name one of CT `CT` there" in said
    assert json.loads((out / "dataset.json").read_text()) == {
        "channel_names": {"0": "channel-0"},
        "labels": {"background": 0, "head": 1, "tail": 2, "ignore": 3},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    assert (out / "clean.txt").read_text() == "c0\nc1\n"
    before, after = check(data, classes=3, show_progress=False), check(out, show_progress=False)
    for role in ("noisy", "clean", "test"):
        assert [case.id for case in after.of(role)] == [case.id for case in before.of(role)]
    for old, new in zip(before.cases, after.cases, strict=True):
        values, written = read_labels(old.mask), read_labels(new.mask)
        assert (written == np.where(values == 255, 3, values)).all()
        assert (read_values(new.image) == read_values(old.image)).all()
        assert geometry(new.image) == geometry(new.mask) == geometry(old.image) == geometry(old.mask)
    assert "ignored 480 (" in str(after)


def test_channels_of_a_table_and_of_another_format_are_kept(tmp_path, run_command):
    itk = simple_itk()
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        image = itk.GetImageFromArray(np.full(SHAPE, ord(name[0]) + int(name[-1]), np.int16))
        image.SetSpacing((0.7, 0.7, 3))
        image.SetOrigin((-3.3, 1 / 3, 7))
        itk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
        mask = itk.GetImageFromArray(LABELS)
        mask.CopyInformation(image)
        itk.WriteImage(mask, str(tmp_path / f"{name[0]}.mha"))
    (tmp_path / "cases.csv").write_text("id,image,mask,role,channels\np,a_0000.nrrd,a.mha,noisy,2\nq,b_0000.nrrd,b.mha,clean,2\n")
    code, said, error = run_command("check", tmp_path, "--classes", "3")
    assert code == 0, error
    assert "2 volumes, 2 channels:" in said
    out = tmp_path / "out"
    run(tmp_path, out, classes=3)
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "channel-0", "1": "channel-1"}
    cases = check(out, show_progress=False).cases
    assert [case.image_files for case in cases] == [[out / "imagesTr" / f"{name}_000{number}.nrrd" for number in (0, 1)] for name in "pq"]
    for case, first in zip(cases, "ab", strict=True):
        assert [read_values(file).max() for file in case.image_files] == [ord(first), ord(first) + 1]
        grid, wanted = read_header(case.mask).grid, read_header(tmp_path / f"{first}_0000.nrrd").grid
        assert (grid.steps == wanted.steps).all()
        assert (grid.origin == wanted.origin).all()


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("a_0000.nii.gz,a.nii.gz,noisy,none", "channels is the number of files of the image, 1 or more, not 'none'"),
        ("a.nii.gz,a.nii.gz,noisy,2", "of several channels the image is the first, <name>_0000.nii.gz, not 'a.nii.gz'"),
        ("a_0000.nii.gz,a.nii.gz,noisy,2", "a_0001.nii.gz: there is no such file"),
    ],
)
def test_channels_of_a_table_that_are_none_are_faults(tmp_path, cells, words):
    for name in ("a", "a_0000", "b_0000"):
        write_nifti(tmp_path / f"{name}.nii.gz", LABELS)
    (tmp_path / "cases.csv").write_text(f"id,image,mask,role,channels\na,{cells}\nb,b_0000.nii.gz,a.nii.gz,clean,\n")
    with pytest.raises(DataError, match="fault") as caught:
        check(tmp_path, classes=3, headers=True, show_progress=False)
    assert words in str(caught.value)


@pytest.mark.parametrize("coloured", [True, False])
def test_pictures_become_png_of_one_number_of_channels(tmp_path, coloured):
    random = np.random.default_rng(0)
    for folder in ("images", "noisy", "clean"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for place, name in enumerate(("a.jpg", "b.png", "c.tif")):
        shape = (20, 24, 3) if coloured and place == 0 else (20, 24)
        Image.fromarray(random.integers(0, 255, shape, np.uint8)).save(tmp_path / "data" / "images" / name)
        mask = np.kron(random.integers(0, 2, (5, 6), np.uint8), np.full((4, 4), 255, np.uint8))
        Image.fromarray(mask).save(tmp_path / "data" / ("clean" if place else "noisy") / f"{name[0]}.png")
    said = run(tmp_path / "data", tmp_path / "out")
    assert said.labels == {"foreground": 1}
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert list(record["channel_names"].values()) == (["R", "G", "B"] if coloured else ["channel-0"])
    assert record["file_ending"] == ".png"
    modes = set()
    for path in (tmp_path / "out" / "imagesTr").iterdir():
        with Image.open(path) as image:
            modes.add(image.mode)
    assert modes == {"RGB" if coloured else "L"}
    before, after = (check(tmp_path / folder, show_progress=False) for folder in ("data", "out"))
    assert [(case.id, case.role) for case in after.cases] == [(case.id, case.role) for case in before.cases]
    for old, new in zip(before.cases, after.cases, strict=True):
        assert (read_image(new.image) == read_image(old.image)).all()
        assert (read_labels(new.mask) == read_labels(old.mask) // 255).all()


def test_what_cannot_be_a_dataset_is_said_and_nothing_is_written(data, tmp_path, run_command):
    for options, words in (
        ((data,), "holds 3 values (0, 1, 2) where classes = 1 allows"),
        ((data, "--classes", "3", "--label", "one"), "the masks have 2 labels, 1 names were given"),
        ((data, "--images", data / "images"), "images: not for nnunet"),
        ((data / "noisy",), "not a data folder"),
    ):
        code, _, error = run_command("convert", options[0], tmp_path / "out", "--to", "nnunet", *options[1:])
        assert code == 2
        assert words in error
        assert list(tmp_path.iterdir()) == []
    run(data, tmp_path / "out", classes=3)
    with pytest.raises(DataError, match="a dataset of nnU-Net already"):
        run(tmp_path / "out", tmp_path / "again")
    itk = simple_itk()
    itk.WriteImage(itk.ReadImage(str(data / "images" / "n0.nii.gz")), str(tmp_path / "x.nrrd"))
    write_nifti(tmp_path / "x.nii.gz", LABELS)
    (tmp_path / "cases.csv").write_text(f"id,image,mask,role\na,x.nrrd,x.nii.gz,noisy\nb,{data}/images/n0.nii.gz,x.nii.gz,clean\n")
    with pytest.raises(DataError, match="images in 2 formats"):
        run(tmp_path / "cases.csv", tmp_path / "mixed", classes=3)


def test_an_image_that_nnunet_could_not_use_is_named(tmp_path):
    write_data(tmp_path / "data")
    write_nifti(tmp_path / "data" / "images" / "n0.nii.gz", np.full(SHAPE, np.nan, np.float32))
    cut = tmp_path / "data" / "images" / "c1.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        run(tmp_path / "data", tmp_path / "out", classes=3)
    assert "n0.nii.gz: holds 4,800 voxels whose value is not finite" in str(caught.value)
    assert "c1.nii.gz: cannot be read: " in str(caught.value)


def test_nnunet_itself_finds_no_fault(data, tmp_path, capfd):
    verify = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity", reason="nnU-Net is not here")
    run(data, tmp_path / "out", classes=3)
    verify.verify_dataset_integrity(str(tmp_path / "out"), num_processes=1)
    assert "verify_dataset_integrity Done" in capfd.readouterr().out
