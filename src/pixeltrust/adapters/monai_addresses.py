"""Addresses in MONAI's dictionary transforms: one that adds them to an item, and what reads them from a batch."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from pixeltrust.method.addresses import Where, address_map

try:
    from monai.data import MetaTensor
    from monai.transforms import MapTransform
except ImportError as error:
    raise ImportError("the transforms of pixeltrust.adapters.monai need MONAI: pip install monai") from error

_DIGIT = 24
"""Bits of an address in one channel: float32, which MONAI's transforms compute in, holds so many exactly."""


class AddAddressesd(MapTransform):
    """Add the addresses of an item's pixels under "addresses", and the grid that they are of under "addresses_shape".

    To be listed after the deterministic transforms that make the grid on which trust is kept, and before the random ones. List "addresses"
    in those as another label: mode "nearest", and padding with zeros, which stand for no pixel. It is float32 (channels, *S), with a
    second channel for volumes of more than 2²⁴ voxels, and what MONAI knows of the item's place in the world is copied (MetaTensor).
    `where_of` reads both.

    Args:
        keys: the item whose grid it is, (C, *S), as "label".
        addresses_key: in place of "addresses".

    Raises:
        KeyError: an item has no such key.
    """

    def __init__(self, keys: Any, addresses_key: str = "addresses") -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"addresses are of one grid: give one key, as 'label', not {self.keys}")
        self.addresses_key = addresses_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its addresses."""
        of = data[self.keys[0]]
        numbers = 1 + address_map(of.shape[1:])  # 0 is what padding leaves
        channels = 1 + (numbers.numel().bit_length() > _DIGIT)
        addresses = torch.stack([numbers >> _DIGIT * place & (1 << _DIGIT) - 1 for place in range(channels)]).float()
        if isinstance(of, MetaTensor):
            addresses = MetaTensor(addresses, meta=dict(of.meta), applied_operations=list(of.applied_operations))
        return {**data, self.addresses_key: addresses, f"{self.addresses_key}_shape": torch.tensor(of.shape[1:])}


def where_of(batch: Mapping[str, Any], *, id_key: str = "id", addresses_key: str = "addresses") -> Where:
    """Return where the pixels of a batch come from, of items to which `AddAddressesd` has added addresses.

    Args:
        batch: with the ids of its items under `id_key`.

    Raises:
        KeyError: it has no ids, or no addresses.
        ValueError: the addresses are not whole numbers, as after another interpolation than "nearest".
    """
    missing = [key for key in (id_key, addresses_key, f"{addresses_key}_shape") if key not in batch]
    if missing:
        raise KeyError(
            f"a batch has no {missing[0]!r}: give every item of the noisy cases an 'id', and list AddAddressesd before random transforms"
        )
    digits = torch.as_tensor(batch[addresses_key]).as_subclass(Tensor).double()
    scale = torch.tensor([float(1 << _DIGIT * place) for place in range(digits.shape[1])], dtype=torch.float64, device=digits.device)
    addresses = torch.einsum("bc...,c->b...", digits, scale) - 1
    return Where(batch[id_key], addresses, torch.as_tensor(batch[f"{addresses_key}_shape"]).tolist())
