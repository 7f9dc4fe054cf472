"""The command line: every command parses, calls one function, prints.

A command imports what takes seconds to load once its options are known to be right, so --help and every refusal answer at once.
"""

import inspect
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pixeltrust import __version__
from pixeltrust.config import read_config, require_run
from pixeltrust.noise.kinds import kind_names
from pixeltrust.noise.structures import LABEL_KINDS, require_noise
from pixeltrust.plumbing.errors import ConfigError, DataError, PixeltrustError

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


def _existing(path: Path) -> Path:
    if path is not None and not path.exists():  # an option that may be left out
        raise DataError(f"{path}: there is no such file or folder")
    return path


def _known_noise(name: str) -> str:
    require_noise(name)
    return name


Data = Annotated[Path, typer.Argument(help="A data folder, or a .csv or .parquet table of cases.", callback=_existing)]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", callback=require_run)]
Weights = Annotated[Literal["last", "best"], typer.Option("--weights", help="The last ones, or the best by the held-out clean cases.")]
Classes = Annotated[int, typer.Option("--classes", min=1, max=254, help="1: foreground and background; 2 or more: labels 0 … classes − 1.")]
IgnoreLabel = Annotated[int | None, typer.Option("--ignore-label", min=0, max=255, help="The value of ignored pixels, if not 255.")]
MaskSuffix = Annotated[
    list[str] | None, typer.Option("--mask-suffix", help="An ending to remove from the masks' names, like _segmentation; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
_UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ  # as `launched_by_torchrun`, which would load torch


def main() -> None:
    """Run the command line. A `PixeltrustError` ends with one line (or one list) on standard error and exit code 2, Ctrl-C with 130.

    Of several processes that work together, only the first one that fails prints its error.
    """
    try:
        app(standalone_mode=True)
    except PixeltrustError as error:
        if _claims_error_report():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED and _claims_error_report():  # typer turns Ctrl-C into a silent exit
            print("stopped; what is finished is kept; continue with --resume, or by the same command if it has none", file=sys.stderr)
        raise
    except Exception:
        _claims_error_report()  # the traceback follows
        raise


def _claims_error_report() -> bool:
    if not _UNDER_TORCHRUN:
        return True
    from pixeltrust.plumbing.processes import claims_error_report

    return claims_error_report()


def _print(outcome: object) -> None:
    """Print, in one process only where several work together."""
    if not _UNDER_TORCHRUN or os.environ["RANK"] == "0":
        print(outcome)


def _layout(
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images, if not DATA/images.")] = None,
    noisy: Annotated[Path | None, typer.Option("--noisy", help="The folder of the noisy masks, if not DATA/noisy.")] = None,
    clean: Annotated[
        Path | None, typer.Option("--clean", help="The folder of the clean masks, if not DATA/clean; of nnU-Net's data: a file of ids.")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="The folder of the test masks, if not DATA/test.")] = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: Annotated[
        list[str] | None, typer.Option("--image-suffix", help="An ending to remove from the images' names, like _0000; may be repeated.")
    ] = None,
) -> "Layout":
    """Return where a data folder has its files, for the functions that read one."""
    folders = {"images": images, "noisy": noisy, "clean": clean, "test": test}
    return {**folders, "mask_suffix": mask_suffix or (), "image_suffix": image_suffix or ()}  # type: ignore[typeddict-item]


def _with_layout(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_layout` in place of its argument `layout`."""
    options = inspect.signature(_layout).parameters
    signature = inspect.signature(command)

    @wraps(command)
    def with_options(**values: Any) -> None:
        command(layout=_layout(**{name: values.pop(name) for name in options}), **values)

    own = [parameter for parameter in signature.parameters.values() if parameter.name != "layout"]
    with_options.__signature__ = signature.replace(parameters=[*own, *options.values()])  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options.values())}
    return with_options


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
def demo(out: Annotated[Path, typer.Option("--out", help="The folder of the demo.")] = Path("demo"), quiet: Quiet = False) -> None:
    """Do the whole job on made-up dermoscopy images, in minutes: simulate, train plainly and with trust, evaluate, report.

    Example: pixeltrust demo --out demo
    """
    from pixeltrust.demonstration.demo import demo

    print(demo(out, show_progress=not quiet))


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="isic2017 or isic2018.")],
    out: Annotated[Path, typer.Argument(help="The folder to make, with images/, masks/ and split.csv.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Reduce images and masks to this number of pixels a side.")] = None,
    archives: Annotated[Path | None, typer.Option("--archives", help="The folder to find the archives in, or to keep them in.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep the archives, in OUT.archives.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download a published data set and make a source of it; the same command continues a stopped download.

    Example: pixeltrust fetch isic2017 isic2017 --size 256
    """
    from pixeltrust.datasets.source import fetch

    print(fetch(dataset, out, size=size, archives=archives, keep_archives=keep_archives, show_progress=not quiet))


@app.command()
def simulate(
    source: Annotated[Path, typer.Argument(help="A folder with images/, masks/ (the truth) and maybe split.csv.", callback=_existing)],
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
    """Make a data folder with simulated annotation noise from images whose true masks are known.

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
@_with_layout
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
        Path, typer.Argument(metavar="from", help="An annotation file, a folder of masks, or the folder of an audit.", callback=_existing)
    ],
    out: Annotated[Path, typer.Argument(help="What to make: a folder (png, fiftyone) or a file.")],
    to: Annotated[str | None, typer.Option("--to", help="png, coco, coco-polygons, label-studio, cvat or fiftyone.")] = None,
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
@_with_layout
def train(
    layout: "Layout",
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value; may be repeated.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a network; a stopped run continues with --resume.

    Example: pixeltrust train lesions --out runs/pixel --set method=pixel --set epochs=50
    """
    settings = read_config(config, setting or [])
    from pixeltrust.training.train import train

    _print(train(data, out=out, config=settings, resume=resume, show_progress=not quiet, **layout))


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[Path, typer.Argument(help="A folder of images, or one image.", callback=_existing)],
    out: Annotated[Path, typer.Option("--out", help="The folder for the masks: <id>.png, at the size of the image.")],
    weights: Weights = "last",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities, as 16-bit PNG.")] = False,
    sliding_window: Annotated[bool, typer.Option("--sliding-window", help="Cover larger images window by window.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images that have a mask already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict a mask for every image of a folder.

    Example: pixeltrust predict runs/pixel lesions/images --out predicted
    """
    from pixeltrust.prediction.predict import predict

    kinds = {"probabilities": probabilities, "sliding_window": sliding_window}
    _print(predict(run, images, out=out, weights=weights, resume=resume, show_progress=not quiet, **kinds))


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(help="A folder of predicted masks.", callback=_existing)],
    truth: Annotated[Path, typer.Argument(help="A folder of true masks; its cases are measured.", callback=_existing)],
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file to write, one row per case.")] = None,
    classes: Classes = 1,
    ignore_label: IgnoreLabel = None,
    mask_suffix: MaskSuffix = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice, in mm (or pixels, as the distances).")] = 1.0,
    quiet: Quiet = False,
) -> None:
    """Measure predicted masks against the truth: per case, and the means with intervals.

    Example: pixeltrust evaluate predicted lesions/test --out pixel.csv
    """
    from pixeltrust.prediction.evaluate import evaluate

    print(
        evaluate(
            predicted,
            truth,
            classes=classes,
            ignore_label=ignore_label,
            mask_suffix=mask_suffix or (),
            tolerance=tolerance,
            out=out,
            show_progress=not quiet,
        )
    )


@app.command()
@_with_layout
def benchmark(
    layout: "Layout",
    source: Annotated[
        Path, typer.Argument(help="A folder with images/, masks/ and split.csv, or a data folder or table of your own.", callback=_existing)
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the benchmark.")],
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file: methods, noise, clean, seeds, and settings.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="One key of that file, key=value; may be repeated.")] = None,
    ask: Annotated[
        bool, typer.Option("--question", help="Answer: does it help on my data? By cross-validation over the clean cases.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of trainings at once; one for each GPU, or core, if not given.")
    ] = None,
    on: Annotated[Literal["local", "ray"], typer.Option("--on", help="This machine, or a cluster.")] = "local",
    quiet: Quiet = False,
) -> None:
    """Compare methods over kinds of noise, numbers of clean masks and seeds; a stopped benchmark continues by the same command.

    Example: pixeltrust benchmark isic2017 --config grid.toml --out benchmark
    """
    from pixeltrust.benchmarking.grid import read_grid

    grid = read_grid(config, setting or [])
    from pixeltrust.benchmarking.jobs import launcher_of
    from pixeltrust.benchmarking.question import question
    from pixeltrust.benchmarking.run import benchmark

    work = question if ask else benchmark
    _print(work(source, out=out, grid=grid, launcher=launcher_of(on, jobs), show_progress=not quiet, **layout))


@app.command()
@_with_layout
def mend(
    layout: "Layout",
    data: Annotated[Path | None, typer.Argument(help="A data folder or table of cases with 5 pairs or more.", callback=_existing)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to make: mended masks, an estimate, tables and a page.")] = None,
    again: Annotated[
        Path | None, typer.Option("--again", help="In place of DATA and --out: a folder under review; its decisions are pairs too.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with settings of the menders.", callback=_existing)] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="key=value: one of these settings; may be repeated.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped mending.")] = False,
    quiet: Quiet = False,
) -> None:
    """Mend noisy masks by what pairs show of their errors, and say how good they are expected to be.

    A pair is a case with a noisy and a clean mask: one that an expert has corrected.

    Example: pixeltrust mend lesions --out mended
    """
    from pixeltrust.mending.settings import read_mender_config

    settings = read_mender_config(config, setting or ())
    if (again is None) == (data is None or out is None):
        raise ConfigError("give DATA and --out, or --again with a folder under review")
    if again is not None:
        from pixeltrust.reviewing.again import mend_again

        _print(mend_again(again, config=settings, show_progress=not quiet))
    else:
        from pixeltrust.mending.run import mend

        assert data is not None
        assert out is not None
        _print(mend(data, out=out, config=settings, resume=resume, show_progress=not quiet, **layout))


@app.command()
@_with_layout
def audit(
    layout: "Layout",
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] DATA",
            help="A run folder, unless --probabilities is given; and a data folder or table of cases, whose noisy masks are audited.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make: tables, maps of confidence, mended masks and a page.")],
    probabilities: Annotated[
        Path | None,
        typer.Option(
            "--probabilities",
            help="In place of RUN: the softmax outputs of any program, <id>.npz, .npy, .png or .nii.gz. The verdict is fair only where the "
            "network was not trained on the mask that it judges (cross-validation).",
            callback=_existing,
        ),
    ] = None,
    helped: Annotated[
        Path | None, typer.Option("--helped", help="With --probabilities: helped maps, <id>.png, of a training.", callback=_existing)
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, max=254, help="With --probabilities: 1 (foreground and background), or the number of labels."),
    ] = None,
    ignore_label: Annotated[
        int | None, typer.Option("--ignore-label", min=0, max=255, help="With --probabilities: the value of ignored pixels, if not 255.")
    ] = None,
    weights: Weights = "last",
    smallest: Annotated[int, typer.Option("--smallest", min=1, help="Smallest doubtful region that gets a row, in pixels.")] = 9,
    sure: Annotated[float, typer.Option("--sure", help="Mend where the network gives another label more than this probability.")] = 0.5,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Images in one pass; that of the run if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped audit.")] = False,
    quiet: Quiet = False,
) -> None:
    """Rank noisy masks by how doubtful they are, show where, and propose mended ones; by a run, or by any program's probabilities.

    Probabilities judge fairly only where the network was not trained on the mask that it judges, as in cross-validation: one that has
    learned a wrong mask agrees with it.

    Example: pixeltrust audit runs/trust lesions --out audit, or pixeltrust audit lesions --probabilities softmax --out audit
    """
    if len(folders) != (2 if probabilities is None else 1):
        raise ConfigError("give RUN and DATA, or DATA alone with --probabilities")
    run = None if probabilities else require_run(folders[0])
    data = _existing(folders[-1])

    from pixeltrust.auditing.run import audit

    audited = audit(
        run,
        data,
        out=out,
        probabilities=probabilities,
        helped=helped,
        classes=classes,
        ignore_label=ignore_label,
        weights=weights,
        smallest=smallest,
        sure=sure,
        batch_size=batch_size,
        resume=resume,
        show_progress=not quiet,
        **layout,
    )
    _print(audited)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or that of a benchmark, an audit or a demo.", callback=_existing)],
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file; report.html in the folder if not given.")] = None,
) -> None:
    """Write one self-contained HTML page about a run, a benchmark, an audit or a demo.

    Example: pixeltrust report runs/pixel
    """
    from pixeltrust.reports import report

    print(f"the page is {report(folder, out=out)}")


@app.command()
@_with_layout
def review(
    layout: "Layout",
    folder: Annotated[
        Path, typer.Argument(help="A folder that audit or mend made, or a data folder or table to begin with nothing.", callback=_existing)
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on; other machines need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8765,
    who: Annotated[str | None, typer.Option("--who", help="The reviewer's name; the login name if not given.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    to: Annotated[Path | None, typer.Option("--export", help="Do not serve: make a data folder from the decisions.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Of data: the folder of the review, made or gone on with; DATA-review if not given.")
    ] = None,
    classes: Classes = 1,
    ignore_label: IgnoreLabel = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of data: seed of the order of the cases.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Go through noisy masks on a local web page: accept, mend with a brush, reject; Ctrl-C ends it.

    An audit's masks come worst first, those of plain data as a random sample. From five accepted or mended masks on, a button on the page
    learns from them, mends all others, and ranks the queue anew while you go on. The same command continues.

    Example: pixeltrust review lesions --open, then pixeltrust review lesions --export lesions-reviewed
    """
    from pixeltrust.auditing.blank import find_audit
    from pixeltrust.reviewing.exports import export
    from pixeltrust.reviewing.server import review

    data: Any = {"out": out, "classes": classes, "ignore_label": ignore_label, "seed": seed, "show_progress": not quiet, **layout}
    if to is not None:
        print(export(find_audit(folder, **data), to, show_progress=not quiet))
    else:
        print(review(folder, host=host, port=port, who=who, open_browser=open_browser, **data))
        raise typer.Exit(INTERRUPTED)  # nothing but a signal ends it


if __name__ == "__main__":
    main()
