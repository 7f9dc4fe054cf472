"""Do the programs whose formats `pixeltrust convert` speaks read what it writes, and does it read what they write, to the pixel?

    python tests/reliability/other_programs.py OUT --of fiftyone=PYTHON --of label-studio=PYTHON --of cvat=PYTHON --of coco=PYTHON

PYTHON is an interpreter that has the program's own library (fiftyone; label-studio-sdk; datumaro for CVAT and COCO), each in an environment
of its own, as they ask for versions that do not go together. OUT/programs.csv has a row for each format and direction; OUT/<format>/ has
what the program wrote, without the images (kept in tests/format_files, where the tests read it).

FiftyOne is asked by its own importer and exporter of the format, as its database is a server that pip does not bring.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pixeltrust.data.images import read_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.formats.convert import convert

LABELS = {1: "lesion", 2: "hair", 255: "ignored"}

# Each runs in the program's environment: given.npz has the true masks by id, `ours` is what convert wrote; it leaves read.npz, what the
# program reads there, and in `theirs` what it writes, and prints its version.
COMMON = f"""
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
given = dict(np.load(folder / "given.npz"))
names = {LABELS!r}
values = {{name: value for value, name in names.items()}}
ours, theirs = folder / sys.argv[2], folder / "theirs"
theirs.mkdir()
read = {{}}
"""
PROGRAMS = {
    "fiftyone": """
import fiftyone as fo
from fiftyone.utils.data.exporters import LegacyFiftyOneDatasetExporter
from fiftyone.utils.data.importers import LegacyFiftyOneDatasetImporter
with LegacyFiftyOneDatasetImporter(str(ours)) as samples:
    for sample in samples:
        read[Path(sample.filepath).stem] = sample["mask"].get_mask()
with LegacyFiftyOneDatasetExporter(str(theirs), export_media=True) as exporter:
    for one, mask in given.items():
        sample = fo.Sample(filepath=str(folder / "images" / f"{one}.png"), truth=fo.Segmentation(mask=mask))
        sample.metadata = fo.ImageMetadata.build_for(sample.filepath)
        exporter.export_sample(sample)
version = f"fiftyone {fo.__version__}"
""",
    "label-studio": """
from importlib.metadata import version as version_of
from label_studio_sdk.converter import brush
for task in json.loads(ours.read_text()):
    mask = np.zeros_like(given[task["data"]["pixeltrust_id"]])
    for result in task["annotations"][0]["result"]:
        shape = result["original_height"], result["original_width"], 4
        mask[brush.decode_rle(result["value"]["rle"]).reshape(shape)[..., 3] > 0] = values[result["value"]["brushlabels"][0]]
    read[task["data"]["pixeltrust_id"]] = mask
tasks = []
for number, (one, mask) in enumerate(given.items(), 1):
    about = {"type": "brushlabels", "from_name": "tag", "to_name": "image", "image_rotation": 0}
    about |= {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    results = []
    for value, name in names.items():
        if (mask == value).any():
            runs = brush.mask2rle((mask == value).astype(np.uint8) * 255)
            results.append({**about, "id": name, "value": {"format": "rle", "rle": runs, "brushlabels": [name]}})
    annotations = [{"id": number, "was_cancelled": False, "result": results}]
    tasks.append({"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{one}.png"}, "annotations": annotations})
(theirs / "project.json").write_text(json.dumps(tasks))
version = f"label-studio-sdk {version_of('label-studio-sdk')}"
""",
    **dict.fromkeys(
        ("cvat", "coco"),
        """
import datumaro
from datumaro import AnnotationType, Dataset, DatasetItem, Image, Mask
kind = {"cvat": "cvat", "coco": "coco_instances"}[sys.argv[3]]
if kind == "coco_instances":  # it takes a folder of a certain form
    place = folder / "coco" / "annotations"
    place.mkdir(parents=True)
    ours.rename(place / "instances_train.json")
    ours = folder / "coco"
    (ours / "images").mkdir()
    (ours / "images" / "train").symlink_to(folder / "images")
dataset = Dataset.import_from(str(ours), kind)
found = [label.name for label in dataset.categories()[AnnotationType.label].items]
for item in dataset:
    mask = np.zeros_like(given[item.id])
    for annotation in sorted((one for one in item.annotations if isinstance(one, Mask)), key=lambda one: one.z_order):
        mask[np.asarray(annotation.image) > 0] = values[found[annotation.label]]
    read[item.id] = mask
items = []
for place, (one, mask) in enumerate(given.items()):
    found = [(number, value) for number, value in enumerate(names) if (mask == value).any()]
    of_each = [Mask(mask == value, label=number, id=10 * place + number + 1, group=10 * place + number + 1) for number, value in found]
    picture = Image.from_numpy(np.zeros((*mask.shape, 3), np.uint8))
    items.append(DatasetItem(id=one, subset="train", media=picture, attributes={"frame": place}, annotations=of_each))
Dataset.from_iterable(items, categories=list(names.values())).export(str(theirs), kind, save_media=False)
version = f"datumaro {datumaro.__version__}"
""",
    ),
}
END = """
np.savez(folder / "read.npz", **read)
print("version:", version)
"""


def true_masks() -> dict[str, np.ndarray]:
    """Return masks with two labels, ignored pixels, holes, nothing at all, one pixel, all pixels."""
    rng = np.random.default_rng(0)
    masks = {}
    for number in range(8):
        height, width = 33 + 7 * number, 50 + 3 * number
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 20 + number, 8:30] = 1
        mask[9:14, 12:17] = 0
        mask[22:30, 25:45] = 2
        mask[:2, number:] = 255
        masks[f"case-{number}"] = mask
    masks["case-3"][:] = 0
    masks["case-4"] = rng.choice(np.array([0, 1, 2], np.uint8), masks["case-4"].shape)
    masks["case-5"][:] = 1
    masks["case-6"][:] = 0
    masks["case-6"][-1, -1] = 2
    return masks


def write_images(masks: dict[str, np.ndarray], folder: Path) -> None:
    """Black ones of the masks' sizes."""
    folder.mkdir()
    for one, mask in masks.items():
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(folder / f"{one}.png")


def compared(form: str, python: str, out: Path) -> list[dict[str, object]]:
    """Return the rows of a format."""
    masks = true_masks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(masks, folder / "images")
        (folder / "masks").mkdir()
        for one, mask in masks.items():
            write_png(folder / "masks" / f"{one}.png", mask)
        np.savez(folder / "given.npz", **masks)
        ours = "ours" if form == "fiftyone" else "ours.xml" if form == "cvat" else "ours.json"
        how = {"images": folder / "images", "labels": [name for name in LABELS.values() if name != "ignored"], "show_progress": False}
        convert(folder / "masks", folder / ours, to=form, classes=3, ignore_label=255, **how)
        code = COMMON + PROGRAMS[form] + END
        done = subprocess.run([python, "-c", code, str(folder), ours, form], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{form}: {done.stderr}")
        version = done.stdout.split("version: ")[-1].strip()
        read = dict(np.load(folder / "read.npz"))
        theirs = folder / "theirs"
        source = theirs if form == "fiftyone" else next(path for path in sorted(theirs.rglob("*")) if path.suffix in (".json", ".xml"))
        back = read_back(source, form, folder)
        kept = out / form
        kept.mkdir(parents=True, exist_ok=True)
        for file in [source] if source.is_file() else sorted(source.glob("*.json")):
            shutil.copyfile(file, kept / file.name)
    about = {"format": form, "program": version, "masks": len(masks)}
    return [
        about | {"direction": "it reads what convert writes", "alike": alike(masks, read)},
        about | {"direction": "convert reads what it writes", "alike": alike(masks, back)},
    ]


def read_back(source: Path, form: str, folder: Path) -> dict[str, np.ndarray]:
    """Convert a program's file; return its masks by id. The images are in folder/images."""
    labels = () if form == "fiftyone" else ("lesion", "hair")  # its labels are the values
    convert(source, folder / "back", source_format=form, images=folder / "images", labels=labels, classes=3, show_progress=False)
    return {path.stem: read_labels(path) for path in (folder / "back").iterdir()}


def alike(masks: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> int:
    return sum(one in others and np.array_equal(mask, others[one]) for one, mask in masks.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--of", action="append", required=True, metavar="FORMAT=PYTHON")
    asked = parser.parse_args()
    rows = [row for form, _, python in (one.partition("=") for one in asked.of) for row in compared(form, python, asked.out)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    table.to_csv(asked.out / "programs.csv", index=False)


if __name__ == "__main__":
    main()
