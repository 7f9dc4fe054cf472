"""The published data sets: where the archives of each are, and their MD5 sums."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file on the web."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name of the file on the disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The cases of one split."""

    split: str
    cases: int
    images: Archive
    masks: Archive


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A published data set: its parts, and under which licence it may be used."""

    name: str
    parts: tuple[Part, ...]
    licence: str

    @property
    def archives(self) -> list[Archive]:
        """The archives of all parts."""
        return [archive for part in self.parts for archive in (part.images, part.masks)]

    @property
    def cases(self) -> int:
        """The number of cases in all parts."""
        return sum(part.cases for part in self.parts)


_ISIC_2017 = "https://isic-challenge-data.s3.amazonaws.com/2017/ISIC-2017_"
_ISIC_2018 = "https://isic-challenge-data.s3.amazonaws.com/2018/ISIC2018_"
DATASETS = {
    "isic2017": Dataset(
        name="isic2017",
        licence="CC-0",
        parts=(
            Part(
                split="train",
                cases=2000,
                images=Archive(url=f"{_ISIC_2017}Training_Data.zip", md5="a14a7e622c67a358797ae59abb8a0b0c"),
                masks=Archive(url=f"{_ISIC_2017}Training_Part1_GroundTruth.zip", md5="77fdbeb6fbec4139937224416b250f4c"),
            ),
            Part(
                split="val",
                cases=150,
                images=Archive(url=f"{_ISIC_2017}Validation_Data.zip", md5="8d6419d942112f709894c0d82f6c9038"),
                masks=Archive(url=f"{_ISIC_2017}Validation_Part1_GroundTruth.zip", md5="64d3e68fa2deeb8a5e89aa8dec2efd44"),
            ),
            Part(
                split="test",
                cases=600,
                images=Archive(url=f"{_ISIC_2017}Test_v2_Data.zip", md5="5f6a0b5e1f2972bd1f5ea02680489f09"),
                masks=Archive(url=f"{_ISIC_2017}Test_v2_Part1_GroundTruth.zip", md5="b1742de6bd257faca3b2b21a4aa3b781"),
            ),
        ),
    ),
    "isic2018": Dataset(
        name="isic2018",
        licence="CC-BY-NC: name the source, no commercial use",
        parts=(
            Part(
                split="train",
                cases=2594,
                images=Archive(url=f"{_ISIC_2018}Task1-2_Training_Input.zip", md5="8b5be801f37b58ccf533df2928a5906b"),
                masks=Archive(url=f"{_ISIC_2018}Task1_Training_GroundTruth.zip", md5="ee5e5db7771d48fa2613abc7cb5c24e2"),
            ),
        ),
    ),
}
