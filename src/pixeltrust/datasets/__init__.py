"""Published data sets: their archives are fetched, and made into a source (see `pixeltrust.data.known_truth`).

Of the archives only the images and their masks are taken, straight from the zip files and under names of our own.
"""

from pixeltrust.datasets.published import DATASETS, Archive, Dataset, Part
from pixeltrust.datasets.source import Fetched, fetch

__all__ = ["DATASETS", "Archive", "Dataset", "Fetched", "Part", "fetch"]
