"""Image and mask files by their names, and what goes wrong when one is read."""

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from unicodedata import normalize

from PIL import Image, UnidentifiedImageError

from pixeltrust.data import volumes
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", *volumes.SUFFIXES)
MAX_PIXELS = 300_000_000  # beyond this a file is taken for a decompression bomb
_LARGE = 50_000_000  # pixels; above it one picture is decoded at a time, as a decoded one takes up to 11 bytes a pixel
_LARGE_ONE = Lock()

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow itself raises at twice this
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # and warns in between


def image_suffix(path: Path) -> str | None:
    """Return the known image ending of a path in lower case, or None: `scan.v2.NII.GZ` has `.nii.gz`."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def written_suffix(like: Path) -> str:
    """Return the ending with which a file is written like another: its own; of one file, where that is two; NIfTI's for a DICOM series."""
    suffix = image_suffix(like) or (volumes.NIFTI[0] if like.is_dir() else like.suffix)
    return volumes.HEADERS.get(suffix, suffix)


def case_id(path: Path) -> str:
    """Return the id of a file's case: its name without the image ending, as text that can be compared and written.

    That is in composed characters (macOS writes é as two), and with escapes for bytes that are not valid UTF-8.
    """
    suffix = image_suffix(path)
    name = path.name[: -len(suffix)] if suffix else path.stem
    return normalize("NFC", os.fsencode(name).decode("utf-8", errors="backslashreplace"))


@contextmanager
def readable(path: Path, *, or_series: bool = False) -> Iterator[None]:
    """Turn whatever the reader of a file (or, if so said, of a series of files in a folder) raises in the block into a DataError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not (or_series and path.is_dir()):  # opening a pipe would block
            raise DataError(f"{path}: {'a folder' if path.is_dir() else 'a pipe or device'}, not a file")
        yield
    except PixeltrustError:
        raise
    except FileNotFoundError:
        raise refusal(path, "there is no such file", kind="files that do not exist") from None
    except UnidentifiedImageError:
        known = ", ".join(SUFFIXES)
        raise refusal(path, f"not an image of a known format ({known})", kind="files that are not images of a known format") from None
    except Image.DecompressionBombError:
        raise too_large(path) from None
    except EOFError:
        raise _unreadable(path, "it ends too early", repair="copy it again, as what was copied here was cut off") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or " ".join(str(error).split())) from error
    except ImportError as error:
        extra = "needs an extra: pip install 'pixeltrust[medical]'"
        raise refusal(path, f"reading it {extra} ({error})", kind=f"files whose reading {extra}") from None
    except Exception as error:  # a broken file makes its reader raise anything: zlib.error, OverflowError, SyntaxError, …
        raise _unreadable(path, " ".join(str(error).split()) or type(error).__name__) from error


def refusal(path: Path, wrong: str, *, kind: str, repair: str = "") -> DataError:
    """Return the error that a file has something wrong, which is said, of a kind that many files may have."""
    return DataError(Fault(f"{path}: {wrong}", kind=kind, repair=repair))


def _unreadable(path: Path, wrong: str, *, repair: str = "") -> DataError:
    return refusal(path, f"cannot be read: {wrong}", kind="files that cannot be read", repair=repair)


def too_large(path: Path) -> DataError:
    """Return the error that a file has more than `MAX_PIXELS`."""
    wrong = f"more than {MAX_PIXELS:,} pixels, so taken for a decompression bomb"
    kind = f"files of more than {MAX_PIXELS:,} pixels, taken for decompression bombs"
    return refusal(path, wrong, kind=kind, repair="shrink it, or cut it in parts")


def one_at_a_time(size: tuple[int, ...]) -> AbstractContextManager[object]:
    """Return what lets one large picture or volume be decoded at a time, and small ones all at once."""
    return _LARGE_ONE if math.prod(size) > _LARGE else nullcontext()
