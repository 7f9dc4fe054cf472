"""Data folders with other names: they are read by options, and where the options are missing the fault proposes them."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pixeltrust.auditing.run import audit
from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.layouts import propose_endings
from pixeltrust.plumbing.errors import DataError
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.training.train import train
from tiny import configured, draw

MASK = np.zeros((6, 8), np.uint8)
MASK[2, 3] = 1


def put(path, pixels=MASK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def folder(root, *, image_end="", noisy_end="", clean_end="", names=("images", "noisy", "clean")):
    """Two noisy and two clean cases in folders of these names."""
    for identity in ("p1", "p12", "c1", "c2"):
        put(root / names[0] / f"{identity}{image_end}.png", np.zeros((6, 8, 3)))
    for identity in ("p1", "p12"):
        put(root / names[1] / f"{identity}{noisy_end}.png")
    for identity in ("c1", "c2"):
        put(root / names[2] / f"{identity}{clean_end}.png")
    return root


def read(data, **layout):
    return read_cases(data, show_progress=False, **layout)


def ids(data, **layout):
    return [case.id for case in read(data, **layout).cases]


def message_of(data, **layout):
    with pytest.raises(DataError) as caught:
        read(data, **layout)
    return str(caught.value)


# Endings of names


@pytest.mark.parametrize(
    ("ends", "layout", "options"),
    [
        ({"noisy_end": "_mask", "clean_end": "_mask"}, {"mask_suffix": "_mask"}, ["--mask-suffix _mask"]),
        ({"noisy_end": " gt", "clean_end": " gt"}, {"mask_suffix": " gt"}, ["--mask-suffix ' gt'"]),
        ({"noisy_end": "m", "clean_end": "m"}, {"mask_suffix": ["m"]}, ["--mask-suffix m"]),
        ({"noisy_end": "-a", "clean_end": "_b"}, {"mask_suffix": ["-a", "_b"]}, ["--mask-suffix=-a", "--mask-suffix _b"]),
        ({"image_end": "_0000"}, {"image_suffix": "_0000"}, ["--image-suffix _0000"]),
        (
            {"image_end": "_image", "noisy_end": "_mask", "clean_end": "_mask"},
            {"image_suffix": "_image", "mask_suffix": "_mask"},
            ["--mask-suffix _mask --image-suffix _image"],
        ),
    ],
)
def test_an_ending_that_names_have_in_common_is_proposed_in_one_line_and_taken_off_when_it_is_given(tmp_path, ends, layout, options):
    folder(tmp_path, **ends)
    text = message_of(tmp_path)
    assert text.startswith(f"{tmp_path}: {len(options)} fault")
    assert all(option in text for option in options)
    assert "without an image" not in text
    assert ids(tmp_path, **layout) == ["c1", "c2", "p1", "p12"]


def test_the_proposal_counts_the_masks_and_names_one(tmp_path):
    folder(tmp_path, noisy_end="_mask", clean_end="_mask")
    assert "4 masks match an image once `_mask` is taken off: use --mask-suffix _mask" in message_of(tmp_path)
    assert str(tmp_path / "clean/c1_mask.png") in message_of(tmp_path)


def test_masks_that_no_ending_explains_are_named_beside_the_proposal(tmp_path):
    put(folder(tmp_path, noisy_end="_mask", clean_end="_mask") / "noisy/other_mask.png")
    text = message_of(tmp_path)
    assert "4 masks match" in text
    assert f"{tmp_path / 'noisy/other_mask.png'}: a mask without an image: no images/other_mask.*" in text


def test_a_number_is_no_ending():
    assert propose_endings({"12", "13"}, {"1"}) == []


def test_of_several_channels_of_an_image_the_first_is_proposed(tmp_path):
    folder(tmp_path, image_end="_0000")
    for identity in ("p1", "p12", "c1", "c2"):
        put(tmp_path / f"images/{identity}_0001.png")
    assert "--image-suffix _0000" in message_of(tmp_path)
    found = read(tmp_path, image_suffix="_0000")
    assert [case.image.name for case in found.cases] == ["c1_0000.png", "c2_0000.png", "p1_0000.png", "p12_0000.png"]
    assert "4 images without any mask: not used" in found.notes


def test_masks_whose_names_have_no_ending_stay_what_they_are(tmp_path):
    folder(tmp_path, noisy_end="_mask")
    assert ids(tmp_path, mask_suffix="_mask") == ["c1", "c2", "p1", "p12"]
    put(tmp_path / "images/_mask.png"), put(tmp_path / "noisy/_mask.png")
    assert "_mask" in ids(tmp_path, mask_suffix="_mask")


def test_an_ending_that_no_name_has_is_a_fault(tmp_path):
    folder(tmp_path)
    assert "no mask's name ends in `_gt`" in message_of(tmp_path, mask_suffix="_gt")
    assert "no image's name ends in `_gt`" in message_of(tmp_path, image_suffix="_gt")


def test_two_masks_that_become_one_case_are_a_fault(tmp_path):
    put(folder(tmp_path, noisy_end="_mask") / "noisy/p1.png")
    assert "2 files of one id, p1: p1.png, p1_mask.png" in message_of(tmp_path, mask_suffix="_mask")


# Folders of other names

OTHER = ("imgs", "weak", "Expert")
NAMED = dict(zip(("images", "noisy", "clean"), OTHER, strict=True))


def test_folders_of_other_names_are_found_proposed_and_read(tmp_path):
    folder(tmp_path, names=OTHER)
    text = message_of(tmp_path)
    assert "found there: Expert/ (2 files), imgs/ (4 files), weak/ (2 files)" in text
    assert "--images imgs --noisy weak --clean Expert" in text
    assert ids(tmp_path, **NAMED) == ["c1", "c2", "p1", "p12"]
    absolute = {part: tmp_path / name for part, name in NAMED.items()}
    assert read(tmp_path, **absolute).cases == read(tmp_path, **NAMED).cases


def test_one_folder_of_another_name_is_proposed_where_the_others_are_as_usual(tmp_path):
    folder(tmp_path, names=("images", "noisy", "gold"))
    text = message_of(tmp_path)
    assert "no usable clean mask" in text
    assert "found there: gold/ (2 files); if these are meant, name them: --clean gold" in text
    put(tmp_path / "who knows/x.png")
    (tmp_path / "gold").rename(tmp_path / "mine")
    assert "--clean DIR" in message_of(tmp_path)


def test_another_folder_with_images_is_noted(tmp_path):
    folder(tmp_path)
    put(tmp_path / "Test/t1.png")
    (tmp_path / "notes").mkdir()
    assert f"{tmp_path}: other folders with images, not looked into: Test" in read(tmp_path).notes
    put(tmp_path / "images/t1.png")
    named = read(tmp_path, test="Test")
    assert [case.id for case in named.of("test")] == ["t1"]
    assert named.notes == ()


def test_a_named_folder_must_be_there_and_be_that_of_one_part_alone(tmp_path):
    folder(tmp_path)
    assert "weak: there is no such folder; --noisy counts from" in message_of(tmp_path, noisy="weak")
    assert "the folder of images cannot be that of noisy too" in message_of(tmp_path, noisy="images")
    assert "the folder of noisy cannot be that of clean too" in message_of(tmp_path, noisy="clean")


def test_a_table_takes_no_such_options(tmp_path):
    folder(tmp_path)
    (tmp_path / "cases.csv").write_text("id,image,mask,role\np1,images/p1.png,noisy/p1.png,noisy\nc1,images/c1.png,clean/c1.png,clean\n")
    assert ids(tmp_path) == ["c1", "p1"]
    assert "a table names its files itself; leave out --noisy noisy, --mask-suffix _a" in message_of(
        tmp_path, noisy="noisy", mask_suffix="_a"
    )


def test_an_image_whose_ending_is_not_read_is_named_with_its_mask(tmp_path):
    folder(tmp_path)
    (tmp_path / "images/p1.png").rename(tmp_path / "images/p1.heic")
    text = message_of(tmp_path)
    assert f"{tmp_path / 'noisy/p1.png'}: a mask without an image: there is images/p1.heic, but .heic is not read" in text


# The commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder of other names, and a run on it: (data, run)."""
    root = tmp_path_factory.mktemp("trained")
    data = draw(root / "data", noisy=6, clean=4, test=2)
    for part, name in {"images": "imgs", "noisy": "weak", "clean": "expert", "test": "held"}.items():
        (data / part).rename(data / name)
        for path in sorted((data / name).iterdir()) if part != "images" else ():
            path.rename(path.with_name(f"{path.stem}_seg.png"))
    assert len(check(data, show_progress=False, **OTHER_LAYOUT).cases) == 12
    train(data, out=root / "run", config=configured(epochs=1), show_progress=False, **OTHER_LAYOUT)
    return data, root / "run"


def test_a_run_remembers_the_files_so_that_its_table_needs_no_options(trained):
    data, run = trained
    found = read(run / "cases.csv")
    assert [len(found.of(role)) for role in ("noisy", "clean", "test")] == [6, 4, 2]
    assert found.of("noisy")[0].mask == data / "weak/000_seg.png"
    assert found.of("noisy")[0].id == "000"


pytestmark = pytest.mark.usefixtures("small_pictures")
OTHER_LAYOUT = {"images": "imgs", "noisy": "weak", "clean": "expert", "test": "held", "mask_suffix": "_seg"}
OPTIONS = ("--images", "imgs", "--noisy", "weak", "--clean", "expert", "--test", "held", "--mask-suffix", "_seg")


def test_check_and_audit_take_the_options_and_a_review_of_that_audit_needs_none(trained, tmp_path, run_command):
    run = trained[1]
    data = shutil.copytree(trained[0], tmp_path / "data")
    pair = min(path.name for path in (data / "expert").iterdir())
    shutil.copy(data / "expert" / pair, data / "weak" / pair)
    code, output, _ = run_command("check", data, *OPTIONS, "-q")
    assert code == 0
    assert "no faults; 6 noisy, 4 clean, 2 test cases" in output
    assert "1 pair" in output
    assert run_command("check", data, "-q")[0] == 2
    code, _, error = run_command("audit", run, data, *OPTIONS, "--out", tmp_path / "audit", "-q")
    assert (code, error) == (0, "")
    assert len(pd.read_csv(tmp_path / "audit/cases.csv")) == 6
    export(tmp_path / "audit", tmp_path / "reviewed", show_progress=False)
    assert len(read(tmp_path / "reviewed").cases) == 12
    assert [case.given.read_bytes() for case in read(tmp_path / "reviewed").pairs] == [(data / "weak" / pair).read_bytes()]
    assert read(tmp_path / "audit/given.csv").cases == read(data, **OTHER_LAYOUT).cases


def test_train_takes_the_options(trained, tmp_path, run_command):
    settings = [
        word for name, value in (("model", "tiny:network"), ("image_size", 16), ("epochs", 1)) for word in ("--set", f"{name}={value}")
    ]
    code, _, error = run_command("train", trained[0], *OPTIONS, "--out", tmp_path / "run", *settings, "-q")
    assert (code, error) == (0, "")


def test_a_question_and_a_benchmark_take_the_options(trained, tmp_path, run_command):
    code, output, _ = run_command("benchmark", trained[0], *OPTIONS, "--question", "--out", tmp_path / "answer", "-q")
    assert code == 0
    assert "Too few clean cases" in output
    code, _, error = run_command("benchmark", trained[0], *OPTIONS, "--set", "clean=[99]", "--out", tmp_path / "grid", "-q")
    assert code == 2
    assert "has 4 clean cases" in error


def test_an_audit_of_folders_with_usual_names_keeps_no_table_of_its_own(trained, tmp_path):
    data = draw(tmp_path / "data", noisy=3, clean=3, test=0)
    audit(trained[1], data, out=tmp_path / "audit", show_progress=False)
    assert not (tmp_path / "audit/given.csv").exists()


def test_evaluate_takes_the_ending_off_in_both_folders_and_proposes_it(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / f"predicted/{name}.png"), put(tmp_path / f"truth/{name}_seg.png")
    with pytest.raises(DataError) as caught:
        evaluate(tmp_path / "predicted", tmp_path / "truth", show_progress=False)
    assert caught.value.faults == ["2 pairs would match once `_seg` is taken off: use --mask-suffix _seg"]
    found = evaluate(tmp_path / "predicted", tmp_path / "truth", mask_suffix="_seg", show_progress=False)
    assert found.cases["id"].tolist() == ["a", "b"]
    for name in ("a", "b"):
        (tmp_path / f"predicted/{name}.png").rename(tmp_path / f"predicted/{name}_0000.png")
        (tmp_path / f"truth/{name}_seg.png").rename(tmp_path / f"truth/{name}.png")
    assert len(evaluate(tmp_path / "predicted", tmp_path / "truth", mask_suffix=["_0000"], show_progress=False).cases) == 2
