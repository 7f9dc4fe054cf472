"""The review of volumes: planes, drafts, what is decided and kept, and the NIfTI files that come of it."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlencode

import numpy as np
import pytest

import pixeltrust
from audits import audit_of_volumes
from pixeltrust.auditing.blank import find_audit
from pixeltrust.auditing.folder import Audit, read_audit_cases
from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.images import read_header, read_labels, read_values, write_labels
from pixeltrust.data.volumes import Grid
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.reviewing import again
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.decoded import Decoded
from pixeltrust.reviewing.drafts import Drafts, ball, change_at
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.reviewing.learning import count_pairs
from pixeltrust.reviewing.masks import decode_mask, digest, encode_mask
from pixeltrust.reviewing.planes import planes_of
from pixeltrust.reviewing.volume_pages import channels_of
from test_review import clients, rows_of
from tiny import draw_volumes
from volumes import SHAPE, TURNED, write_data, write_nifti

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
AXES = {"axial": 2, "coronal": 1, "sagittal": 0}
FLIPPED = np.array([[0, 0, 2, 5], [-1, 0, 0, 3], [0, -1.5, 0, -4], [0, 0, 0, 1.0]])  # sagittal slices, the head down


def moved(_, given):
    """A proposal that takes a corner of the mask away, and has a false region apart from it."""
    proposed = given.copy()
    proposed[:, :8] = 0
    proposed[1:3, 1:4, 1:4] = 1
    return proposed


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    write_data(folder / "data", noisy=2, clean=1)
    return audit_of_volumes(folder / "data", folder / "audit", moved)


@pytest.fixture
def audit(template, tmp_path):
    shutil.copytree(template, tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def client(audit):
    yield from clients(audit)


def ask(client, path, *, body=None, status=200, **values):
    address = f"/volume/{path}?" + urlencode({"id": "n0", "who": "ann", "start": "proposed", **values})
    answer = client.get(address) if body is None else client.post(address, content=body)
    assert answer.status_code == status, answer.text
    return answer


# --- planes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), TURNED, FLIPPED])
def test_a_plane_is_seen_as_radiologists_see_it(affine):
    to_left_back_up = np.diag([-1, -1, 1, 1.0]) @ affine
    shape = (4, 5, 6)
    grid = Grid(shape, to_left_back_up[:3, :3].T[::-1].copy(), to_left_back_up[:3, 3])
    places = np.stack(np.indices(shape), -1) @ grid.steps + grid.origin  # (D, H, W, left back up)
    for plane in planes_of(grid):
        across = AXES[plane.name]
        left, back, up = (plane.cut(places[..., axis], 1) for axis in range(3))
        right_of, below = {"axial": (left, back), "coronal": (left, -up), "sagittal": (back, -up)}[plane.name]
        assert (np.diff(right_of, axis=1) > 0).all(), plane
        assert (np.diff(below, axis=0) > 0).all(), plane
        cosines = abs(grid.steps[:, across]) / np.array(grid.spacing)
        assert cosines[plane.axis] == cosines.max()
        about = plane.describe(grid)
        assert (about["height"], about["width"]) == left.shape
        assert min(about["stretch"]) >= 1


def test_a_volume_that_says_nothing_of_its_orientation_is_seen_as_it_is():
    grid = Grid((2, 3, 4), -np.eye(3), np.zeros(3))
    volume = np.arange(24).reshape(2, 3, 4)
    one, two, three = planes_of(grid, states_orientation=False)
    assert (one.cut(volume, 1) == volume[1]).all()
    assert (two.cut(volume, 1) == volume[:, 1]).all()
    assert (three.cut(volume, 1) == volume[:, :, 1]).all()


# --- drafts -----------------------------------------------------------------------------------------------------------


def test_a_ball_has_the_voxels_whose_centres_lie_in_it():
    draws, shape, spacing = np.random.default_rng(0), (9, 20, 21), (3.0, 1.0, 0.8)
    centres = (np.stack(np.indices(shape), -1) + 0.5) * spacing
    for _ in range(6):
        path, size = draws.uniform(0, shape, (3, 3)), draws.uniform(1, 9)
        box, inside = ball(path, size, spacing, shape)
        found = np.zeros(shape, bool)
        found[box] = inside
        dense = np.concatenate([np.linspace(a, b, 80) for a, b in pairwise(path)]) * spacing
        nearest = np.sqrt(((centres[..., None, :] - dense) ** 2).sum(-1).min(-1))
        sure = abs(nearest - size / 2) > 0.05
        assert (found == (nearest <= size / 2))[sure].all()


def test_a_draft_outlives_the_server_and_its_strokes_are_undone(tmp_path):
    start, box = np.zeros((3, 4, 5), np.uint8), (slice(1, 2), slice(0, 4), slice(2, 4))
    with Drafts(tmp_path).of("a", "ann") as draft:
        assert draft.paint(lambda: start, box, lambda was: was) == 0
        assert not draft.exists
        assert draft.paint(lambda: start, box, lambda was: was + 1) == 8
        assert draft.paint(lambda: start, box, lambda was: was + 1) == 8
        assert draft.turn("undo")
        assert draft.labels.sum() == 8
        assert draft.turn("redo")
        assert not draft.turn("redo")
    with Drafts(tmp_path).of("a", "ann") as draft:
        assert draft.labels.sum() == 16
        assert not draft.turn("undo")
        draft.drop()
        assert not draft.exists
    with Drafts(tmp_path).of("a", "bob") as draft:
        assert not draft.exists


def test_one_connected_part_of_a_change_is_found():
    given, proposed = np.zeros((4, 9, 9), np.uint8), np.zeros((4, 9, 9), np.uint8)
    proposed[0, 0, 0] = proposed[1, 1, 1] = proposed[3, 8, 8] = 1  # the first two touch by a corner
    given[0, 0, 1] = 2  # another kind beside
    box, where = change_at(given, proposed, (slice(1, 2),) * 3)
    found = np.zeros_like(given, bool)
    found[box] = where
    assert np.argwhere(found).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert change_at(given, proposed, (slice(2, 3),) * 3) is None
    assert change_at(given, proposed, (slice(0, 4), slice(0, 9), slice(0, 9)), "too much")[1].sum() == 1


def test_a_mask_is_saved_and_read_again():
    labels = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    assert (decode_mask(encode_mask(labels)) == labels).all()
    assert (decode_mask(encode_mask(labels[0])) == labels[0]).all()
    assert digest(labels) != digest(labels.reshape(5, 4, 3))


def test_decoded_volumes_are_exact_and_the_oldest_are_removed(tmp_path, template):
    image = Path(read_audit_cases(template)["image"][0])
    decoded = Decoded(tmp_path, most_bytes=3 * 2 * np.prod(SHAPE))
    numbers, scale = decoded.image("a", image)
    assert abs(scale.offset + scale.slope * numbers.astype(float) - read_values(image)).max() <= scale.slope
    again, same = Decoded(tmp_path).image("a", image)
    assert same == scale
    assert (again == numbers).all()
    for name in "bcdef":
        decoded.image(name, image)
    assert 1 <= len(list((tmp_path / ".volumes").glob("*.npy"))) <= 3


# --- what the page asks for ----------------------------------------------------------------------------------------------


def test_a_slice_has_the_image_and_its_masks(audit, client):
    row = read_audit_cases(audit).set_index("id").loc["n0"]
    given, image = read_labels(Path(row["mask"])), read_values(Path(row["image"]))
    header, scale = read_header(Path(row["mask"])), ask(client, "scale").json()
    for plane in planes_of(header.grid):
        content = ask(client, "slice", axis=plane.axis, at=2).content
        pixels = plane.cut(given, 2).size
        seen = np.frombuffer(content[: 2 * pixels], "<u2").reshape(plane.cut(given, 2).shape)
        assert abs(scale["offset"] + scale["slope"] * seen - plane.cut(image, 2)).max() < 2 * scale["slope"]
        masks = np.frombuffer(content[2 * pixels :], np.uint8).reshape(3, *seen.shape)
        assert (masks[0] == plane.cut(given, 2)).all()
        assert (masks[1] == plane.cut(moved("", given), 2)).all()
    answer = ask(client, "slice", axis=0, at=2)
    assert client.get(answer.url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    for wrong in ({"axis": 3, "at": 0}, {"axis": 0, "at": SHAPE[0]}, {"axis": 0}):
        ask(client, "slice", status=400, **wrong)
    assert client.get("/image?id=n0").status_code == 404


def test_a_volume_opens_where_its_given_mask_is_largest(tmp_path):
    audit = audit_of_volumes(write_data(tmp_path / "data", noisy=2, clean=1), tmp_path / "audit", moved)
    file = Path(read_audit_cases(audit).set_index("id").loc["n0", "mask"])
    labels = np.zeros(read_labels(file).shape, np.uint8)
    labels[1, 2:5, 3:6] = 2
    labels[2, 1:3, 1:3] = 1
    labels[3] = 255  # ignored
    for client in clients(audit):
        write_labels(file, labels, like=file)
        assert ask(client, "scale").json()["at"] == [1, 3, 4]
        write_labels(file, np.zeros_like(labels), like=file)
        assert ask(client, "scale").json()["at"] is None
        file.write_bytes(b"")
        assert ask(client, "scale").json()["at"] is None


def test_what_is_painted_is_decided_on_and_exported_as_nifti_on_the_grid_of_the_given_mask(audit, client, tmp_path):
    row = read_audit_cases(audit).set_index("id").loc["n0"]
    given, grid = read_labels(Path(row["mask"])), read_header(Path(row["mask"])).grid
    expected = moved("", given)
    assert client.post("/decide?id=n0&what=mended&who=ann&seen=0").json()["error"].startswith("Nothing is painted yet")
    coronal = next(plane for plane in planes_of(grid) if plane.name == "coronal")
    values = {"axis": coronal.axis, "at": 3, "top": 1, "left": 2, "bottom": 3, "right": 6}
    assert ask(client, "paint", body=b"\2" * 8, **values).json() == {"exists": True, "undo": 1, "redo": 0, "changed": 8}
    coronal.cut(expected, 3)[1:3, 2:6] = 2
    ask(client, "paint", body=b"\3" * 8, status=400, **values)  # no such label
    ask(client, "paint", body=b"\1" * 7, status=400, **values)
    axial = next(plane for plane in planes_of(grid) if plane.name == "axial")
    made = ask(client, "ball", body=b"[[10.2, 12.1], [12.2, 12.1]]", axis=axial.axis, at=5, size=4, label=1).json()
    assert made["changed"] > 0
    assert ask(client, "turn", body=b"", what="undo").json()["turned"]
    assert ask(client, "change", body=b"", axis=0, at=1, x=0, y=0, status=404).json()["error"] == "No change is proposed here."
    assert ask(client, "change", body=b"", region=0).json()["left"] in (True, False)
    assert ask(client, "turn", body=b"", what="undo").json()["undo"] == 1
    draft = ask(client, "draft", axis=coronal.axis, at=3)
    assert draft.content == coronal.cut(expected, 3).tobytes()
    assert json.loads(draft.headers["X-Draft"]) == {"exists": True, "undo": 1, "redo": 1}
    answer = client.post("/decide?id=n0&what=mended&who=ann&seen=0").json()
    assert answer["next"] == "n1"
    decisions = Decisions(Audit.read(audit))
    assert (decisions.mask(rows_of(audit)[0]["after"]) == expected).all()
    decisions.close()
    assert not json.loads(ask(client, "draft", axis=0, at=0).headers["X-Draft"])["exists"]
    assert client.get("/thumbnail?id=n0").status_code == 200
    export(audit, tmp_path / "out", show_progress=False)
    written, like = nibabel.load(tmp_path / "out/clean/n0.nii.gz"), nibabel.load(row["mask"])
    assert (read_labels(tmp_path / "out/clean/n0.nii.gz") == expected).all()
    assert (written.affine == like.affine).all()
    assert written.header["sform_code"] == like.header["sform_code"]
    assert (read_labels(tmp_path / "out/noisy/n0.nii.gz") == given).all()
    assert len(read_cases(tmp_path / "out", may_be_volumes=True, show_progress=False).pairs) == 1
    check(tmp_path / "out", classes=3, show_progress=False)


def test_what_is_the_same_as_proposed_is_accepted_not_saved(client, audit):
    at = {"axis": 0, "at": 1, "top": 0, "left": 0, "bottom": 1, "right": 1}
    ask(client, "paint", body=b"\1", **at)
    ask(client, "paint", body=b"\0", **at)
    assert "The same as proposed: P accepts it" in client.post("/decide?id=n0&what=mended&who=ann&seen=0").json()["error"]
    assert client.post("/decide?id=n0&what=proposed&who=ann&seen=0").status_code == 200
    assert [row["what"] for row in rows_of(audit)] == ["proposed"]


def test_a_file_that_is_missing_or_broken_is_named(client, audit):
    (audit / "mended/n0.nii.gz").unlink()
    assert "mended/n0.nii.gz: there is no such file" in unquote(ask(client, "slice", axis=0, at=2).headers["X-Fault"])
    (audit / "mended/n1.nii.gz").write_bytes(b"no volume")
    assert "mended/n1.nii.gz" in unquote(ask(client, "slice", id="n1", axis=0, at=2).headers["X-Fault"])
    assert client.get("/thumbnail?id=n1").headers["X-Fault"]


@pytest.mark.parametrize("fault", ["truncated", "no volume", "absent", "another size"])
def test_the_page_of_a_broken_mask_opens_with_the_image(tmp_path, fault):
    data = write_data(tmp_path / "data", noisy=2, clean=1)
    audit = audit_of_volumes(data, tmp_path / "audit", moved)
    mask, image = data / "noisy/n0.nii.gz", read_values(data / "images/n0.nii.gz")
    content = mask.read_bytes()
    mask.unlink()
    if fault == "another size":
        write_nifti(mask, np.zeros((4, 5, 6), np.uint8))
    elif fault != "absent":
        mask.write_bytes(content[: len(content) // 2] if fault == "truncated" else b"no volume")
    for client in clients(audit):
        page = client.get("/case?id=n0")
        assert page.status_code == 200
        assert "plane-coronal" in page.text
        answer = ask(client, "slice", axis=0, at=3)
        assert "noisy/n0.nii.gz: " in unquote(answer.headers["X-Fault"])
        numbers, scale = np.frombuffer(answer.content[: 2 * image[3].size], "<u2"), ask(client, "scale").json()
        assert abs(scale["offset"] + scale["slope"] * numbers.reshape(image[3].shape) - image[3]).max() < 2 * scale["slope"]
        assert not np.frombuffer(answer.content[2 * image[3].size :][: image[3].size], np.uint8).any()
        assert "noisy/n0.nii.gz" in ask(client, "draft", axis=0, at=3, start="given", status=500).json()["error"]
        assert "X-Fault" not in ask(client, "slice", id="n1", axis=0, at=3).headers


def test_a_dataset_of_nnunet_is_reviewed_with_its_labels(tmp_path):
    data = write_data(tmp_path / "data", noisy=2, clean=0)
    (data / "images").rename(data / "imagesTr")
    (data / "noisy").rename(data / "labelsTr")
    for file in list((data / "imagesTr").iterdir()):
        file.rename(file.with_name(file.name.replace(".nii", "_0000.nii")))
    record = {"labels": {"background": 0, "anterior": 1, "posterior": 2}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps(record))
    audit = find_audit(data, show_progress=False)
    assert find_audit(data, classes=3, show_progress=False) == audit
    for client in clients(audit):
        page = client.get("/case?id=n1").text
        assert "</i>anterior</span>" in page
        assert "</i>posterior</span>" in page


def test_a_data_folder_of_volumes_is_reviewed_without_any_audit(tmp_path):
    data = write_data(tmp_path / "data", noisy=3, clean=0)
    audit = find_audit(data, classes=3, show_progress=False)
    rows = read_audit_cases(audit)
    assert sorted(rows["id"]) == ["n0", "n1", "n2"]
    for client in clients(audit):
        page = client.get("/case?id=n1").text
        assert "plane-coronal" in page
        assert "Accept proposed" not in page
        assert len(ask(client, "slice", axis=0, at=3, id="n1", start="given").content) == 3 * SHAPE[1] * SHAPE[2]
        assert client.post("/decide?id=n1&what=given&who=ann&seen=0").status_code == 200
        assert client.post("/export").json()["words"].startswith(f"{tmp_path / 'data-reviewed'}: 2 noisy, 1 clean (1 pair)")
    given = Path(rows.set_index("id")["mask"]["n1"])
    assert (read_labels(tmp_path / "data-reviewed/clean/n1.nii.gz") == read_labels(given)).all()


def test_an_export_of_one_structure_keeps_the_numbers_of_its_masks(tmp_path):
    data = write_data(tmp_path / "data", noisy=2, clean=1)
    for mask in (*data.glob("noisy/*"), *data.glob("clean/*")):
        write_nifti(mask, (read_labels(mask) > 0).astype(np.uint8))
    audit = find_audit(data, show_progress=False)
    for client in clients(audit):
        assert client.post("/decide?id=n0&what=given&who=ann&seen=0").status_code == 200
    export(audit, tmp_path / "out", show_progress=False)
    written = [np.unique(read_labels(mask)).tolist() for mask in (tmp_path / "out").glob("[cn]*/*.nii.gz")]
    assert written == [[0, 1]] * 4


def test_channels_of_an_image_are_files_of_their_own(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    assert channels_of(tmp_path / "a_0000.nii.gz") == [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    assert channels_of(tmp_path / "b.nii.gz") == [tmp_path / "b.nii.gz"]


def test_a_review_of_two_channels_exports_both(tmp_path):
    audit = find_audit(draw_volumes(tmp_path / "data", noisy=2, clean=2, channels=2), classes=3, show_progress=False)
    name = read_audit_cases(audit)["id"][0]
    for client in clients(audit):
        slices = [ask(client, "slice", id=name, axis=0, at=3, channel=channel, start="given").content for channel in (0, 1)]
        assert slices[0] != slices[1]
        ask(client, "slice", id=name, axis=0, at=3, channel=2, status=400)
        assert 'id="channel"' in client.get(f"/case?id={name}").text
        assert client.post(f"/decide?id={name}&what=given&who=ann&seen=0").status_code == 200
    export(audit, tmp_path / "out", show_progress=False)
    assert {path.name for path in (tmp_path / "out/images").iterdir()} >= {f"{name}_0000.nii.gz", f"{name}_0001.nii.gz"}
    assert read_cases(tmp_path / "out", may_be_volumes=True, show_progress=False).cases[0].channels == 2


def test_formats_of_pictures_refuse_an_audit_of_volumes(template, tmp_path):
    with pytest.raises(PixeltrustError, match="3D Slicer and ITK-SNAP open the NIfTI files"):
        pixeltrust.convert(template, to="coco", out=tmp_path / "out", show_progress=False)


def test_what_is_decided_on_volumes_is_learned_from_in_patches_of_their_size(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(again, "mend_cases", lambda cases, listed, **how: asked.append((cases, listed, how)))
    write_data(tmp_path / "data", noisy=3, clean=1)
    shutil.copy(tmp_path / "data/clean/c0.nii.gz", tmp_path / "data/noisy/c0.nii.gz")
    audit = find_audit(tmp_path / "data", classes=3, show_progress=False)
    for client in clients(audit):
        for name in ("n0", "n2"):
            assert client.post(f"/decide?id={name}&what=given&who=ann&seen=0").status_code == 200
    again.mend_again(audit, show_progress=False)
    assert count_pairs(Audit.read(audit)) == 1  # of the data themselves
    ((cases, listed, how),) = asked
    assert cases.volumes
    assert (how["config"].classes, how["config"].size, how["config"].method) == (3, (16, 16, 16), "mender")
    assert how["config"].epochs == 10  # as for volumes
    assert {case.id for case in cases.pairs} == {"n0", "n2", "c0"}
    assert len(listed) == 3
    for case in (case for case in cases.pairs if case.id != "c0"):
        assert case.mask == audit / "corrected" / f"{case.id}.nii.gz"
        assert (read_labels(case.mask) == read_labels(case.given)).all()
        assert read_header(case.mask).grid.difference(read_header(case.given).grid) == ""
