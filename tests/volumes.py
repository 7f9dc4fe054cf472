"""Made-up volumes: ellipsoids with two structures, on grids that are not those of the textbooks."""

import locale

import numpy as np
import pytest

SHAPE = (10, 24, 20)  # (D, H, W)
TURNED = np.array(
    [[-0.8, 0, 0, 12.5], [0, -0.8 * np.cos(0.3), 5 * np.sin(0.3), -7], [0, 0.8 * np.sin(0.3), 5 * np.cos(0.3), 3.3], [0, 0, 0, 1]]
)
"""An oblique affine of NIfTI: .8 x .8 mm in a slice, slices 5 mm apart."""


def ellipsoid(shape=SHAPE, radii=(3, 8, 6)):
    """Two structures, 1 and 2, that touch in the middle; uint8 (D, H, W)."""
    centred = [np.arange(extent) - (extent - 1) / 2 for extent in shape]
    inside = sum((axis / radius) ** 2 for axis, radius in zip(np.ix_(*centred), radii, strict=True)) < 1
    return np.where(inside, np.where(centred[1][:, None] < 0, 1, 2), 0).astype(np.uint8)


def write_nifti(path, values, affine=TURNED):
    """Write (D, H, W) as NIfTI; without an affine, without an orientation."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values.transpose(), affine)
    if affine is not None:
        image.header.set_sform(affine, 1)
        image.header.set_qform(affine, 1)
    nibabel.save(image, path)
    return path


def simple_itk():
    """Return SimpleITK, or skip the test."""
    return pytest.importorskip("SimpleITK", reason="the extra medical is not complete here: no SimpleITK")


def write_series(folder, values):
    """Write int16 (D, H, W) as a DICOM series: slices 2.5 mm apart, .5 x .5 mm, the files' names against their order."""
    itk = simple_itk()
    folder.mkdir(parents=True)
    kept = locale.setlocale(locale.LC_ALL)
    for number, plane in enumerate(values):
        picture = itk.GetImageFromArray(plane[None])
        picture.SetSpacing((0.5, 0.5, 2.5))
        position = "\\".join(map(str, (1.0, 2.0, 3.0 + 2.5 * number)))
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0032": position, "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in {**tags, "0008|0060": "CT", "0020|0013": str(number), "0028|0030": "0.5\\0.5"}.items():
            picture.SetMetaData(tag, value)
        writer = itk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{9 - number}.dcm"))
        writer.Execute(picture)
    locale.setlocale(locale.LC_ALL, kept)  # making a DICOM file sets the process's to C, which other tests would read files by
    return folder


def write_data(folder, *, noisy=3, clean=2, affine=TURNED, labels=None, ending=".nii.gz", shape=SHAPE):
    """Write a data folder of volumes n0, n1 … and c0, c1 …"""
    random = np.random.default_rng(0)
    labels = ellipsoid(shape) if labels is None else labels
    for role, number in (("noisy", noisy), ("clean", clean)):
        for place in range(number):
            name = f"{role[0]}{place}"
            write_nifti(folder / "images" / f"{name}{ending}", random.normal(size=labels.shape).astype(np.float32), affine)
            write_nifti(folder / role / f"{name}{ending}", labels, affine)
    return folder
