"""Commands that make and check data: demo, fetch, simulate, check, convert."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixeltrust.cli.app import app
from pixeltrust.cli.options import Classes, Data, IgnoreLabel, Open, Quiet, existing, show, with_layout
from pixeltrust.noise.kinds import kind_names
from pixeltrust.noise.structures import LABEL_KINDS, require_noise
from pixeltrust.plumbing.errors import RunError

if TYPE_CHECKING:
    from pixeltrust.data.layouts import Layout


def _makeable(out: Path) -> Path:
    """Return a folder that can be made, or is there."""
    if not next(place for place in (out, *out.resolve().parents) if place.exists()).is_dir():
        raise RunError(f"{out}: cannot be made, as a file is in the way; choose another --out")
    return out


def _known_noise(name: str) -> str:
    require_noise(name)
    return name


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder of the demo.", callback=_makeable)] = Path("demo"),
    data_only: Annotated[bool, typer.Option("--data-only", help="Make its images and masks, and stop: data to try commands on.")] = False,
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Do the whole job on made-up images, in minutes.

    Simulate masks, mend them from a few pairs, train on the given and on the mended ones, measure, and make a page. A stopped demo
    continues by the same command.

    Example: pixeltrust demo --out demo
    """
    from pixeltrust.demonstration.demo import demo, demo_data

    made = (demo_data if data_only else demo)(out, show_progress=not quiet)
    show(made, out / "report.html" if open_page and not data_only else None)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="isic2017 or isic2018.")],
    out: Annotated[Path, typer.Argument(help="The folder to make, with images/, masks/ and split.csv.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Reduce images and masks to this number of pixels a side.")] = None,
    archives: Annotated[Path | None, typer.Option("--archives", help="The folder to find the archives in, or to keep them in.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep the archives, in OUT.archives.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download a published data set, for simulations.

    The folder has images, true masks and a split. The same command continues a stopped download.

    Example: pixeltrust fetch isic2017 isic2017 --size 256
    """
    from pixeltrust.datasets.source import fetch

    print(fetch(dataset, out, size=size, archives=archives, keep_archives=keep_archives, show_progress=not quiet))


@app.command()
def simulate(
    source: Annotated[Path, typer.Argument(help="A folder with images/, masks/ (the truth) and maybe split.csv.", callback=existing)],
    out: Annotated[Path, typer.Argument(help="The data folder to make.")],
    noise: Annotated[
        str, typer.Option("--noise", help=f"{kind_names()}, {', '.join(LABEL_KINDS)} (of classes).", callback=_known_noise)
    ] = "triangle",
    classes: Classes = 1,
    clean: Annotated[int, typer.Option("--clean", help="Number of training cases that get their true mask.")] = 100,
    no_pairs: Annotated[bool, typer.Option("--no-pairs", help="Leave out the noisy masks of the clean cases.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise and of the choice of clean cases.")] = 0,
    strength: Annotated[float | None, typer.Option("--strength", help="Strength of the noise: 0 none, 1 the kind's full form.")] = None,
    target_dice: Annotated[float | None, typer.Option("--target-dice", help="Choose the strength by the mean Dice to the truth.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make a data folder with simulated noise in its masks.

    From images whose true masks are known.

    Example: pixeltrust simulate isic2017 lesions --noise triangle --clean 100
    """
    from pixeltrust.noise.simulate import simulate

    print(
        simulate(
            source,
            out,
            noise=noise,
            classes=classes,
            clean=clean,
            seed=seed,
            strength=strength,
            target_dice=target_dice,
            pairs=not no_pairs,
            show_progress=not quiet,
        )
    )


@app.command()
@with_layout
def check(
    layout: "Layout",
    data: Data,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, max=254, help="1 (if not given): foreground and background; 2 or more: labels.")
    ] = None,
    ignore_label: IgnoreLabel = None,
    headers: Annotated[bool, typer.Option("--headers", help="Read names and headers alone: thousands of volumes in seconds.")] = False,
    quiet: Quiet = False,
) -> None:
    """List every fault of a data folder, and what is there.

    Example: pixeltrust check lesions
    """
    from pixeltrust.data.cases import check

    print(check(data, classes=classes, ignore_label=ignore_label, headers=headers, show_progress=not quiet, **layout))


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="from",
            help="An annotation file, a folder of masks, or the folder of an audit; for nnunet a data folder or table.",
            callback=existing,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="What to make: a folder (png, fiftyone, nnunet) or a file.")],
    to: Annotated[str | None, typer.Option("--to", help="png, coco, coco-polygons, label-studio, cvat, fiftyone or nnunet.")] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="png, audit, coco, label-studio, cvat or fiftyone; recognised if not given.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images, for their names and sizes.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label's name; repeated, in the order of their numbers.")] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", help="1: one foreground; 2 or more: labels 0 … classes − 1. Follows from the labels if not given."),
    ] = None,
    ignore_label: IgnoreLabel = None,
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="The annotator to read, if there are several: a person, a model version, a field.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Convert masks from and to the formats of other tools.

    Example: pixeltrust convert instances.json lesions/noisy --images lesions/images
    """
    from pixeltrust.formats.convert import convert

    print(
        convert(
            source,
            out,
            to=to,
            source_format=source_format,
            images=images,
            labels=label or [],
            classes=classes,
            ignore_label=ignore_label,
            annotator=annotator,
            show_progress=not quiet,
        )
    )
