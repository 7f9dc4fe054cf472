"""A data folder or table becomes cases that are paired by id, do not overlap, and whose faults are all found in one go."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from examples import examples
from pixeltrust.config import Config
from pixeltrust.data import cases as cases_module
from pixeltrust.data import checks as checks_module
from pixeltrust.data.batches import Streams, hold_out
from pixeltrust.data.cases import Case, CaseList, check, read_cases, table_of
from pixeltrust.data.checks import clean_warnings
from pixeltrust.data.images import read_header
from pixeltrust.data.listings import files_by_id
from pixeltrust.plumbing.errors import DataError
from pixeltrust.training.run_writer import RunWriter

BLANK = np.zeros((6, 8), np.uint8)


def put(path, pixels=BLANK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def folder(root, *, noisy=("n1", "n2"), clean=("c1", "c2"), test=("t1",), images=()):
    """A sound data folder; the masks have a foreground pixel of value 1."""
    mask = BLANK.copy()
    mask[2, 3] = 1
    for identity in {*noisy, *clean, *test, *images}:
        put(root / "images" / f"{identity}.png", np.zeros((6, 8, 3)))
    for role, ids in (("noisy", noisy), ("clean", clean), ("test", test)):
        for identity in ids:
            put(root / role / f"{identity}.png", mask)
    return root


def read(data):
    return read_cases(data, show_progress=False)


def checked(data, **options):
    return check(data, show_progress=False, **options)


def faults(act, data, **options):
    with pytest.raises(DataError) as caught:
        act(data, **options)
    text = str(caught.value)
    assert all(fault in text for fault in caught.value.faults)
    return caught.value.faults


def only(found, *words):
    """The one fault in which all the words stand."""
    matching = [fault for fault in found if all(str(word) in fault for word in words)]
    assert len(matching) == 1, (words, found)
    return matching[0]


def csv(root, *rows, header="id,image,mask,role,group", name="cases.csv", encoding="utf-8"):
    """A table over the files of `folder`, whose noisy, clean and test masks are its own where no row is given."""
    path = root / name
    path.write_bytes("\n".join([header, *rows]).encode(encoding))
    return path


def row(identity, role, *, image=None, mask=None, group=""):
    return f"{identity},{image or f'images/{identity}.png'},{mask or f'{role}/{identity}.png'},{role},{group}"


SOUND = (row("n1", "noisy"), row("c1", "clean"), row("t1", "test"))


# Folders


def test_cases_are_paired_by_id_and_not_by_order(tmp_path):
    put(tmp_path / "images/a.jpg"), put(tmp_path / "images/b.png"), put(tmp_path / "images/c.tif"), put(tmp_path / "images/d.v2.bmp")
    put(tmp_path / "noisy/d.v2.PNG"), put(tmp_path / "noisy/b.bmp"), put(tmp_path / "clean/c.png"), put(tmp_path / "test/a.TIFF")
    found = read(tmp_path)
    assert [(case.id, case.image.name, case.mask.name, case.role) for case in found.cases] == [
        ("a", "a.jpg", "a.TIFF", "test"),
        ("b", "b.png", "b.bmp", "noisy"),
        ("c", "c.tif", "c.png", "clean"),
        ("d.v2", "d.v2.bmp", "d.v2.PNG", "noisy"),
    ]
    assert [case.id for case in found.of("noisy")] == ["b", "d.v2"]
    assert found.notes == ()


def test_test_may_be_absent(tmp_path):
    assert read(folder(tmp_path, test=())).of("test") == []


def pairs_note(pairs):
    return f"{pairs}: cases with a clean and a noisy mask; they are trained as clean, and `pixeltrust mend` learns from them"


def test_a_clean_and_noisy_case_is_a_pair_and_trains_as_clean(tmp_path):
    found = read(folder(tmp_path, noisy=("n1", "z", "b"), clean=("c1", "z", "b")))
    assert [(case.id, case.mask, case.given) for case in found.of("clean")] == [
        ("b", tmp_path / "clean/b.png", tmp_path / "noisy/b.png"),
        ("c1", tmp_path / "clean/c1.png", None),
        ("z", tmp_path / "clean/z.png", tmp_path / "noisy/z.png"),
    ]
    assert found.pairs == [case for case in found.of("clean") if case.given]
    assert [(case.id, case.given) for case in found.of("noisy") + found.of("test")] == [("n1", None), ("t1", None)]
    assert found.notes == (pairs_note("2 pairs"),)
    assert "2 pairs" in str(found)


def test_many_pairs_of_a_table_are_found_whatever_the_order_of_its_rows(tmp_path):
    folder(tmp_path)
    numbers = [f"{number}" for number in range(50)]
    rows = [row(one, role, image="images/n1.png", mask=f"{role}/{role[0]}1.png") for one in numbers for role in ("noisy", "clean")]
    rows += [row("alone", "noisy", image="images/n1.png", mask="noisy/n1.png")]
    found = read(csv(tmp_path, *(rows[place] for place in np.random.default_rng(0).permutation(len(rows)))))
    assert {case.id: (case.mask.name, case.given.name) for case in found.pairs} == dict.fromkeys(numbers, ("c1.png", "n1.png"))
    assert found.of("noisy").texts("id").tolist() == ["alone"]


def test_without_a_case_in_both_there_are_no_pairs(tmp_path):
    assert read(folder(tmp_path)).pairs == []


def test_pairs_are_found_in_folders_of_other_names_and_endings(tmp_path):
    folder(tmp_path, noisy=("n1", "c1"), clean=("c1",), test=())
    (tmp_path / "noisy").rename(tmp_path / "crowd")
    (tmp_path / "crowd/c1.png").rename(tmp_path / "crowd/c1_mask.png")
    assert [case.given for case in read_cases(tmp_path, noisy="crowd", mask_suffix="_mask").pairs] == [tmp_path / "crowd/c1_mask.png"]


def test_the_given_mask_of_a_pair_is_checked_as_every_mask(tmp_path):
    folder(tmp_path, noisy=("n1", "small", "broken", "three"), clean=("small", "broken", "three"))
    put(tmp_path / "noisy/small.png", BLANK[:4])
    (tmp_path / "noisy/broken.png").write_bytes(b"no picture")
    put(tmp_path / "noisy/three.png", np.arange(48).reshape(6, 8) % 3)
    for act in (read, checked):
        found = faults(act, tmp_path)
        only(found, tmp_path / "noisy/small.png", "8x4 pixels", "8x6")
        only(found, tmp_path / "noisy/broken.png")
    only(found, tmp_path / "noisy/three.png", "classes")
    assert len(found) == 3


def test_given_masks_count_among_the_noisy_ones_in_what_their_values_mean(tmp_path):
    folder(tmp_path, noisy=("n1", "c1"))
    put(tmp_path / "noisy/n1.png", np.eye(6, 8) * 255)
    three = np.eye(6, 8)
    three[5, 0] = 255
    put(tmp_path / "noisy/c1.png", three)
    only(faults(checked, tmp_path), "ignore_label")
    put(tmp_path / "noisy/c1.png")
    put(tmp_path / "noisy/n1.png")
    assert "2 noisy masks without foreground: allowed" in checked(tmp_path).notes


def test_a_pair_whose_rows_differ_in_group_or_image_is_a_fault(tmp_path):
    folder(tmp_path, noisy=("n1", "c1", "c2"))
    rows = [row("n1", "noisy"), row("c1", "noisy", group="p"), row("c1", "clean", group="q")]
    rows += [row("c2", "noisy", image="images/n1.png"), row("c2", "clean")]
    found = faults(read, csv(tmp_path, *rows))
    only(found, "c1: rows of one id that differ in image or group", "(group p)", "(group q)")
    only(found, "c2: rows of one id that differ in image or group", tmp_path / "images/n1.png")


def test_images_without_masks_and_other_files_are_counted_and_hidden_ones_passed_over(tmp_path):
    folder(tmp_path, images=("spare1", "spare2"))
    (tmp_path / "noisy/Thumbs.db").write_bytes(b"")
    (tmp_path / "noisy/n3.png").mkdir()
    for name in (".DS_Store", "._n1.png", ".n9.png.unfinished", ".n8.png"):
        (tmp_path / "noisy" / name).write_bytes(b"")
    notes = read(tmp_path).notes
    assert "2 images without any mask: not used" in notes
    assert f"{tmp_path / 'noisy'}: 2 entries that are not images left out: Thumbs.db, n3.png" in notes
    assert len(notes) == 2


def test_an_id_is_the_same_however_its_accents_are_coded(tmp_path):
    folder(tmp_path)
    put(tmp_path / "images/é.png"), put(tmp_path / "noisy/e\N{COMBINING ACUTE ACCENT}.png")
    assert "é" in [case.id for case in read(tmp_path).of("noisy")]


def test_every_fault_of_a_folder_is_found_in_one_go(tmp_path):
    folder(tmp_path, noisy=("n1", "n2"), clean=(), test=("t1", "n1"), images=("twice", "broken", "lost"))
    put(tmp_path / "noisy/orphan.png")
    put(tmp_path / "images/twice.jpg"), put(tmp_path / "noisy/twice.png")
    put(tmp_path / "noisy/n2.png", np.zeros((6, 9)))
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    (tmp_path / "noisy/broken.png").write_bytes(b"no mask")
    (tmp_path / "noisy/lost.png").symlink_to(tmp_path / "elsewhere.png")
    os.link(tmp_path / "noisy/n1.png", tmp_path / "noisy/n1.tif")
    found = faults(read, tmp_path)
    only(found, tmp_path / "noisy/orphan.png", "without an image", "images/orphan.*")
    only(found, tmp_path / "images", "2 files of one id, twice", "twice.jpg", "twice.png")
    only(found, tmp_path / "noisy", "2 files of one id, n1", "n1.png", "n1.tif")
    only(found, tmp_path / "noisy/n2.png", "9x6 pixels", tmp_path / "images/n2.png", "8x6")
    only(found, tmp_path / "images/broken.png", "not an image")
    only(found, tmp_path / "noisy/broken.png", "not an image")
    only(found, tmp_path / "noisy/lost.png", "no such file")
    only(found, tmp_path / "test/n1.png", "test case that also trains", tmp_path / "noisy/n1.png")
    only(found, tmp_path / "clean", "no usable clean mask")
    assert len(found) == 9


@pytest.mark.parametrize(("missing", "expected"), [("noisy", "nothing to learn to trust"), ("clean", "expert masks are needed")])
def test_no_noisy_and_no_clean_mask_is_a_fault(tmp_path, missing, expected):
    folder(tmp_path, **{missing: ()})
    only(faults(read, tmp_path), tmp_path / missing, expected)


def test_a_test_image_that_trains_under_another_name_is_a_fault(tmp_path):
    folder(tmp_path)
    (tmp_path / "images/t1.png").unlink()
    (tmp_path / "images/t1.png").symlink_to(tmp_path / "images/c1.png")
    assert only(faults(read, tmp_path), "both sides", "t1 tests", "c1 trains")


def test_a_turned_photograph_fits_the_mask_drawn_on_what_is_seen(tmp_path):
    folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(tmp_path / "images/n1.png", exif=exif)
    assert len(read(tmp_path).cases) == 5
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images/n1.png", exif=exif)
    only(faults(read, tmp_path), "noisy/n1.png", "8x6", "6x8")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda root: root / "nowhere", "no such folder"),
        (lambda root: root, "has no images/"),
        (lambda root: put(root / "a.png"), "a .csv or .parquet table"),
    ],
)
def test_what_is_not_a_data_folder_is_refused(tmp_path, make, expected):
    data = make(tmp_path)
    with pytest.raises(DataError, match=expected) as caught:
        read(data)
    assert str(data) in str(caught.value)


# Tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_csv_table_keeps_ids_as_text_and_counts_paths_from_its_own_folder(tmp_path, encoding, newline, monkeypatch):
    folder(tmp_path / "data", noisy=("007", "NA"), clean=("1e3",), test=("ä, b",))
    ids = (("007", "noisy"), ("NA", "noisy"), ("1e3", "clean"))
    rows = [*(row(*pair) for pair in ids), '"ä, b","images/ä, b.png","test/ä, b.png",test,"Smith, J."']
    table = tmp_path / "data" / "cases.csv"
    table.write_bytes(newline.join(["id,image,mask,role,group", *rows, ""]).encode(encoding))
    monkeypatch.chdir("/")
    for data in (tmp_path / "data", table):
        found = read(data)
        assert [(case.id, case.role, case.group) for case in found.cases] == [
            ("007", "noisy", None),
            ("1e3", "clean", None),
            ("NA", "noisy", None),
            ("ä, b", "test", "Smith, J."),
        ]
        assert found.cases[0].image == tmp_path / "data/images/007.png"


def test_ids_and_groups_stay_text_where_all_of_them_look_like_numbers(tmp_path):
    folder(tmp_path, noisy=("007",), clean=("1.50",), test=("1e3",))
    csv(tmp_path, row("007", "noisy", group="01"), row("1.50", "clean", group="1"), row("1e3", "test", group="1.0"))
    assert [(case.id, case.group) for case in read(tmp_path).cases] == [("007", "01"), ("1.50", "1"), ("1e3", "1.0")]


def test_absolute_paths_in_a_table_are_taken_as_they_are(tmp_path):
    folder(tmp_path / "files")
    (tmp_path / "tables").mkdir()
    rows = [row(i, role, image=tmp_path / f"files/images/{i}.png", mask=tmp_path / f"files/{role}/{i}.png") for i, role in
            (("n1", "noisy"), ("c1", "clean"))]  # fmt: skip
    assert len(read(csv(tmp_path / "tables", *rows, name="mine.CSV")).cases) == 2


@pytest.mark.parametrize(
    "group",
    [["p", None, "q"], [1, None, 2], [1.5, None, 2.5], pd.array([1, None, 2], dtype="Int64"), pd.Categorical(["p", None, "q"])],
    ids=["text", "numbers", "floats", "nullable", "categories"],
)
def test_a_parquet_table_may_have_columns_of_any_type(tmp_path, group):
    folder(tmp_path, noisy=("1",), clean=("2",), test=("3",))
    roles = ["noisy", "clean", "test"]
    table = pd.DataFrame(
        {
            "id": [1, 2, 3],
            "image": [f"images/{i}.png" for i in (1, 2, 3)],
            "mask": [f"{role}/{i}.png" for i, role in enumerate(roles, 1)],
            "role": pd.Categorical(roles),
            "group": group,
        }
    )
    table.to_parquet(tmp_path / "cases.parquet")
    for data in (tmp_path, tmp_path / "cases.parquet"):
        cases = read(data).cases
        assert [case.id for case in cases] == ["1", "2", "3"]
        assert cases[0].group
        assert cases[1].group is None


def test_every_fault_of_a_table_is_found_in_one_go(tmp_path):
    folder(tmp_path)
    table = csv(
        tmp_path,
        *SOUND,
        row("n2", "Noisy"),
        ",images/n2.png,noisy/n2.png,noisy,",
        row("../n2", "noisy"),
        row("gone", "noisy"),
        row("c2", "clean", group="p"),
        row("t2", "test", image="images/n2.png", mask="test/t1.png", group="p"),
        row("n1", "noisy"),
        row("t1", "clean", image="images/t1.png", mask="clean/c1.png"),
    )
    found = faults(read, tmp_path)
    only(found, f"{table}, row 5", "'Noisy'", "noisy, clean, test")
    only(found, f"{table}, row 6", "must not be empty")
    only(found, f"{table}, row 7", "no slash", "../n2")
    only(found, tmp_path / "images/gone.png", "no such file")
    only(found, tmp_path / "noisy/gone.png", "no such file")
    only(found, "group p", "both sides", "t2 tests", "c2 trains")
    only(found, "n1: 2 rows of one id")
    only(found, "test/t1.png", "also trains", "clean/c1.png")
    assert len(found) == 8


def test_rows_of_one_id_must_agree_in_image_and_group(tmp_path):
    folder(tmp_path)
    rows = row("n1", "clean", mask="clean/c1.png", group="p"), row("n2", "clean", image="images/n1.png", mask="clean/c2.png")
    csv(tmp_path, row("n1", "noisy"), row("n2", "noisy"), *rows)
    found = faults(read, tmp_path)
    only(found, "n1: rows of one id that differ in image or group", "group p")
    only(found, "n2: rows of one id that differ in image or group", "images/n1.png", "images/n2.png")


def test_a_case_with_two_masks_keeps_its_group(tmp_path):
    folder(tmp_path)
    csv(
        tmp_path,
        row("n2", "noisy"),
        row("n1", "noisy", group="p"),
        row("n1", "clean", mask="clean/c1.png", group="p"),
        row("t1", "test", group="p"),
    )
    only(faults(read, tmp_path), "group p", "both sides")


def test_a_short_row_has_no_group(tmp_path):
    folder(tmp_path)
    csv(tmp_path, "n1,images/n1.png,noisy/n1.png,noisy", "c1,images/c1.png,clean/c1.png,clean", "t1,images/t1.png,test/t1.png,test")
    assert {case.group for case in read(tmp_path).cases} == {None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,image,role\n1,a,noisy\n", "no column mask"),
        ("id;image;mask;role\n1;a;b;noisy\n", "found: ['id;image;mask;role']"),
        ("id, image, mask, role\n", "' image'"),
        ("id,image,mask,role\n1,a,b,noisy,\n", "more cells than its header"),
        ("id,image,mask,role\n1,a,b,noisy\n2,a,b,noisy,x,y\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
        ("id,image,mask,role\n", "no usable noisy mask"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, text, expected):
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(DataError) as caught:
        read(table)
    assert expected in str(caught.value)
    assert str(table) in str(caught.value)


def test_a_table_in_another_encoding_and_a_broken_parquet_file_are_named(tmp_path):
    folder(tmp_path)
    for table in (csv(tmp_path, row("ä", "noisy"), encoding="latin-1"), tmp_path / "cases.parquet"):
        if table.suffix == ".parquet":
            table.write_bytes(b"PAR")
        with pytest.raises(DataError, match="cannot be read as a table") as caught:
            read(table)
        assert str(table) in str(caught.value)


def test_a_table_for_reading_again_keeps_the_pairs_and_the_record_of_a_run_has_a_row_per_case(tmp_path):
    first = read(folder(tmp_path / "data", noisy=("n1", "c1")))
    table_of(first.cases, pairs=True).to_csv(tmp_path / "cases.csv", index=False)
    assert read(tmp_path / "cases.csv").cases == first.cases
    assert table_of(first.cases)["id"].tolist() == ["c1", "c2", "n1", "t1"]
    assert table_of(first.pairs)["mask"].tolist() == [str(tmp_path / "data/clean/c1.png")]
    assert table_of(first.pairs, pairs=True)["mask"].tolist() == [str(tmp_path / f"data/{role}/c1.png") for role in ("clean", "noisy")]


def test_the_table_of_a_run_can_be_read_again(tmp_path):
    first = read(folder(tmp_path / "data"))
    table_of(first.cases, held_out={"c1"}).to_csv(tmp_path / "cases.csv", index=False)
    assert read(tmp_path / "cases.csv").cases == first.cases
    assert pd.read_csv(tmp_path / "cases.csv").set_index("id")["held_out"].to_dict() == {
        "c1": True, "c2": False, "n1": False, "n2": False, "t1": False}  # fmt: skip


# No overlap, whatever is asked for

ids = st.sampled_from("abcd")
table_rows = st.lists(
    st.tuples(ids, st.sampled_from("wxyz"), st.sampled_from(["noisy", "clean", "test"]), st.sampled_from(["", "", "p", "q"])), max_size=8
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in "wxyz":
        put(root / f"{name}.png")
    (root / "z.png").unlink()
    (root / "z.png").symlink_to(root / "y.png")
    return root


def assert_sides_are_apart(cases):
    tested = [case for case in cases if case.role == "test"]
    trained = [case for case in cases if case.role != "test"]
    for key in (lambda case: case.id, lambda case: case.image.resolve(), lambda case: case.group or object()):
        assert not {key(case) for case in tested} & {key(case) for case in trained}
    assert len({case.id for case in cases}) == len(cases)


@given(table_rows)
@examples(150)
def test_no_table_gives_one_id_image_or_group_to_both_sides(pictures, rows):
    # One row of each training role more, so that many tables are sound.
    rows = [("n", "w", "noisy", ""), ("c", "w", "clean", ""), *rows]
    table = csv(pictures, *(row(i, role, image=f"{image}.png", mask="w.png", group=group) for i, image, role, group in rows))
    try:
        cases = read(table).cases
    except DataError:
        return
    assert_sides_are_apart(cases)
    assert {(case.id, case.role) for case in cases} <= {(i, role) for i, _, role, _ in rows}


def test_sound_tables_are_not_refused(pictures):
    sides = ("n", "w", "noisy", ""), ("c", "x", "clean", "p"), ("m", "x", "noisy", "p"), ("t", "y", "test", "q"), ("s", "z", "test", "q")
    table = csv(pictures, *(row(i, role, image=f"{image}.png", mask="w.png", group=group) for i, image, role, group in sides))
    assert len(read(table).cases) == 5


@given(*(st.sets(ids) for _ in range(4)))
@examples(60)
def test_no_folder_gives_one_id_to_both_sides(images, noisy, clean, test):
    with tempfile.TemporaryDirectory() as root:
        folder(Path(root), images=images)
        for role, names in (("noisy", noisy), ("clean", clean), ("test", test)):
            for name in names:
                put(Path(root) / role / f"{name}.png")
        masks = noisy | clean | test
        sound = masks <= images and not test & (noisy | clean)
        try:
            cases = read(Path(root)).cases
        except DataError:
            assert not sound
            return
        assert sound
        assert_sides_are_apart(cases)
        assert {case.id for case in cases} == masks | {"n1", "n2", "c1", "c2", "t1"}


# What check adds


def test_check_finds_no_fault_where_there_is_none(tmp_path):
    many = [f"c{number}" for number in range(48)]
    assert checked(folder(tmp_path, clean=many)) == read(tmp_path)


def test_check_decodes_every_file_and_reading_does_not(tmp_path):
    folder(tmp_path, images=("j",))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for path in (tmp_path / "images/n1.jpg", tmp_path / "noisy/n1.png", tmp_path / "images/t1.jpg", tmp_path / "test/t1.png"):
        (tmp_path / "images" / f"{path.stem}.png").unlink(missing_ok=True)
        put(path, noise).write_bytes(path.read_bytes()[:-1500])
    assert len(read(tmp_path).cases) == 5
    found = faults(checked, tmp_path)
    for path in ("images/n1.jpg", "noisy/n1.png", "images/t1.jpg", "test/t1.png"):
        only(found, tmp_path / path, "cannot be read")
    assert len(found) == 4


def test_check_names_every_mask_with_values_that_no_class_has(tmp_path):
    folder(tmp_path)
    put(tmp_path / "noisy/n1.png", BLANK + np.arange(8) + 8 * (np.arange(6)[:, None] > 2) + (np.indices((6, 8)).sum(0) == 12))
    put(tmp_path / "test/t1.png", 7 * (np.indices((6, 8)).sum(0) == 3))
    only(faults(checked, tmp_path), "noisy/n1.png", "17 values (0, 1, 2, 3, 4, …)", "classes = 1")
    found = faults(checked, tmp_path, classes=3)
    only(found, "test/t1.png", "1 value (7)", "classes = 3 allows 0 to 2 and 255")
    only(found, "noisy/n1.png", "14 values (3, 4, 5, 6, 7, …)")


def test_check_counts_the_masks_without_foreground(tmp_path):
    folder(tmp_path)
    put(tmp_path / "noisy/n1.png"), put(tmp_path / "noisy/n2.png"), put(tmp_path / "test/t1.png", 255 * (BLANK + 1))
    assert checked(tmp_path).notes[0] == "2 noisy masks without foreground: allowed"
    assert set(checked(tmp_path, ignore_label=255).notes[:2]) == {
        "2 noisy masks without foreground: allowed",
        "1 test mask without foreground: allowed",
    }


def test_two_meanings_of_255_in_one_folder_are_a_fault_until_ignore_label_is_set(tmp_path):
    folder(tmp_path)
    both = BLANK.copy()
    both[0, :2] = 1, 255
    put(tmp_path / "noisy/n1.png", both), put(tmp_path / "clean/c1.png", 255 * (both > 1))
    only(faults(checked, tmp_path), "noisy/n1.png", "clean/c1.png", "Set ignore_label")
    assert checked(tmp_path, ignore_label=255)
    put(tmp_path / "clean/c1.png", both % 255)  # 0 and 1 says nothing of 255
    assert checked(tmp_path)


def test_with_two_classes_masks_of_0_and_255_alone_are_a_fault_of_their_role(tmp_path):
    folder(tmp_path)
    put(tmp_path / "clean/c1.png", 255 * (np.indices((6, 8)).sum(0) == 3)), put(tmp_path / "clean/c2.png")
    assert checked(tmp_path)
    only(faults(checked, tmp_path, classes=2), "clean/c1.png", "0 and 255 alone", "no other of the clean masks")
    assert checked(tmp_path, classes=2, ignore_label=255)


def test_faults_of_one_kind_are_shown_together_with_their_number_and_their_repair(tmp_path):
    folder(tmp_path, noisy=[f"n{number:02}" for number in range(14)])
    ramp = np.arange(48).reshape(6, 8) * 5
    for number in range(12):
        put(tmp_path / f"noisy/n{number:02}.png", ramp)
    put(tmp_path / "noisy/n13.png", 2 * (ramp > 100))
    put(tmp_path / "clean/c1.png", ramp + 1)
    with pytest.raises(DataError) as caught:
        checked(tmp_path)
    assert len(caught.value.faults) == 13
    head, heading, *examples, more = str(caught.value).splitlines()
    assert head == f"{tmp_path}: 13 faults"
    assert heading.startswith("  13 masks with many values between 0 and 255, as JPEG and smooth scaling make them: cut them at 128")
    assert len(examples) == 10
    assert all(example.startswith(f"    {tmp_path}") and "holds 48 values" in example for example in examples)
    assert more == "    … and 3 more"


@pytest.mark.parametrize(
    ("clean", "val_fraction", "expected"),
    [
        (2, 0.2, ["2 clean masks", "have 10 or more, best 50 to 100"]),
        (9, 0.0, ["9 clean masks", "have 10 or more"]),
        (10, 0.2, ["val_fraction = 0.2 of 10 clean masks is fewer than 10", "none is held out", "the last ones count"]),
        (25, 0.2, ["val_fraction = 0.2 of 25 clean masks", "set val_fraction = 0.4 to hold 10 out"]),
        (47, 0.2, ["val_fraction = 0.2 of 47 clean masks", "set val_fraction = 0.22 to hold 10 out"]),
        (20, 0.1, ["val_fraction = 0.1 of 20 clean masks", "set val_fraction = 0.5"]),
        (48, 0.2, []),
        (25, 0.4, []),
        (25, 0.0, []),
    ],
)
def test_few_clean_masks_are_warned_of_and_too_few_to_hold_out_where_that_is_asked(clean, val_fraction, expected):
    warnings = clean_warnings(clean, val_fraction=val_fraction)
    assert len(warnings) == bool(expected)
    assert all(words in warnings[0] for words in expected)


@pytest.mark.parametrize("clean", range(10, 120, 3))
def test_the_warning_is_right_about_what_is_held_out(clean):
    cases = CaseList.of(Case(f"{number}", Path("i.png"), Path("m.png"), "clean") for number in range(clean))
    warnings = clean_warnings(clean, val_fraction=0.2)
    assert bool(warnings) == (not hold_out(cases, Config(image_size=16, val_fraction=0.2))[1])
    if "set val_fraction" in "".join(warnings):
        fraction = float(warnings[0].split("set val_fraction = ")[1].split()[0])
        assert len(hold_out(cases, Config(image_size=16, val_fraction=fraction))[1]) == 10


def test_check_warns_of_few_clean_masks_and_only_of_few(tmp_path):
    assert checked(folder(tmp_path / "few")).notes[-1].startswith("warning: 2 clean masks")
    assert not any("warning" in note for note in checked(folder(tmp_path / "enough", clean=[f"c{i}" for i in range(10)])).notes)


def test_a_mask_with_two_things_wrong_is_one_fault(tmp_path):
    folder(tmp_path)
    put(tmp_path / "noisy/n1.png", np.arange(60).reshape(6, 10) * 4)
    found = faults(checked, tmp_path)
    assert len(found) == 1
    assert "scaled without smoothing" in found[0].repair
    only(found, tmp_path / "noisy/n1.png", "10x6 pixels")


def turned(path, orientation, size=(6, 8)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, exif=exif)


def test_an_image_that_exif_turns_in_another_way_than_its_mask_is_warned_of(tmp_path):
    folder(tmp_path)
    turned(tmp_path / "images/n1.png", 3), turned(tmp_path / "images/c1.png", 2)
    (note,) = read(tmp_path).notes
    assert note.startswith("warning: 2 images turned by EXIF")
    assert f"{tmp_path / 'images/c1.png'} has orientation 2, {tmp_path / 'clean/c1.png'} 1" in note
    assert "exiftool" in note
    turned(tmp_path / "noisy/n1.png", 3), turned(tmp_path / "clean/c1.png", 2)
    assert read(tmp_path).notes == ()
    turned(tmp_path / "images/n1.png", 1)
    assert "1 image turned by EXIF" in read(tmp_path).notes[0]


def test_a_size_tells_whether_a_mask_was_drawn_on_the_turned_image(tmp_path):
    folder(tmp_path)
    turned(tmp_path / "images/n1.png", 6, (8, 6))
    assert read(tmp_path).notes == ()
    turned(tmp_path / "images/n1.png", 6, (6, 8))
    (found,) = faults(read, tmp_path)
    assert "turn these masks as well" in found.repair
    for part in ("images", "noisy"):
        put(tmp_path / part / "n1.png", np.zeros((6, 6)))
    turned(tmp_path / "images/n1.png", 6, (6, 6))
    assert "1 image turned by EXIF" in read(tmp_path).notes[0]


def test_masks_with_a_palette_of_two_colours_are_noted(tmp_path):
    folder(tmp_path)
    picture = Image.fromarray(BLANK)
    picture.putpalette((255, 255, 255, 0, 0, 0))
    picture.save(tmp_path / "noisy/n2.png")
    (note,) = read(tmp_path).notes
    such = f"(such as {tmp_path / 'noisy/n2.png'})"
    assert note == f"1 mask with a palette of two colours {such}: the brighter colour is the foreground, whatever its index"


def test_every_case_may_be_of_a_webp_image(tmp_path):
    folder(tmp_path)
    (tmp_path / "images/n1.png").unlink()
    put(tmp_path / "images/n1.webp", np.zeros((6, 8, 3)))
    assert checked(tmp_path).cases == read(tmp_path).cases


def test_noisy_masks_that_are_all_clean_too_leave_none(tmp_path):
    folder(tmp_path, noisy=("c1",))
    only(faults(read, tmp_path), tmp_path / "noisy", "no usable noisy mask")


def test_many_bad_rows_of_a_table_are_shown_as_one_kind(tmp_path):
    folder(tmp_path)
    csv(tmp_path, *SOUND, *(row(f"n{number}", "nosy", image="images/n1.png", mask="noisy/n1.png") for number in range(30)))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert len(caught.value.faults) == 30
    assert "30 rows with another role" in str(caught.value)
    assert "… and 20 more" in str(caught.value)


def test_check_tells_the_faults_of_the_headers_first(tmp_path):
    folder(tmp_path, clean=())
    only(faults(checked, tmp_path), "no usable clean mask")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    for path, expected in ((tmp_path / "nowhere", "there is no such folder"), (put(tmp_path / "a.png"), "not a folder")):
        with pytest.raises(DataError) as caught:
            files_by_id(path)
        assert str(caught.value) == f"{path}: {expected}"


# Many cases


def test_a_table_becomes_exactly_these_cases(tmp_path):
    folder(tmp_path)
    (tmp_path / "sub").mkdir()
    absolute = tmp_path / "images/t1.png"
    table = csv(
        tmp_path,
        row("z", "noisy", image="images/n1.png", mask="noisy/n1.png", group="p"),
        row("Z", "clean", image="images/c1.png", mask="clean/c1.png"),
        row("é", "noisy", image="./images//n2.png", mask="sub/../noisy/n2.png"),
        row("n1", "noisy"),
        row("n1", "clean", mask="clean/c2.png"),
        row("10", "test", image=absolute, mask="test/t1.png", group="q"),
        row("9", "test", image=absolute, mask="test/t1.png", group="q"),
    )
    found = read(table)
    assert list(found.cases) == [
        Case("10", absolute, tmp_path / "test/t1.png", "test", "q"),
        Case("9", absolute, tmp_path / "test/t1.png", "test", "q"),
        Case("Z", tmp_path / "images/c1.png", tmp_path / "clean/c1.png", "clean"),
        Case("n1", tmp_path / "images/n1.png", tmp_path / "clean/c2.png", "clean", given=tmp_path / "noisy/n1.png"),
        Case("z", tmp_path / "images/n1.png", tmp_path / "noisy/n1.png", "noisy", "p"),
        Case("é", tmp_path / "images/n2.png", tmp_path / "sub/../noisy/n2.png", "noisy"),
    ]
    assert found.notes == (
        "ids that differ in case alone: Z, z; on macOS and Windows their files are one",
        pairs_note("1 pair"),
    )
    assert str(found) == "\n".join([f"{table}: no faults; 2 noisy, 2 clean, 2 test cases in 2 groups", *found.notes])


def test_a_list_of_cases_behaves_as_a_list_that_cannot_be_changed(tmp_path):
    plain = [Case(f"{number}", Path("i.png"), Path(f"{number}.png"), "clean", "p" if number % 2 else None) for number in range(6)]
    plain[3] = replace(plain[3], given=Path("noisy.png"))
    cases = CaseList.of(plain)
    assert (cases == plain, plain == cases, cases == plain[:-1], cases == plain[::-1]) == (True, True, False, False)
    assert [cases[place] for place in (0, 5, -1)] == [plain[place] for place in (0, 5, -1)]
    assert cases[1:5:2] == plain[1:5:2]
    assert cases[np.array([4, 0, 4])] == [plain[4], plain[0], plain[4]]
    assert cases[::-1][np.arange(6) < 2] == [plain[5], plain[4]]
    assert cases[4:] + cases[:2] == plain[4:] + plain[:2]
    assert cases[:0] == []
    assert plain[3] in cases
    with pytest.raises(IndexError):
        cases[6]
    with pytest.raises(TypeError):
        cases[0] = plain[1]
    with pytest.raises(ValueError, match="different tables"):
        cases + CaseList.of(plain)


def test_before_the_first_update_no_pixel_is_decoded_and_no_case_made_and_every_file_is_opened_once(tmp_path, monkeypatch):
    count = 20_000
    folder(tmp_path, test=("t1", "t2"))
    roles = np.array(["noisy", "noisy", "clean", "test"])[np.arange(count) % 4]
    names = np.char.add(np.char.replace(np.char.replace(roles, "noisy", "n"), "clean", "c"), "1")
    names = np.char.replace(names, "test1", "t2")
    columns = {"id": [f"case {number}" for number in range(count)], "role": roles, "group": np.char.add("of ", roles)}
    paths = {"image": [f"images/{name}.png" for name in names], "mask": [f"{r}/{name}.png" for r, name in zip(roles, names, strict=True)]}
    pd.DataFrame({**columns, **paths}).to_parquet(tmp_path / "cases.parquet")
    opened, made = [], []
    monkeypatch.setattr(checks_module, "read_header", lambda path: opened.append(path) or read_header(path))
    monkeypatch.setattr(cases_module, "Case", lambda *fields: made.append(fields) or Case(*fields))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda opened: pytest.fail("decoded"))
    config = Config(image_size=16, cache_gib=0, val_fraction=0.2)
    cases = read(tmp_path)
    clean, held = hold_out(cases.of("clean"), config, noisy=cases.of("noisy"))
    streams = Streams(cases, clean, held, config, tmp_path / "run" / "cache")
    record = table_of(cases.of("noisy") + clean + held + cases.of("test"), held.texts("id"))
    RunWriter(tmp_path / "run").create(config, record)
    assert len(cases.cases) == len(record) == count
    assert len(streams.pixels.cases) == 15_000
    assert sorted(opened) == sorted({tmp_path / path for path in [*paths["image"], *paths["mask"]]})
    assert made == []
    assert cases.cases[7].id
    assert len(made) == 1


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="this system has no such names")
def test_a_file_whose_name_is_no_valid_text_is_read_and_recorded(tmp_path):
    folder(tmp_path)
    for role in ("images", "noisy"):
        put(tmp_path / role / os.fsdecode(b"l\xe4sion.png"))
    cases = read(tmp_path).of("noisy")
    assert cases[0].image == tmp_path / "images" / os.fsdecode(b"l\xe4sion.png")
    assert cases[0].image.exists()
    assert table_of(cases)["mask"][0] == str(tmp_path / "noisy" / "l\\xe4sion.png")


def test_the_record_of_a_run_can_be_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = Case("a", Path("data/images/a.png"), Path("data/noisy/a.png"), "noisy")
    record = table_of([case], held_out={"b"})
    assert record["image"].tolist() == [str(tmp_path / "data/images/a.png")]
    assert record["mask"].tolist() == [str(tmp_path / "data/noisy/a.png")]
    assert record["held_out"].tolist() == [False]
