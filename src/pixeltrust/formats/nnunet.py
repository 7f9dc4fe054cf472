"""A whole data folder as a dataset of nnU-Net; `data.nnunet` reads that as a data folder again.

OUT/  dataset.json  clean.txt (ids, one a line)  imagesTr/<id>_0000.*  labelsTr/<id>.*  imagesTs/  labelsTs/ (the tests, if there are any)
"""

import gzip
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pixeltrust.data.cases import Case, CaseList, read_cases
from pixeltrust.data.image_files import image_suffix, written_suffix
from pixeltrust.data.images import link_image, read_header, read_image, read_values, write_labels
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.data.nnunet import CLEAN_IDS, IGNORED, RECORD, read_dataset
from pixeltrust.data.pictures import write_png
from pixeltrust.data.volumes import NIFTI
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.files import fill_folder_atomically, write_file
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.text import count, some

NNUNET = "nnunet"
_PICTURES = ".png"
_COLOURS = ["R", "G", "B"]  # of one file; nnU-Net scales these by 255


class Dataset(NamedTuple):
    """What was written."""

    masks: int
    empty: int
    """Masks without any labelled pixel."""
    labels: dict[str, int]
    notes: list[str]


class _Written(NamedTuple):
    meaning: MaskMeaning
    ignores: bool
    is_grey: bool


def write_dataset(
    data: Path, out: Path, *, labels: Sequence[str] = (), classes: int = 1, ignore_label: int | None = None, show_progress: bool = True
) -> Dataset:
    """Write a data folder or table as a dataset of nnU-Net, whole or not at all.

    Volumes keep their files (as hard links where the disk allows; `.nii` is compressed), and their labels lie on their image's grid to
    the bit. Pictures become PNG, as `read_image` reads them.

    Args:
        labels: the names of the labels from 1 on.
        classes, ignore_label: as in `Config`.

    Raises:
        DataError: every fault of the data in one go; or images of several formats, of which nnU-Net reads one.
        ConfigError: another number of names than of labels.
        RunError: `out` cannot be written.
    """
    if read_dataset(data):
        raise DataError(f"{data}: a dataset of nnU-Net already")
    drawn = max(classes, 2) - 1
    if labels and len(labels) != drawn:
        raise ConfigError(f"label: the masks have {count(drawn, 'label')}, {len(labels)} names were given")
    names = labels or (["foreground"] if drawn == 1 else [f"class-{number}" for number in range(1, drawn + 1)])
    found = read_cases(data, needed=(), may_be_volumes=True, show_progress=show_progress)
    if not found.cases:
        raise DataError(f"{data}: no mask in it")
    ending = _ending(data, found.cases)
    with fill_folder_atomically(out) as folder:
        for part in {_part(case) for case in found.cases}:
            (folder / f"images{part}").mkdir()
            (folder / f"labels{part}").mkdir()
        write = partial(_write_case, folder, ending, classes=classes, ignore_label=ignore_label)
        written = map_in_threads(write, found.cases, text="converting", complaint="These cases cannot be converted:", shown=show_progress)
        if faults := mixture_faults(case.meaning for case in written):
            raise DataError("The masks cannot be understood:", faults)
        grey = [case for case, outcome in zip(found.cases, written, strict=True) if outcome.is_grey]
        if coloured := ending == _PICTURES and len(grey) < len(written):
            for case in grey:  # all images have as many channels
                write_png(image := folder / f"images{_part(case)}" / f"{case.id}_0000.png", read_image(image))
        channels = _COLOURS if coloured else [f"channel-{number}" for number in range(found.cases[0].channels)]
        numbers = {
            name: number for number, name in enumerate([*names, IGNORED], 1) if name != IGNORED or any(case.ignores for case in written)
        }
        record = {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": {"background": 0, **numbers},
            "numTraining": sum(case.role != "test" for case in found.cases),
            "file_ending": ending,
        }
        write_file(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        write_file(folder / CLEAN_IDS, "".join(f"{case.id}\n" for case in found.cases if case.role == "clean"))
    notes = list(found.notes)
    if found.pairs:
        notes.append(f"a case has one mask there: the noisy ones of {count(len(found.pairs), 'pair')} are left out")
    if found.cases.texts("group").any():
        notes.append("groups are not kept: where cases of one patient must stay together, give nnU-Net a splits_final.json")
    if ending != _PICTURES:
        notes.append(f"channels are named {some(channels)} in {RECORD}: name one of CT `CT` there, as nnU-Net scales it by that name")
    return Dataset(len(written), sum(not case.meaning.labelled for case in written), numbers, notes)


def _ending(data: Path, cases: CaseList) -> str:
    """Return the one ending of the files to write."""
    if not read_header(cases[0].image).grid:
        return _PICTURES
    such = {(NIFTI[0] if image_suffix(file) in NIFTI else written_suffix(file)): file for case in cases for file in case.image_files}
    if len(such) > 1:
        names = some(list(map(str, such.values())))
        raise DataError(f"{data}: images in {len(such)} formats (such as {names}); a dataset of nnU-Net has one: save them alike")
    return next(iter(such))


def _part(case: Case) -> str:
    return "Ts" if case.role == "test" else "Tr"


def _write_case(folder: Path, ending: str, case: Case, *, classes: int, ignore_label: int | None) -> _Written:
    labels, meaning = decode_labels(case.mask, classes=classes, ignore_label=ignore_label)
    ignored = labels == IGNORE
    labels[ignored] = max(classes, 2)  # after the last label
    write_labels(folder / f"labels{_part(case)}" / f"{case.id}{ending}", labels, like=case.image)
    is_grey = True
    for number, file in enumerate(case.image_files):
        to = folder / f"images{_part(case)}" / f"{case.id}_{number:04}{ending}"
        if ending == _PICTURES:
            pixels = read_image(file)
            is_grey = bool((pixels == pixels[..., :1]).all())
            write_png(to, pixels[..., 0] if is_grey else pixels)
            continue
        read_values(file)  # what cannot be read, or is not finite, is named here; its bytes are kept as they are
        if image_suffix(file) != NIFTI[1]:
            link_image(file, to.parent, to.name.removesuffix(ending))
        else:
            with file.open("rb") as plain, gzip.open(to, "wb", compresslevel=6) as compressed:
                shutil.copyfileobj(plain, compressed)
    return _Written(meaning, bool(ignored.any()), is_grey)
