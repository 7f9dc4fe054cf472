"""A published data set becomes a source, end to end against a server on this machine; whole or not at all."""

import hashlib
import io
import pickle
import re
import signal
import subprocess
import sys
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.known_truth import read_source
from pixeltrust.datasets import DATASETS, Archive, Dataset, Part, fetch, source
from pixeltrust.datasets.downloads import Patience
from pixeltrust.plumbing.errors import ConfigError, DataError, FetchError, RunError
from waiting import TOO_LONG

HASTY = Patience(tries=2, wait_s=0.001, timeout_s=TOO_LONG)
SPLITS = {"train": ("Training", [0, 1, 2]), "val": ("Validation", [13]), "test": ("Test_v2", [27, 29])}


def image_bytes(number, shape=(120, 160), kind="JPEG"):
    """A picture of noise, so that an archive takes several chunks."""
    pixels = np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), kind, quality=95)


def mask_bytes(number, shape=(120, 160)):
    mask = np.zeros(shape, np.uint8)
    mask[10 + number : 60, 20:90] = 255
    return saved(Image.fromarray(mask), "PNG")


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def members():
    """{archive: {member: content}}, as the real ones are: folders, companions, a table beside the images."""
    found = {}
    for stem, numbers in SPLITS.values():
        data, truth = f"ISIC-2017_{stem}_Data", f"ISIC-2017_{stem}_Part1_GroundTruth"
        found[data] = {f"{data}/": b"", f"{data}/{data}_metadata.csv": b"image_id,age\n"}
        found[data] |= {f"{data}/ISIC_{number:07d}.jpg": image_bytes(number) for number in numbers}
        found[data] |= {f"{data}/ISIC_{number:07d}_superpixels.png": b"not looked at" for number in numbers}
        found[truth] = {f"{truth}/ISIC_{number:07d}_segmentation.png": mask_bytes(number) for number in numbers}
    return found


def published(web, contents):
    """The data set, put on the server."""

    def archive(name):
        buffer = io.BytesIO()
        with ZipFile(buffer, "w") as written:
            for member, content in contents[name].items():
                written.writestr(member, content)
        return Archive(url=web.put(f"{name}.zip", buffer.getvalue()), md5=hashlib.md5(buffer.getvalue()).hexdigest())

    parts = [
        Part(
            split=split,
            cases=len(numbers),
            images=archive(f"ISIC-2017_{stem}_Data"),
            masks=archive(f"ISIC-2017_{stem}_Part1_GroundTruth"),
        )
        for split, (stem, numbers) in SPLITS.items()
    ]
    return Dataset(name="isic2017", parts=tuple(parts), licence="CC-0")


@pytest.fixture
def dataset(web):
    return published(web, members())


def fetched(dataset, out, **options):
    return fetch(dataset, out, patience=HASTY, show_progress=False, **options)


def faults(web, tmp_path, contents):
    """What is wrong with a data set of such archives; nothing is made of it."""
    with pytest.raises(DataError) as caught:
        fetched(published(web, contents), tmp_path / "out", size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["out.archives"]
    return caught.value.faults


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- the source ---------------------------------------------------------------------------------------------------


def test_a_source_has_the_files_as_published_byte_for_byte(dataset, tmp_path):
    fetched(dataset, tmp_path / "out")
    ids = [f"ISIC_{number:07d}" for _, numbers in SPLITS.values() for number in numbers]
    assert files_of(tmp_path / "out") == {
        *(f"images/{one}.jpg" for one in ids),
        *(f"masks/{one}.png" for one in ids),
        "split.csv",
        "fetched.json",
    }
    for one in ids:
        assert (tmp_path / "out" / "images" / f"{one}.jpg").read_bytes() == image_bytes(int(one[5:]))
        assert (tmp_path / "out" / "masks" / f"{one}.png").read_bytes() == mask_bytes(int(one[5:]))


@pytest.mark.parametrize("size", [None, 32])
def test_a_source_is_one_and_has_the_official_split(dataset, tmp_path, size):
    fetched(dataset, tmp_path / "out", size=size)
    cases = read_source(tmp_path / "out", show_progress=False)
    assert [case.id for case in cases if case.trains] == ["ISIC_0000000", "ISIC_0000001", "ISIC_0000002"]
    assert (tmp_path / "out" / "split.csv").read_text() == (
        "id,split\nISIC_0000000,train\nISIC_0000001,train\nISIC_0000002,train\nISIC_0000013,val\nISIC_0000027,test\nISIC_0000029,test\n"
    )


def test_reduced_pixels_are_the_means_of_their_areas_and_masks_their_majority(web, tmp_path):
    contents = members()
    blocks = np.kron(np.random.default_rng(0).integers(0, 256, (8, 8)), np.ones((15, 20))).astype(np.uint8)  # of the new pixels
    mask = np.zeros((120, 160), np.uint8)
    mask[:15, :20][:8] = 255  # 8 of 15 rows: foreground
    mask[:15, 20:40][:7] = 255  # 7 of 15: not
    mask[15:30, :10] = 255  # exactly half: not
    contents["ISIC-2017_Validation_Data"] = {"ISIC_0000013.jpg": saved(Image.fromarray(np.stack([blocks] * 3, axis=-1)), "PNG")}
    contents["ISIC-2017_Validation_Part1_GroundTruth"] = {"ISIC_0000013_segmentation.png": saved(Image.fromarray(mask), "PNG")}
    fetched(published(web, contents), tmp_path / "out", size=8)
    file = tmp_path / "out" / "images" / "ISIC_0000013.jpg"
    with Image.open(file) as opened:
        assert opened.format == "JPEG"
    assert np.abs(read_image(file).astype(int) - blocks[::15, ::20, None]).max() <= 6  # what JPEG of quality 95 loses of noise
    expected = np.zeros((8, 8), np.uint8)
    expected[0, 0] = 255
    assert np.array_equal(read_labels(tmp_path / "out" / "masks" / "ISIC_0000013.png"), expected)


def test_the_end_says_what_was_made_what_was_left_out_and_what_comes_next(dataset, tmp_path):
    result = str(fetched(dataset, tmp_path / "out", size=32))
    assert result.splitlines() == [
        "isic2017, 32x32 pixels: 3 train, 1 val, 2 test cases; licence CC-0",
        "left out 6 superpixel files and 3 other files; the archives were removed",
        f"the source is in {tmp_path / 'out'}",
        f"next: pixeltrust simulate {tmp_path / 'out'} lesions",
    ]


def test_other_spellings_and_a_macs_companions_do_no_harm(web, tmp_path):
    contents = members()
    contents["ISIC-2017_Validation_Data"] = {"a/b/isic_0000013.JPEG": image_bytes(13), "__MACOSX/._ISIC_0000013.jpg": b"", ".DS_Store": b""}
    assert fetched(published(web, contents), tmp_path / "out", size=32).others == 4
    assert (tmp_path / "out" / "images" / "ISIC_0000013.jpg").exists()


# --- the archives on the disk -------------------------------------------------------------------------------------


def test_the_archives_are_removed_unless_they_are_to_be_kept(dataset, tmp_path):
    assert fetched(dataset, tmp_path / "out", size=32).archives is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert fetched(dataset, tmp_path / "kept", size=32, keep_archives=True).archives == tmp_path / "kept.archives"
    assert files_of(tmp_path / "kept.archives") == {archive.name for archive in dataset.archives}


def test_archives_in_a_folder_of_the_users_are_used_and_stay(web, dataset, tmp_path):
    fetched(dataset, tmp_path / "one", size=32, archives=tmp_path / "zips")
    (tmp_path / "zips" / "other.txt").touch()
    web.asked.clear()
    result = fetched(dataset, tmp_path / "two", size=16, archives=tmp_path / "zips")
    assert web.asked == []
    assert result.archives == tmp_path / "zips"
    assert files_of(tmp_path / "zips") == {archive.name for archive in dataset.archives} | {"other.txt"}


def test_what_does_not_belong_to_the_fetch_is_not_removed_with_the_archives(dataset, tmp_path):
    (tmp_path / "out.archives").mkdir()
    (tmp_path / "out.archives" / "mine.txt").touch()
    fetched(dataset, tmp_path / "out", size=32)
    assert files_of(tmp_path / "out.archives") == {"mine.txt"}


def test_a_finished_source_is_reported_and_nothing_is_asked(web, dataset, tmp_path):
    first = fetched(dataset, tmp_path / "out", size=32)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_of(tmp_path / "out")}
    web.asked.clear()
    second = fetched(dataset, tmp_path / "out", size=32)
    assert web.asked == []
    assert str(second) == str(first).replace("/out\n", "/out, fetched earlier\n")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files_of(tmp_path / "out")} == before


@pytest.mark.parametrize("size", [None, 16])
def test_a_source_of_another_size_is_not_taken_for_this_one(dataset, tmp_path, size):
    fetched(dataset, tmp_path / "out", size=32)
    with pytest.raises(RunError, match=r"out: holds isic2017 at 32x32 pixels; choose another folder for isic2017 at (full|16x16)"):
        fetched(dataset, tmp_path / "out", size=size)


def test_an_empty_folder_and_the_folder_one_is_in_are_filled(dataset, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    fetched(dataset, ".", size=32)
    assert len(read_source(tmp_path / "out", show_progress=False)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- stops --------------------------------------------------------------------------------------------------------


def test_a_break_in_an_archive_costs_what_was_not_received(web, dataset, tmp_path):
    name = dataset.archives[0].name
    web.pages[f"/{name}"].breaks = [1 << 16]
    fetched(dataset, tmp_path / "out", size=32)
    assert web.ranges(name) == [None, "bytes=65536-"]


def test_a_fetch_that_gave_up_is_resumed(web, dataset, tmp_path):
    first, second = (archive.name for archive in dataset.archives[:2])
    web.pages[f"/{second}"].breaks = [0, 0]
    with pytest.raises(FetchError, match=f"{second}: the connection failed .*, 2 times in a row"):
        fetched(dataset, tmp_path / "out", size=32)
    assert files_of(tmp_path / "out.archives") >= {first}
    assert not (tmp_path / "out").exists()
    fetched(dataset, tmp_path / "out", size=32)
    assert len(web.ranges(first)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_downloaded_while_one_of_the_archives_is_missing(web, dataset, tmp_path):
    name = dataset.archives[-1].name
    del web.pages[f"/{name}"]
    with pytest.raises(FetchError, match=rf"{name}: the server answers 404 Not Found; if it has moved, get the file elsewhere"):
        fetched(dataset, tmp_path / "out")
    assert {method for method, _, _ in web.asked} == {"HEAD"}
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_sum_makes_no_source(web, dataset, tmp_path):
    archive = dataset.archives[1]
    web.put(archive.name, b"something else")
    with pytest.raises(FetchError, match=f"{archive.name}.*{hashlib.md5(b'something else').hexdigest()}.*{archive.md5}"):
        fetched(dataset, tmp_path / "out")
    assert files_of(tmp_path) == {f"out.archives/{dataset.archives[0].name}"}


@pytest.mark.parametrize("size", [None, 32])
def test_ctrl_c_while_unpacking_costs_nothing_of_what_was_downloaded(web, dataset, tmp_path, monkeypatch, size):
    def stopped(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source, "read_image", stopped)
        with pytest.raises(KeyboardInterrupt):
            fetched(dataset, tmp_path / "out", size=size)
    assert files_of(tmp_path) == {f"out.archives/{archive.name}" for archive in dataset.archives}
    web.asked.clear()
    fetched(dataset, tmp_path / "out", size=size)
    assert web.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_while_unpacking_leaves_no_half_source_and_the_next_call_clears_up(web, dataset, tmp_path):
    code = (
        "import os, pickle, signal, sys; from pathlib import Path; from pixeltrust.datasets import source\n"
        "source.write_png = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "source.fetch(pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2]), size=32, show_progress=False)"
    )
    child = subprocess.run([sys.executable, "-c", code, pickle.dumps(dataset).hex(), tmp_path / "out"])
    assert child.returncode == -signal.SIGKILL
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"out.archives", ".out.unfinished"}
    web.asked.clear()
    fetched(dataset, tmp_path / "out", size=32)
    assert web.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- faults -------------------------------------------------------------------------------------------------------


def test_cases_that_are_not_paired_once_each_are_all_named(web, tmp_path):
    contents = members()
    train, train_masks, test = (contents[f"ISIC-2017_{name}"] for name in ("Training_Data", "Training_Part1_GroundTruth", "Test_v2_Data"))
    del train["ISIC-2017_Training_Data/ISIC_0000000.jpg"]
    del train_masks["ISIC-2017_Training_Part1_GroundTruth/ISIC_0000001_segmentation.png"]
    train["again/ISIC_0000002.jpg"] = image_bytes(2)
    test["ISIC_0000013.jpg"] = image_bytes(13)
    assert faults(web, tmp_path, contents) == [
        "ISIC-2017_Training_Data.zip: again/ISIC_0000002.jpg: is there twice, as ISIC-2017_Training_Data/ISIC_0000002.jpg too",
        "ISIC-2017_Training_Data.zip: ISIC-2017_Training_Data/ISIC_0000001.jpg: has no mask in ISIC-2017_Training_Part1_GroundTruth.zip",
        "ISIC-2017_Training_Part1_GroundTruth.zip: ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png: has no image in "
        "ISIC-2017_Training_Data.zip",
        "train: 1 image with a mask, 3 were published",
        "ISIC-2017_Test_v2_Data.zip: ISIC_0000013.jpg: has no mask in ISIC-2017_Test_v2_Part1_GroundTruth.zip",
        "ISIC-2017_Test_v2_Data.zip: ISIC_0000013.jpg: is in the split val too",
    ]


def test_files_that_cannot_be_read_are_all_named_by_their_place_in_the_archive(web, tmp_path):
    contents = members()
    contents["ISIC-2017_Training_Data"]["ISIC-2017_Training_Data/ISIC_0000001.jpg"] = image_bytes(1)[:-500]
    contents["ISIC-2017_Training_Data"]["ISIC-2017_Training_Data/ISIC_0000002.jpg"] = b"no image"
    contents["ISIC-2017_Training_Part1_GroundTruth"]["ISIC-2017_Training_Part1_GroundTruth/ISIC_0000002_segmentation.png"] = b""
    grey = saved(Image.fromarray(np.arange(120 * 160, dtype=np.uint32).reshape(120, 160).astype(np.uint8)), "PNG")
    contents["ISIC-2017_Test_v2_Part1_GroundTruth"]["ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000027_segmentation.png"] = grey
    contents["ISIC-2017_Test_v2_Part1_GroundTruth"]["ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000029_segmentation.png"] = mask_bytes(
        1, (120, 161)
    )
    found = faults(web, tmp_path, contents)
    said = [
        r"ISIC-2017_Training_Data\.zip: .*/ISIC_0000001\.jpg: cannot be read: .*truncated",
        r"ISIC-2017_Training_Data\.zip: .*/ISIC_0000002\.jpg: not an image",
        r"ISIC-2017_Training_Part1_GroundTruth\.zip: .*/ISIC_0000002_segmentation\.png: not an image",
        r"ISIC-2017_Test_v2_Part1_GroundTruth\.zip: .*/ISIC_0000027_segmentation\.png: holds 256 values",
        r"ISIC-2017_Test_v2_Part1_GroundTruth\.zip: .*/ISIC_0000029_segmentation\.png: of size \(120, 161\), its image of",
    ]
    assert len(found) == len(said)
    assert all(re.match(pattern, fault) for pattern, fault in zip(said, found, strict=True)), found


def test_no_path_in_an_archive_decides_where_anything_is_written(web, tmp_path):
    contents = members()
    for name in ("../ISIC_0000099.txt", "/tmp/ISIC_0000099.txt", "..\\..\\evil.exe"):
        contents["ISIC-2017_Validation_Data"][name] = b"1"
    before = fetched(published(web, members()), tmp_path / "before")
    after = fetched(published(web, contents), tmp_path / "after")
    assert files_of(tmp_path / "before") == files_of(tmp_path / "after")
    assert after.others == before.others + 3
    assert {path.name for path in tmp_path.iterdir()} == {"before", "after"}


def test_what_is_not_a_zip_file_is_named(web, tmp_path):
    whole = published(web, members())
    content = b"the sum of this is right"
    wrong = Archive(url=web.put("val.zip", content), md5=hashlib.md5(content).hexdigest())
    val = Part(split="val", cases=1, images=wrong, masks=whole.parts[1].masks)
    with pytest.raises(DataError, match=r"val\.zip: not a whole zip file"):
        fetched(Dataset(name="isic2017", parts=(val,), licence=""), tmp_path / "out")


def test_a_full_disk_is_reported_before_anything_is_downloaded(web, dataset, tmp_path, monkeypatch):
    whole = sum(len(page.content) for page in web.pages.values())
    monkeypatch.setattr(source.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * whole - 1))
    with pytest.raises(RunError, match=r"out\.archives and .*out: \d.* are needed, \d.* are free on that disk; make room"):
        fetched(dataset, tmp_path / "out")
    assert {method for method, _, _ in web.asked} == {"HEAD"}
    assert list(tmp_path.iterdir()) == []


def test_room_is_needed_for_what_is_still_to_come_and_for_what_is_made_of_it(dataset, tmp_path, monkeypatch):
    """Twice the archives; once, where they are there; next to nothing, where the images are reduced too."""
    archives = tmp_path / "zips"
    fetched(dataset, tmp_path / "first", size=32, archives=archives)
    whole = sum(file.stat().st_size for file in archives.iterdir())
    monkeypatch.setattr(source.shutil, "disk_usage", lambda _: SimpleNamespace(free=whole * 3 // 2))
    with pytest.raises(RunError, match="are needed"):
        fetched(dataset, tmp_path / "out")
    fetched(dataset, tmp_path / "out", archives=archives)
    monkeypatch.setattr(source.shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000))
    with pytest.raises(RunError, match="are needed"):
        fetched(dataset, tmp_path / "second", archives=archives)
    fetched(dataset, tmp_path / "third", archives=archives, size=32)


def test_a_server_that_tells_no_sizes_is_borne_with(web, dataset, tmp_path):
    for page in web.pages.values():
        page.heads = page.says_size = False
    fetched(dataset, tmp_path / "out", size=32)
    assert len(read_source(tmp_path / "out", show_progress=False)) == 6


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(dataset, tmp_path, size):
    with pytest.raises(ConfigError, match=f"size: pixels a side, 1 or more, not {size}"):
        fetched(dataset, tmp_path / "out", size=size)


def test_a_folder_in_use_is_refused_before_anything_is_asked(web, dataset, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match="exists and is not empty"):
        fetched(dataset, tmp_path)
    with pytest.raises(RunError, match="which is to hold the source alone"):
        fetched(dataset, tmp_path / "out", archives=tmp_path / "out" / "zips")
    with pytest.raises(RunError, match="exists and is no folder"):
        fetched(dataset, tmp_path / "mine.txt")
    assert web.asked == []


# --- what is published, and the command ---------------------------------------------------------------------------


def test_every_published_archive_has_an_address_of_its_own_and_a_sum():
    assert {name: whole.name for name, whole in DATASETS.items()} == {name: name for name in DATASETS}
    archives = [archive for whole in DATASETS.values() for archive in whole.archives]
    assert len({archive.url for archive in archives}) == len({archive.md5 for archive in archives}) == len(archives) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in archives)
    assert all(re.fullmatch(r"https://[a-z0-9.-]+/201[78]/[\w-]+\.zip", archive.url) for archive in archives)


def test_the_splits_are_the_official_ones():
    assert {part.split: part.cases for part in DATASETS["isic2017"].parts} == {"train": 2000, "val": 150, "test": 600}
    assert {part.split: part.cases for part in DATASETS["isic2018"].parts} == {"train": 2594}


def test_the_command_makes_a_source_that_simulate_takes(dataset, tmp_path, monkeypatch, run_command):
    monkeypatch.setitem(DATASETS, "isic2017", dataset)
    code, output, error = run_command("fetch", "isic2017", tmp_path / "out", "--size", "32", "--keep-archives", "--quiet")
    assert (code, error) == (0, "")
    assert output.endswith(f"\nnext: pixeltrust simulate {tmp_path / 'out'} lesions\n")
    assert (tmp_path / "out.archives").exists()
    assert run_command("simulate", tmp_path / "out", tmp_path / "lesions", "--clean", "1", "--quiet")[0] == 0


def test_the_command_keeps_archives_where_it_is_told(dataset, tmp_path, monkeypatch, run_command):
    monkeypatch.setitem(DATASETS, "isic2017", dataset)
    assert run_command("fetch", "isic2017", tmp_path / "out", "--archives", tmp_path / "zips")[0] == 0
    assert len(files_of(tmp_path / "zips")) == 6


def test_a_bar_says_how_far_and_how_fast_unless_it_is_to_be_quiet(dataset, tmp_path, monkeypatch, capsys):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "200")
    fetch(dataset, tmp_path / "out", patience=HASTY)
    result = capsys.readouterr()
    assert result.out == ""
    for said in ("asking for sizes", "downloading, MB", "/s", f"{dataset.archives[-1].name} checking", "unpacking"):
        assert said in result.err
    fetch(dataset, tmp_path / "quiet", patience=HASTY, show_progress=False)
    assert capsys.readouterr() == ("", "")
