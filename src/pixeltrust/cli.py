"""The command line: every command parses, calls one function, prints. Heavy imports are inside the commands, so --help answers at once."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixeltrust import __version__
from pixeltrust.noise.kinds import kind_names
from pixeltrust.plumbing.errors import PixeltrustError

if TYPE_CHECKING:
    from pixeltrust.data.layouts import Layout

INTERRUPTED = 130  # the exit code of Ctrl-C

app = typer.Typer(
    name="pixeltrust",
    help="Train segmentation networks on masks that cannot all be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Classes = Annotated[int, typer.Option("--classes", min=1, max=254, help="1: foreground and background; 2 or more: labels 0 … classes − 1.")]
IgnoreLabel = Annotated[int | None, typer.Option("--ignore-label", min=0, max=255, help="The value of ignored pixels, if not 255.")]
ImagesFolder = Annotated[Path | None, typer.Option("--images", help="The folder of the images, if not DATA/images.")]
NoisyFolder = Annotated[Path | None, typer.Option("--noisy", help="The folder of the noisy masks, if not DATA/noisy.")]
CleanFolder = Annotated[Path | None, typer.Option("--clean", help="The folder of the clean masks, if not DATA/clean.")]
TestFolder = Annotated[Path | None, typer.Option("--test", help="The folder of the test masks, if not DATA/test.")]
MaskSuffix = Annotated[
    list[str] | None, typer.Option("--mask-suffix", help="An ending to take off the masks' names, _segmentation; may be repeated.")
]
ImageSuffix = Annotated[
    list[str] | None, typer.Option("--image-suffix", help="An ending to take off the images' names, _0000; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ  # as `ranks` would say, which takes torch's seconds to ask


def main() -> None:
    """Run the command line; the user's mistakes end with one line (or one list) on standard error and exit code 2, Ctrl-C with 130.

    Of several processes that work together the first one that ends so says why, for all of them.
    """
    try:
        app(standalone_mode=True)
    except PixeltrustError as error:
        if _is_to_tell():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED and _is_to_tell():  # typer makes a silent exit of Ctrl-C
            print(
                "stopped; what is finished is kept; --resume continues where a command has it, the same call where it has not",
                file=sys.stderr,
            )
        raise
    except Exception:
        _is_to_tell()  # the traceback does
        raise


def _is_to_tell() -> bool:
    if not _BY_TORCHRUN:
        return True
    from pixeltrust.plumbing.processes import claims_error_report

    return claims_error_report()


def _print(outcome: object) -> None:
    """Once, where several processes work together."""
    if not _BY_TORCHRUN or os.environ["RANK"] == "0":
        print(outcome)


def _layout(
    images: Path | None,
    noisy: Path | None,
    clean: Path | None,
    test: Path | None,
    mask_suffix: list[str] | None,
    image_suffix: list[str] | None,
) -> "Layout":
    """What the options say of a data folder, for the functions that read one."""
    return {
        "images": images,
        "noisy": noisy,
        "clean": clean,
        "test": test,
        "mask_suffix": mask_suffix or (),
        "image_suffix": image_suffix or (),
    }


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pixeltrust {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the demo goes.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """The whole job on made-up dermoscopy images, in minutes: simulate, train plain and with trust, evaluate, report.

    Example: pixeltrust demo --out demo
    """
    from pixeltrust.demonstration.demo import demo

    print(demo(out, show_progress=not quiet))


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="isic2017 or isic2018.")],
    out: Annotated[Path, typer.Argument(help="The folder to make, with images/, masks/ and split.csv.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Reduce images and masks to so many pixels a side.")] = None,
    archives: Annotated[Path | None, typer.Option("--archives", help="Where the archives are, or go and stay.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Leave the archives in OUT.archives.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download a published data set and make a source of it; a stopped download goes on when called again.

    Example: pixeltrust fetch isic2017 isic2017 --size 256
    """
    from pixeltrust.datasets import fetch

    print(fetch(dataset, out, size=size, archives=archives, keep_archives=keep_archives, show_progress=not quiet))


@app.command()
def simulate(
    source: Annotated[Path, typer.Argument(help="A folder with images/, masks/ (the truth) and maybe split.csv.")],
    out: Annotated[Path, typer.Argument(help="The data folder to make.")],
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            help=f"{kind_names()}.",
        ),
    ] = "triangle",
    clean: Annotated[int, typer.Option("--clean", help="How many training cases keep their true mask.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise and of the choice of clean cases.")] = 0,
    strength: Annotated[float | None, typer.Option("--strength", help="Of the noise: 0 none, 1 the kind's full form.")] = None,
    target_dice: Annotated[float | None, typer.Option("--target-dice", help="Choose the strength for this mean Dice to the truth.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make a data folder with simulated annotation noise from images whose true masks are known.

    Example: pixeltrust simulate isic2017 lesions --noise triangle --clean 100
    """
    from pixeltrust.noise.simulate import simulate

    print(simulate(source, out, noise=noise, clean=clean, seed=seed, strength=strength, target_dice=target_dice, show_progress=not quiet))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A data folder, or a .csv or .parquet table of cases.")],
    classes: Classes = 1,
    ignore_label: IgnoreLabel = None,
    images: ImagesFolder = None,
    noisy: NoisyFolder = None,
    clean: CleanFolder = None,
    test: TestFolder = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: ImageSuffix = None,
    quiet: Quiet = False,
) -> None:
    """Name every fault of a data folder, and say what is there.

    Example: pixeltrust check lesions
    """
    from pixeltrust.data.cases import check

    layout = _layout(images, noisy, clean, test, mask_suffix, image_suffix)
    print(check(data, classes=classes, ignore_label=ignore_label, show_progress=not quiet, **layout))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="from", help="An annotation file, a folder of masks, or the folder of an audit.")],
    out: Annotated[Path, typer.Argument(help="What to make: a folder (png, fiftyone) or a file.")],
    to: Annotated[str | None, typer.Option("--to", help="png, coco, coco-polygons, label-studio, cvat or fiftyone.")] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="png, audit, coco, label-studio, cvat or fiftyone; found out if not given.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images, for their names and sizes.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label's name; repeated, in the order of their numbers.")] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", help="1: one foreground; 2 or more: labels 0 … classes − 1. By the labels if not given.")
    ] = None,
    ignore_label: IgnoreLabel = None,
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="Whose of several annotations: a person, a model version, a field.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Convert masks from and to the annotation formats of other tools.

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


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A data folder, or a .csv or .parquet table of cases.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value; may be repeated.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped.")] = False,
    images: ImagesFolder = None,
    noisy: NoisyFolder = None,
    clean: CleanFolder = None,
    test: TestFolder = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: ImageSuffix = None,
    quiet: Quiet = False,
) -> None:
    """Train a network; a stopped run continues with --resume.

    Example: pixeltrust train lesions --out runs/pixel --set method=pixel --set epochs=50
    """
    from pixeltrust.config import read_config
    from pixeltrust.training.train import train

    layout = _layout(images, noisy, clean, test, mask_suffix, image_suffix)
    _print(train(data, out=out, config=read_config(config, setting or []), resume=resume, show_progress=not quiet, **layout))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[Path, typer.Argument(help="A folder of images, or one image.")],
    out: Annotated[Path, typer.Option("--out", help="Where the masks go: <id>.png, at the size of the image.")],
    weights: Annotated[str, typer.Option("--weights", help="last, or best by the held-out clean cases.")] = "last",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities, as 16-bit PNG.")] = False,
    sliding_window: Annotated[bool, typer.Option("--sliding-window", help="Cover larger images window by window.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out images whose mask is there already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict a mask for every image of a folder.

    Example: pixeltrust predict runs/pixel lesions/images --out predicted
    """
    from pixeltrust.prediction.predict import predict

    _print(
        predict(
            run,
            images,
            out=out,
            weights=weights,
            probabilities=probabilities,
            sliding_window=sliding_window,
            resume=resume,
            show_progress=not quiet,
        )
    )


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(help="A folder of predicted masks.")],
    truth: Annotated[Path, typer.Argument(help="A folder of true masks; its cases are measured.")],
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file to write, one row per case.")] = None,
    classes: Classes = 1,
    ignore_label: IgnoreLabel = None,
    mask_suffix: MaskSuffix = None,
    quiet: Quiet = False,
) -> None:
    """Measure predicted masks against the truth: per case, and the means with intervals.

    Example: pixeltrust evaluate predicted lesions/test --out pixel.csv
    """
    from rich.console import Console

    from pixeltrust.prediction.evaluate import evaluate

    evaluation = evaluate(
        predicted,
        truth,
        classes=classes,
        ignore_label=ignore_label,
        mask_suffix=mask_suffix or (),
        out=out,
        show_progress=not quiet,
    )
    Console().print(evaluation.table())
    for note in evaluation.notes:
        print(note)
    if out:
        print(f"the cases are in {out}")


@app.command()
def benchmark(
    source: Annotated[Path, typer.Argument(help="A folder with images/, masks/ and split.csv, or a data folder or table of your own.")],
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")],
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file: methods, noise, clean, seeds, and settings.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="One of these, key=value; may be repeated.")] = None,
    ask: Annotated[bool, typer.Option("--question", help="Does it help on my data? By cross-validation over the clean cases.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Trainings at once; as many as GPUs, or cores, if not given.")] = None,
    on: Annotated[str, typer.Option("--on", help="local, or ray (a cluster).")] = "local",
    images: ImagesFolder = None,
    noisy: NoisyFolder = None,
    clean: CleanFolder = None,
    test: TestFolder = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: ImageSuffix = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods over kinds of noise, numbers of clean masks and seeds; a stopped benchmark continues by the same command.

    Example: pixeltrust benchmark isic2017 --config grid.toml --out benchmark
    """
    from pixeltrust.benchmarking import benchmark, launcher_of, question, read_grid

    work = question if ask else benchmark
    grid, launcher = read_grid(config, setting or []), launcher_of(on, jobs)
    layout = _layout(images, noisy, clean, test, mask_suffix, image_suffix)
    _print(work(source, out=out, grid=grid, launcher=launcher, show_progress=not quiet, **layout))


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="A run folder whose training has finished.")],
    data: Annotated[Path, typer.Argument(help="A data folder or table of cases; its noisy masks are audited.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make: tables, maps of confidence, mended masks and a page.")],
    weights: Annotated[str, typer.Option("--weights", help="last, or best by the held-out clean cases.")] = "last",
    smallest: Annotated[int, typer.Option("--smallest", help="Pixels of a doubtful region that gets a row.")] = 9,
    sure: Annotated[float, typer.Option("--sure", help="Mend where the network gives another label more than this probability.")] = 0.5,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images in one pass; the run's where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an audit that was stopped.")] = False,
    images: ImagesFolder = None,
    noisy: NoisyFolder = None,
    clean: CleanFolder = None,
    test: TestFolder = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: ImageSuffix = None,
    quiet: Quiet = False,
) -> None:
    """Rank noisy masks by how doubtful they are, show where, and propose mended ones.

    Example: pixeltrust audit runs/trust lesions --out audit
    """
    from pixeltrust.auditing import audit

    found = audit(
        run,
        data,
        out=out,
        weights=weights,
        smallest=smallest,
        sure=sure,
        batch_size=batch_size,
        resume=resume,
        show_progress=not quiet,
        **_layout(images, noisy, clean, test, mask_suffix, image_suffix),
    )
    _print(found)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or that of a benchmark, an audit or a demo.")],
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file; report.html in the folder where not given.")] = None,
) -> None:
    """Write one self-contained HTML page about a run, a benchmark, an audit or a demo.

    Example: pixeltrust report runs/pixel
    """
    from pixeltrust.reports import report

    print(f"the page is {report(folder, out=out)}")


@app.command()
def review(
    audit: Annotated[Path, typer.Argument(help="A folder that `pixeltrust audit` made.")],
    host: Annotated[str, typer.Option("--host", help="The address to listen on; beyond this machine a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: one that is free.")] = 8765,
    who: Annotated[str | None, typer.Option("--who", help="Whose decisions these are; the login name if not given.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    out: Annotated[Path | None, typer.Option("--export", help="Serve nothing: make a data folder of what is decided.")] = None,
    quiet: Quiet = False,
) -> None:
    """Go through the doubtful masks of an audit on a local web page: accept, mend with a brush, reject; Ctrl-C ends it.

    Example: pixeltrust review audit --open, then pixeltrust review audit --export lesions-reviewed
    """
    from pixeltrust.reviewing.exports import export
    from pixeltrust.reviewing.server import review

    if out is not None:
        print(export(audit, out, show_progress=not quiet))
    else:
        print(review(audit, host=host, port=port, who=who, open_browser=open_browser))
        raise typer.Exit(INTERRUPTED)  # nothing but a signal ends it


if __name__ == "__main__":
    main()
