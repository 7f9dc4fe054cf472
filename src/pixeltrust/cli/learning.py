"""Commands that train networks and measure them: train, predict, evaluate, benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pixeltrust.cli.app import app
from pixeltrust.cli.options import (
    UNDER_TORCHRUN,
    Classes,
    ConfigFile,
    Data,
    IgnoreLabel,
    MaskSuffix,
    Open,
    Quiet,
    RunFolder,
    Settings,
    Weights,
    WithSettings,
    existing,
    show,
    with_layout,
)
from pixeltrust.config import read_values

if TYPE_CHECKING:
    from pixeltrust.data.layouts import Layout


@app.command(cls=WithSettings)
@with_layout
def train(
    layout: "Layout",
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    config: ConfigFile = None,
    setting: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped; settings need not be given again.")] = False,
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on given and clean masks.

    It ends with a page, as `report` makes it, that says how good the network is on the test masks, where there are any. A stopped run
    continues with --resume.

    Example: pixeltrust train lesions --out runs/trust --set model=unet-small --set epochs=50
    """
    settings = read_values(config, setting or [])
    from pixeltrust.training.train import train

    show(train(data, out=out, config=settings or None, resume=resume, show_progress=not quiet, **layout))
    if not UNDER_TORCHRUN:
        from pixeltrust.reports import report

        page = report(out, show_progress=not quiet)
        show(f"the page is {page}", page if open_page else None)


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[Path, typer.Argument(help="A folder of images, or one image; of volumes also DICOM series.", callback=existing)],
    out: Annotated[Path, typer.Option("--out", help="The folder for the masks: <id>.png, at the size of the image, or <id>.nii.gz …")],
    weights: Weights = "last",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities, as PNG or NIfTI of 16 bits.")] = False,
    sliding_window: Annotated[
        bool, typer.Option("--sliding-window", help="Cover larger pictures window by window, as volumes always are.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images that have a mask already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict a mask for every image of a folder.

    Example: pixeltrust predict runs/pixel lesions/images --out predicted
    """
    from pixeltrust.prediction.predict import predict

    kinds = {"probabilities": probabilities, "sliding_window": sliding_window}
    show(predict(run, images, out=out, weights=weights, resume=resume, show_progress=not quiet, **kinds))


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(help="A folder of predicted masks.", callback=existing)],
    truth: Annotated[Path, typer.Argument(help="A folder of true masks; its cases are measured.", callback=existing)],
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file to write, one row per case.")] = None,
    classes: Classes = 1,
    ignore_label: IgnoreLabel = None,
    mask_suffix: MaskSuffix = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice, in mm (or pixels, as the distances).")] = 1.0,
    quiet: Quiet = False,
) -> None:
    """Measure predicted masks against true ones.

    Every case by itself, and the means with intervals.

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
def export(
    run: RunFolder,
    form: Annotated[Literal["onnx"], typer.Option("--format", help="The format of the file.")] = "onnx",
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; model.onnx in the run folder if not given.")] = None,
    weights: Weights = "last",
    quiet: Quiet = False,  # noqa: ARG001
) -> None:
    """Write the network of a run for other programs, as ONNX.

    The file is run by onnxruntime and compared with torch, and metadata say what images the network takes. Needs the extra [onnx].

    Example: pixeltrust export runs/trust --format onnx
    """
    from pixeltrust.prediction.export import export

    print(export(run, format=form, out=out, weights=weights))


@app.command()
@with_layout
def benchmark(
    layout: "Layout",
    source: Annotated[
        Path, typer.Argument(help="A folder with images/, masks/ and split.csv, or a data folder or table of your own.", callback=existing)
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the benchmark.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file: methods, noise, clean, seeds, and settings.", callback=existing)
    ] = None,
    setting: Settings = None,
    ask: Annotated[
        bool, typer.Option("--question", help="Answer: does it help on my data? By cross-validation over the clean cases.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of trainings at once; one for each GPU, or core, if not given.")
    ] = None,
    on: Annotated[Literal["local", "ray"], typer.Option("--on", help="This machine, or a cluster.")] = "local",
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods, or ask whether one helps on your data.

    Over kinds of noise, numbers of clean masks and seeds; or by --question with the masks as they are. A stopped benchmark continues by
    the same command.

    Example: pixeltrust benchmark lesions --question --out answer
    """
    from pixeltrust.benchmarking.grid import read_grid

    grid = read_grid(config, setting or [])
    from pixeltrust.benchmarking.jobs import launcher_of
    from pixeltrust.benchmarking.question import question
    from pixeltrust.benchmarking.run import benchmark

    work = question if ask else benchmark
    done = work(source, out=out, grid=grid, launcher=launcher_of(on, jobs), show_progress=not quiet, **layout)
    show(done, out / "report.html" if open_page else None)
