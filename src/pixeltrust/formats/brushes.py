"""The packed bytes of Label Studio's brush masks.

The bytes hold bits: 32 for the number of values (4 per pixel: red, green, blue, alpha), 5 for the bits of a value less 1, four
times 4 for the bits of a length less 1; then parts: 1 bit (all values alike or each its own), 2 bits (which length), the length
less 1, and the value or values. Source: Label Studio's documentation of BrushLabels; the packing is that of thi.ng/rle-pack.
"""

from typing import Any

import numpy as np

from pixeltrust.formats.documents import shortened
from pixeltrust.plumbing.errors import DataError

CHANNELS = 4
_LENGTHS = (3, 4, 8, 16)  # bits, as Label Studio itself chooses them
_WORD = 8


def unpack(packed: Any, length: int) -> np.ndarray:
    """Return the values uint8 (length,) that the bytes hold.

    Raises:
        DataError: they hold another number of values, end too early, or are not bytes.
    """
    try:
        numbers = np.asarray(packed)
    except ValueError:
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or ((numbers < 0) | (numbers > 255)).any():
        raise DataError(f"the runs {shortened(packed)} are not a list of whole numbers from 0 to 255")
    data = numbers.astype(np.uint8).tobytes()
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise DataError(f"the runs end before the {length:,} values that they announce")
        first = (place - size) // 8
        chunk = int.from_bytes(data[first : (place + 7) // 8], "big")
        return (chunk >> (-place % 8)) & ((1 << size) - 1)

    announced = take(32)
    if announced != length:
        raise DataError(f"the runs hold {announced:,} values, the image needs {length:,} (4 per pixel)")
    word = take(5) + 1
    if word > _WORD:
        raise DataError(f"values of {word} bits; 8 are what Label Studio writes")
    lengths = [take(4) + 1 for _ in range(4)]
    values = np.empty(length, np.uint8)
    filled = 0
    while filled < length:
        alike = take(1)
        until = filled + 1 + take(lengths[take(2)])
        if until > length:
            raise DataError(f"the runs hold more than the {length:,} values that they announce")
        if alike:
            values[filled:until] = take(word)
        else:
            start = place
            take(word * (until - filled))
            words = bits[start:place].reshape(-1, word)
            values[filled:until] = words @ (1 << np.arange(word - 1, -1, -1))
        filled = until
    return values


def pack(mask: np.ndarray) -> list[int]:
    """Return the bytes of a mask bool (H, W), as Label Studio's own converter makes them: 255 in all four values of a foreground pixel."""
    flat = mask.reshape(-1)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    parts = [f"{flat.size * CHANNELS:032b}{_WORD - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTHS)]
    for start, length in zip(edges[:-1].tolist(), (np.diff(edges) * CHANNELS).tolist(), strict=True):
        value = "1" * _WORD if flat[start] else "0" * _WORD
        while length:
            which = next((which for which, bits in enumerate(_LENGTHS) if length <= 1 << bits), len(_LENGTHS) - 1)
            step = min(length, 1 << _LENGTHS[which])
            parts.append(f"1{which:02b}{step - 1:0{_LENGTHS[which]}b}{value}")
            length -= step
    text = np.frombuffer("".join(parts).encode("ascii"), np.uint8) - ord("0")
    return np.packbits(text).tolist()
