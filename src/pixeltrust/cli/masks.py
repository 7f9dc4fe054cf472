"""Commands about the masks, and pages: mend, audit, review, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixeltrust.cli.app import INTERRUPTED, app
from pixeltrust.cli.options import ConfigFile, IgnoreLabel, Open, Quiet, Settings, Weights, existing, show, with_layout
from pixeltrust.config import read_values, require_run
from pixeltrust.plumbing.errors import ConfigError

if TYPE_CHECKING:
    from pixeltrust.data.layouts import Layout


@app.command()
@with_layout
def mend(
    layout: "Layout",
    data: Annotated[Path | None, typer.Argument(help="A data folder or table of cases with 5 pairs or more.", callback=existing)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to make: mended masks, an estimate, tables and a page.")] = None,
    again: Annotated[
        Path | None, typer.Option("--again", help="In place of DATA and --out: a folder under review; its decisions are pairs too.")
    ] = None,
    config: ConfigFile = None,
    setting: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped mending; settings need not be given again.")] = False,
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Mend noisy masks by what a few corrected ones show.

    Says how good the mended masks are expected to be. A pair is a case with a noisy and a clean mask: one that an expert has corrected.

    Example: pixeltrust mend lesions --out mended
    """
    from pixeltrust.mending.settings import DEFAULTS, as_mender_config

    settings = read_values(config, setting or (), DEFAULTS)
    as_mender_config(settings)
    if (again is None) == (data is None or out is None):
        raise ConfigError("give DATA and --out, or --again with a folder under review")
    if again is not None:
        from pixeltrust.reviewing.again import mend_again

        mended = mend_again(again, config=settings or None, show_progress=not quiet)
    else:
        from pixeltrust.mending.run import mend

        assert data is not None
        assert out is not None
        mended = mend(data, out=out, config=settings or None, resume=resume, show_progress=not quiet, **layout)
    show(mended, mended.out / "report.html" if open_page else None)


@app.command()
@with_layout
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
            callback=existing,
        ),
    ] = None,
    helped: Annotated[
        Path | None, typer.Option("--helped", help="With --probabilities: helped maps, <id>.png, of a training.", callback=existing)
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
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Rank noisy masks by doubt, and propose mended ones.

    By a run, or by any program's probabilities. With corrected masks at hand, `pixeltrust mend` does better.

    Probabilities judge fairly only where the network was not trained on the mask that it judges, as in cross-validation: one that has
    learned a wrong mask agrees with it.

    Example: pixeltrust audit runs/trust lesions --out audit, or pixeltrust audit lesions --probabilities softmax --out audit
    """
    if len(folders) != (2 if probabilities is None else 1):
        raise ConfigError("give RUN and DATA, or DATA alone with --probabilities")
    run = None if probabilities else require_run(folders[0])
    data = existing(folders[-1])

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
    show(audited, out / "report.html" if open_page else None)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or that of a benchmark, an audit or a demo.", callback=existing)],
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file; report.html in the folder if not given.")] = None,
    beside: Annotated[
        Path | None,
        typer.Option("--beside", help="Of a run: a second run to compare with, or the folder of a question.", callback=existing),
    ] = None,
    open_page: Open = False,
    quiet: Quiet = False,
) -> None:
    """Write a page about a run, benchmark, audit, mending or demo.

    One HTML file with everything in it. Of a run whose data have test masks these are predicted and measured, if they have not been.

    Example: pixeltrust report runs/trust --beside runs/plain --open
    """
    from pixeltrust.reports import report

    page = report(folder, out=out, beside=beside, show_progress=not quiet)
    show(f"the page is {page}", page if open_page else None)


@app.command()
@with_layout
def review(
    layout: "Layout",
    folder: Annotated[
        Path, typer.Argument(help="A folder that audit or mend made, or a data folder or table to begin with nothing.", callback=existing)
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on; other machines need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8765,
    who: Annotated[str | None, typer.Option("--who", help="The reviewer's name; the login name if not given.")] = None,
    open_page: Open = False,
    to: Annotated[Path | None, typer.Option("--export", help="Do not serve: make a data folder from the decisions.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Of data: the folder of the review, made or gone on with; DATA-review if not given.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=1,
            max=254,
            help="1 (if not given): foreground and background; 2 or more: labels. A dataset of nnU-Net says it itself.",
        ),
    ] = None,
    ignore_label: IgnoreLabel = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of data: seed of the order of the cases.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Go through masks on a local web page, and correct them.

    Accept, mend with a brush, reject; Ctrl-C ends it.

    An audit's masks come worst first, those of plain data as a random sample. From five accepted or mended masks on, a button on the page
    learns from them, mends all others, and ranks the queue anew while you go on. The same command continues.

    Example: pixeltrust review lesions --open, then pixeltrust review lesions --export lesions-reviewed
    """
    from pixeltrust.auditing.blank import find_audit
    from pixeltrust.reviewing.exports import export_decisions
    from pixeltrust.reviewing.server import review

    data: Any = {"out": out, "classes": classes, "ignore_label": ignore_label, "seed": seed, "show_progress": not quiet, **layout}
    if to is not None:
        print(export_decisions(find_audit(folder, **data), to, show_progress=not quiet))
    else:
        print(review(folder, host=host, port=port, who=who, open_browser=open_page, **data))
        raise typer.Exit(INTERRUPTED)  # nothing but a signal ends it
