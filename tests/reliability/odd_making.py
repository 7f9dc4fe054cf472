"""Makers of broken and odd files, for `odd_files.py` and `fuzz.py`: each makes its file in a folder, and says where."""

import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pixeltrust.training.models import build_model
from pixeltrust.training.run_folder import FORMAT
from pixeltrust.training.run_writer import RunWriter, parameters

GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
LABELS = GREY % 2
PALETTE = (9, 8, 7, 255, 0, 0, 0, 255, 0)
WHITE_FIRST = (255, 255, 255, 0, 0, 0)
LPS, RAS = np.diag([-1.0, -1, 1, 1]), np.eye(4)


def saved(name: str, pixels: Any, **options: Any) -> Callable[[Path], Path]:
    """Make a picture as Pillow writes it."""

    def make(folder: Path) -> Path:
        path = folder / name
        with path.open("w+b") as file:
            picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
            picture.save(file, **{"format": Image.registered_extensions()[path.suffix.lower()]} | options)
        return path

    return make


def content(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    """Make a file of these bytes; of what a function returns, where they take long to make."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        return path

    return make


def changed(make: Callable[[Path], Path], change: Callable[[bytes], bytes], name: str | None = None) -> Callable[[Path], Path]:
    """Make the file of `make` with other bytes, and perhaps another name."""

    def making(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path.rename(folder / name) if name else path

    return making


def under(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return changed(make, lambda data: data, name)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def chunk(name: bytes, data: bytes = b"", *, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ wrong)


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes, *before: bytes, interlaced: bool = False, wrong: int = 0) -> bytes:
    """Make a PNG file; `rows` as they are before they are packed, a filter byte at the start of each."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows), wrong=wrong), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced(pixels: np.ndarray) -> bytes:
    """Make a grey PNG in the seven passes of Adam7."""
    rows = b""
    for top, left, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        part = pixels[top::down, left::across]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    return png(pixels.shape, 8, 0, rows, interlaced=True)


def packed_bits(pixels: np.ndarray, depth: int) -> bytes:
    """Rows of samples of 1, 2 or 4 bits."""
    bits = np.unpackbits(pixels[..., None], axis=-1)[..., -depth:].reshape(len(pixels), -1)
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))


def behind_header(*parts: bytes) -> Callable[[bytes], bytes]:
    """Chunks that come next to the header of a PNG."""
    return lambda data: data[:33] + b"".join(parts) + data[33:]


def with_palette(labels: np.ndarray, palette: Sequence[int] = PALETTE) -> Image.Image:
    picture = Image.fromarray(labels)
    picture.putpalette(palette)
    return picture


def with_alpha(pixels: np.ndarray, alpha: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.putalpha(Image.fromarray(alpha))
    return picture


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def pages(*flags: int) -> Callable[[Path], Path]:
    """Make a TIFF of a page of 12x20 and others of 6x10 whose subfile types are given."""

    def make(folder: Path) -> Path:
        others = []
        for flag in flags:
            page = Image.fromarray(GREY[::2, ::2])
            page.encoderinfo = {"tiffinfo": ImageFileDirectory_v2()}
            page.encoderinfo["tiffinfo"][254] = flag
            others.append(page)
        return saved("several.tif", GREY, save_all=True, append_images=others)(folder)

    return make


def nifti(name: str, values: np.ndarray, affine: np.ndarray | None = LPS, slope: tuple[float, float] = (1, 0)) -> Callable[[Path], Path]:
    """Make a NIfTI file; without an affine its orientation is not given."""

    def make(folder: Path) -> Path:
        image = nibabel.Nifti1Image(values, affine)
        if affine is None:
            image.header["sform_code"] = image.header["qform_code"] = 0
        image.header.set_slope_inter(*slope)
        nibabel.save(image, folder / name)
        return folder / name

    return make


def nifti_bytes(shape: tuple[int, ...], data: bytes, **fields: Any) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + bytes(4) + data


def link(name: str, to: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(to)
        return folder / name

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def locked(folder: Path) -> Path:
    path = saved("locked.png", GREY)(folder)
    path.chmod(0)
    return path


def folder_like_a_file(folder: Path) -> Path:
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


def data(*spoil: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """Make a sound data folder, then spoil it."""

    def make(folder: Path) -> Path:
        for name in ("images", "noisy", "clean", "test"):
            (folder / name).mkdir()
        for identity, role in (("n1", "noisy"), ("n2", "noisy"), ("c1", "clean"), ("t1", "test")):
            saved(f"{identity}.png", COLOUR)(folder / "images")
            saved(f"{identity}.png", LABELS)(folder / role)
        for one in spoil:
            one(folder)
        return folder

    return make


def put(where: str, make: Callable[[Path], Path]) -> Callable[[Path], Any]:
    """Make the file of `make` in a folder of the data."""
    return lambda folder: make(folder / where)


def case(name: str, image: Any = COLOUR, mask: Any = LABELS) -> Callable[[Path], Any]:
    """Add a noisy case."""

    def spoil(folder: Path) -> None:
        saved(f"{name}.png", image)(folder / "images")
        saved(f"{name}.png", mask)(folder / "noisy")

    return spoil


ROWS = ("n1,images/n1.png,noisy/n1.png,noisy,", "c1,images/c1.png,clean/c1.png,clean,", "t1,images/t1.png,test/t1.png,test,")
HEADER = "id,image,mask,role,group"


def table(*rows: str, header: str = HEADER, newline: str = "\n", coding: str = "utf-8", name: str = "cases.csv") -> Callable[[Path], Path]:
    """Make a sound data folder with a table of cases."""

    def make(folder: Path) -> Path:
        path = data()(folder) / name
        path.write_bytes(newline.join([header, *rows, ""]).encode(coding))
        return path

    return make


def parquet(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = data()(folder) / "cases.parquet"
        change(pd.DataFrame([row.split(",") for row in ROWS], columns=HEADER.split(","))).to_parquet(path)
        return path

    return make


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.at),)


HARM = "harm"


def run(*spoil: Callable[[Path], Any], settings: str = 'model = "unet-small"\nimage_size = 16\n') -> Callable[[Path], Path]:
    """Make a run folder whose training has finished, then spoil it."""

    def make(folder: Path) -> Path:
        folder = folder / "run"
        folder.mkdir()
        (folder / "config.toml").write_text(settings, encoding="utf-8")
        (folder / "environment.json").write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
        RunWriter(folder).write_state("model.pt", {"model": parameters(build_model("unet-small", channels=3, classes=1))})
        for one in spoil:
            one(folder)
        return folder

    return make


def deflated(path: Path) -> None:
    """Pack the same members, which `torch.save` never does."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)


def absolute(folder: Path) -> Path:
    """Make a table with absolute paths, in another folder than its files."""
    (folder / "data").mkdir()
    there = data()(folder / "data")
    path = folder / "elsewhere.csv"
    rows = [
        ",".join([identity, f"{there}/{image}", f"{there}/{mask}", *rest])
        for identity, image, mask, *rest in (row.split(",") for row in ROWS)
    ]
    path.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    return path


def harmful(name: str, how: str) -> Callable[[Path], Any]:
    """Write a file of a run that makes a folder when it is unpickled."""

    def spoil(folder: Path) -> None:
        harm = Payload(folder.parent / HARM)
        if how == "torch":
            torch.save({"model": harm}, folder / name)
        elif how == "numpy":
            with (folder / name).open("wb") as file:
                np.savez(file, ids=np.array([harm], object), epochs=np.zeros(1), maps=np.zeros(1))
        else:
            (folder / name).write_bytes(pickle.dumps(harm))

    return spoil


def says_format(written: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / "environment.json").write_text(json.dumps({"format": written}), encoding="utf-8")


def holding(state: Any) -> Callable[[Path], Any]:
    """Other weights."""
    return lambda folder: torch.save(state, folder / "model.pt")


def bringing_code(folder: Path) -> None:
    """Put a module that the settings name, and that can be imported, into the run folder."""
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(folder.parent / HARM)!r})\n", encoding="utf-8")
    (folder / "config.toml").write_text('model = "theirs:build"\n', encoding="utf-8")
    sys.path.insert(0, str(folder))
