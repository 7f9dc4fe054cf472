"""Files of probabilities by other programs: every format gives the same numbers, and what is no probability of the case is refused."""

import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from audits import discs
from pixeltrust.data.cases import read_cases
from pixeltrust.data.images import read_labels
from pixeltrust.data.probabilities import ProbabilityFiles
from pixeltrust.plumbing.errors import DataError

SIZE = (48, 64)
CLOSE = {8: 2 / 255, 16: 2 / 65535, 32: 1e-6}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return read_cases(discs(tmp_path_factory.mktemp("data"), size=SIZE), show_progress=False).of("noisy")


def softmax(identity, classes, size=SIZE):
    """Return probabilities (K, H, W) of a case, K ≥ 2, of more than half precision."""
    logits = np.random.default_rng(ord(identity[0])).normal(0, 2, (classes, *size))
    powers = np.exp(logits)
    return (powers / powers.sum(0)).astype(np.float32)


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 1, 1]) if affine is None else affine), path)


def grey(path, plane, bits):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((plane * (2**bits - 1)).round().astype({8: np.uint8, 16: np.uint16}[bits])).save(path)


def greys(folder, name, planes, bits):
    for label, plane in enumerate(planes):
        grey(folder / name.format(label), plane, bits)


def in_fold(folder, identity, planes):
    place = folder / f"fold_{ord(identity[0]) % 2}" / "validation"
    place.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place / f"{identity}.npz", probabilities=planes[:, None])
    grey(place / f"{identity}.png", planes.argmax(0) / 255, 8)


OF_ONE_CLASS = {
    "nnU-Net": (lambda folder, name, p: np.savez_compressed(folder / f"{name}.npz", probabilities=p[:, None]), 32),
    "nnU-Net's folds": (in_fold, 32),
    "nnU-Net 1": (lambda folder, name, p: np.savez_compressed(folder / f"{name}.npz", softmax=p.astype(np.float64)), 32),
    "npy of both": (lambda folder, name, p: np.save(folder / f"{name}.npy", p), 32),
    "npy of the foreground": (lambda folder, name, p: np.save(folder / f"{name}.npy", p[1]), 32),
    "npy with an axis for it": (lambda folder, name, p: np.save(folder / f"{name}.npy", p[1:]), 32),
    "NIfTI": (lambda folder, name, p: nifti(folder / f"{name}.nii.gz", p[1].T), 32),
    "NIfTI of a slice": (lambda folder, name, p: nifti(folder / f"{name}.nii", p[1].T[..., None]), 32),
    "NIfTI of both": (lambda folder, name, p: nifti(folder / f"{name}.nii.gz", p.T), 32),
    "8 bits": (lambda folder, name, p: grey(folder / f"{name}.png", p[1], 8), 8),
    "16 bits": (lambda folder, name, p: grey(folder / f"{name}.PNG", p[1], 16), 16),
}
OF_SEVERAL = {
    "nnU-Net": (lambda folder, name, p: np.savez(folder / f"{name}.npz", probabilities=p[:, None], more=p), 32),
    "npy": (lambda folder, name, p: np.save(folder / f"{name}.npy", p), 32),
    "NIfTI": (lambda folder, name, p: nifti(folder / f"{name}.nii.gz", p.T[:, :, None]), 32),
    "a PNG per class": (lambda folder, name, p: greys(folder, f"{name}_{{}}.png", p, 8), 8),
    "as predict has it": (
        lambda folder, name, p: [grey(folder / str(label) / f"{name}.png", plane, 16) for label, plane in enumerate(p)],
        16,
    ),
}


@pytest.mark.parametrize(
    ("classes", "write", "bits"),
    [(1, *how) for how in OF_ONE_CLASS.values()] + [(3, *how) for how in OF_SEVERAL.values()],
    ids=[*OF_ONE_CLASS, *(f"3 classes: {name}" for name in OF_SEVERAL)],
)
def test_every_format_gives_the_same_numbers(cases, tmp_path, classes, write, bits):
    for case in cases:
        write(tmp_path, case.id, softmax(case.id, max(classes, 2)))
    files = ProbabilityFiles(tmp_path, classes=classes)
    files.require(cases)
    for case in cases:
        read = files.read(case, SIZE)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, softmax(case.id, max(classes, 2)), atol=CLOSE[bits])
        np.testing.assert_allclose(read.sum(0), 1, atol=1e-6)


def test_half_precision_sums_to_one_again(cases, tmp_path):
    np.save(tmp_path / "a.npy", softmax("a", 9).astype(np.float16))
    read = ProbabilityFiles(tmp_path, classes=9).read(cases[0], SIZE)
    np.testing.assert_allclose(read.sum(0), 1, atol=1e-6)


def test_masks_beside_the_probabilities_are_left_alone_and_counted(cases, tmp_path):
    for case in cases:
        in_fold(tmp_path, case.id, softmax(case.id, 2))
    in_fold(tmp_path, "k", softmax("k", 2))
    files = ProbabilityFiles(tmp_path, classes=1)
    files.require(cases)
    assert files.notes == [
        f"{tmp_path}: its npz files are read, 4 other files not",
        f"{tmp_path}: the probabilities of 1 case without a noisy mask are not used",
    ]


# --- the grid and its orientation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(24, 32), (96, 128), (36, 48), (30, 41)])
def test_a_grid_of_the_masks_proportions_is_read_as_it_is(cases, tmp_path, grid):
    np.save(tmp_path / "a.npy", softmax("a", 2, grid))
    assert ProbabilityFiles(tmp_path, classes=1).read(cases[0], SIZE).shape == (2, *grid)


@pytest.mark.parametrize("grid", [(64, 48), (48, 48), (48, 67), (45, 64), (46, 59)])
def test_a_grid_of_other_proportions_is_refused_with_both_sizes(cases, tmp_path, grid):
    np.save(tmp_path / "a.npy", softmax("a", 2, grid))
    with pytest.raises(DataError, match=rf"a\.npy: {grid[1]}x{grid[0]} pixels, its mask 64x48: other proportions"):
        ProbabilityFiles(tmp_path, classes=1).read(cases[0], SIZE)


TURNED = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # the first axis runs to the front


def test_nifti_is_turned_as_its_mask_is(tmp_path):
    data = discs(tmp_path / "data", size=SIZE)
    mask = read_labels(data / "noisy" / "a.png")
    (data / "noisy" / "a.png").unlink()
    for affine, stored in ((np.diag([-1, -1, 1, 1]), lambda plane: plane.T), (np.diag([1, -1, 1, 1]), lambda plane: plane.T[::-1])):
        nifti(data / "noisy" / "a.nii.gz", stored(mask), affine)
        case = read_cases(data, show_progress=False).of("noisy")[0]
        np.testing.assert_array_equal(read_labels(case.mask), mask)
        folder = tmp_path / f"{affine[0, 0]:+}"
        folder.mkdir()
        nifti(folder / "a.nii.gz", np.stack([stored(plane) for plane in softmax("a", 3)], -1), affine)
        np.testing.assert_allclose(ProbabilityFiles(folder, classes=3).read(case, SIZE), softmax("a", 3), atol=1e-6)


def test_arrays_are_read_for_nifti_masks_in_the_usual_order_alone(tmp_path):
    data = discs(tmp_path / "data", size=SIZE)
    mask = read_labels(data / "noisy" / "a.png")
    (data / "noisy" / "a.png").unlink()
    np.savez(tmp_path / "a.npz", probabilities=softmax("a", 2)[:, None])
    files = ProbabilityFiles(tmp_path, classes=1)
    nifti(data / "noisy" / "a.nii.gz", mask.T)
    np.testing.assert_allclose(files.read(read_cases(data, show_progress=False).of("noisy")[0], SIZE), softmax("a", 2), atol=1e-6)
    nifti(data / "noisy" / "a.nii.gz", mask, TURNED)
    with pytest.raises(DataError, match=r"a\.npz: .*a\.nii\.gz is turned when it is shown.*save them as NIfTI"):
        files.read(read_cases(data, show_progress=False).of("noisy")[0], SIZE)


# --- what is refused --------------------------------------------------------------------------------------------------

ONE = softmax("a", 2)[1]


def with_one(array, value):
    changed = array.copy()
    changed[..., 3, 4] = value
    return changed


REFUSED = {
    "logits": (
        1,
        "npy",
        np.log(ONE / (1 - ONE)),
        r"values from -\S+ to \S+ where 0 to 1 are probabilities; are these logits\?",
    ),
    "percent": (1, "npy", 100 * ONE, "values from .* where 0 to 1"),
    "sigmoids": (
        3,
        "npy",
        np.stack([ONE, ONE, ONE]),
        r"the classes of a pixel sum to \S+ where 1 is due; .* Apply softmax over the classes",
    ),
    "no number": (1, "npy", with_one(ONE, np.nan), "holds values that are not finite"),
    "infinity": (1, "npy", with_one(ONE, np.inf), "holds values that are not finite"),
    "3 for 1": (1, "npy", softmax("a", 3), r"has 3 classes where 1 \(the foreground\) or 2 .* are needed; set --classes"),
    "2 for 3": (3, "npy", softmax("a", 3)[1:], "has 2 classes where 3 are needed; .* the background is one of them"),
    "1 for 2": (2, "npy", ONE, "has 1 class where 2 are needed"),
    "classes last": (3, "npy", np.moveaxis(softmax("a", 3), 0, -1), r"has 48 classes where 3 .*\(classes, rows, columns\)"),
    "a volume": (1, "npy", np.stack([ONE] * 4)[None], r"an array of shape \(1, 4, 48, 64\)"),
    "a row": (1, "npy", ONE[0], r"an array of shape \(64,\)"),
    "texts": (1, "npy", np.array([["a"]]), "holds values of the type"),
    "objects": (1, "npy", np.array([[{}]], object), "cannot be read"),
    "classes first": (3, "nii.gz", softmax("a", 3).transpose(0, 2, 1), r"has 48 classes where 3 are needed"),
    "slices": (3, "nii.gz", np.stack([softmax("a", 3).T] * 2, 2), r"a volume of shape \(64, 48, 2, 3\)"),
}


@pytest.mark.parametrize(("classes", "form", "array", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_probability_is_refused_in_words(cases, tmp_path, classes, form, array, message):
    path = tmp_path / f"a.{form}"
    nifti(path, array) if form == "nii.gz" else np.save(path, array)
    with pytest.raises(DataError, match=rf"a\.{re.escape(form)}: .*{message}"):
        ProbabilityFiles(tmp_path, classes=classes).read(cases[0], SIZE)


def test_broken_files_and_other_pictures_are_named(cases, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        ProbabilityFiles(tmp_path, classes=1).read(cases[0], SIZE)
    np.savez(tmp_path / "a.npz", one=ONE, other=ONE)
    with pytest.raises(DataError, match=r"a\.npz: has the arrays one, other; wanted is one of the name probabilities"):
        ProbabilityFiles(tmp_path, classes=1).read(cases[0], SIZE)
    (tmp_path / "a.npz").unlink()
    for mode in ("RGB", "P", "1"):
        Image.fromarray((ONE * 255).astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
        with pytest.raises(DataError, match=rf"a\.png: a PNG of the mode {mode}; save it as grey"):
            ProbabilityFiles(tmp_path, classes=1).read(cases[0], SIZE)
    for label, size in enumerate([SIZE, SIZE, (24, 32)]):
        grey(tmp_path / "b" / f"a_{label}.png", softmax("a", 3, size)[label], 8)
    with pytest.raises(DataError, match=r"a_0\.png: 32x24 and 64x48 pixels in the files of one case"):
        ProbabilityFiles(tmp_path / "b", classes=3).read(cases[0], SIZE)


def test_folders_that_hold_no_probabilities(cases, tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        ProbabilityFiles(tmp_path / "nowhere", classes=1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no probabilities \(npz, npy, NIfTI, PNG files\)$"):
        ProbabilityFiles(tmp_path, classes=1)
    grey(tmp_path / "1" / "a.png", ONE, 8)
    with pytest.raises(DataError, match="set --classes"):
        ProbabilityFiles(tmp_path, classes=1)
    grey(tmp_path / "a.png", ONE, 8)
    with pytest.raises(DataError, match=r"of several classes PNG files are <label>/<id>\.png or"):
        ProbabilityFiles(tmp_path, classes=3)


def test_two_files_for_one_case_are_named(tmp_path):
    for fold in (0, 1):
        (tmp_path / f"fold_{fold}" / "validation").mkdir(parents=True)
        np.savez(tmp_path / f"fold_{fold}" / "validation" / "a.npz", probabilities=ONE)
    with pytest.raises(DataError, match=r"fold_1/validation/a\.npz: .*fold_0/validation/a\.npz is for the same case"):
        ProbabilityFiles(tmp_path, classes=1)


def test_cases_without_files_are_all_counted_and_ten_named(tmp_path):
    ids = [f"c{number:02}" for number in range(14)]
    cases = read_cases(discs(tmp_path / "data", ids=ids), show_progress=False).of("noisy")
    for identity in ids[:2]:
        np.save(tmp_path / f"{identity}.npy", ONE)
    files = ProbabilityFiles(tmp_path, classes=1)
    with pytest.raises(DataError, match="2 of 14 noisy masks have probabilities there") as raised:
        files.require(cases)
    text = str(raised.value)
    assert "12 noisy masks without probabilities: predict these cases too (of a cross-validation all folds)" in text
    assert [identity for identity in ids if f"{identity}: no npy file" in text] == ids[2:12]
    assert "… and 2 more" in text


def test_one_missing_class_is_named_and_names_of_another_kind_are_shown(cases, tmp_path):
    for case in cases:
        for label in range(3):
            grey(tmp_path / str(label) / f"{case.id}.png", softmax(case.id, 3)[label], 8)
    (tmp_path / "2" / "b.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 noisy masks have probabilities there\s+b: no PNG file of label 2"):
        ProbabilityFiles(tmp_path, classes=3).require(cases)
    np.save(tmp_path / "a_softmax.npy", ONE)
    with pytest.raises(DataError, match=r"0 of 3 noisy masks .*files are named <id>, after the cases; there are a_softmax\.npy"):
        ProbabilityFiles(tmp_path, classes=1).require(cases)


@pytest.mark.parametrize("white", [1, 255])
def test_masks_are_not_taken_for_probabilities(cases, tmp_path, white):
    (tmp_path / "probabilities").mkdir()
    for case in cases:
        Image.fromarray((softmax(case.id, 2)[1] > 0.5).astype(np.uint8) * white).save(tmp_path / f"{case.id}.png")
    with pytest.raises(DataError, match=r"masks, not probabilities: 3 cases looked into, .*is \S+probabilities meant\?"):
        ProbabilityFiles(tmp_path, classes=1).require(cases)
    Image.fromarray((ONE * 255).astype(np.uint8)).save(tmp_path / "b.png")
    ProbabilityFiles(tmp_path, classes=1).require(cases)  # a network may be sure of the others
