"""One page about a run, or about a demo: a single HTML file with everything in it, that needs no network."""

from pathlib import Path

from pixeltrust.errors import RunError
from pixeltrust.files import replacing
from pixeltrust.report.demo import demo_page
from pixeltrust.report.run import run_page
from pixeltrust.runs import Run


def report(folder: Path, *, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run folder or a demo.

    Args:
        folder: a run folder (`pixeltrust train`) or the folder of a demo (`pixeltrust demo`).
        out: the file to write; report.html in the folder where not given.

    Returns:
        The file written.

    Raises:
        RunError: the folder is neither, is not far enough, or the page cannot be written.
    """
    folder = Path(folder)
    if (folder / "demo.json").is_file():
        html = demo_page(folder)
    elif (folder / "config.toml").is_file():
        html = run_page(Run(folder))
    else:
        raise RunError(f"{folder}: neither a run folder (it has no config.toml) nor a demo (it has no demo.json); nothing to report on")
    out = Path(out) if out is not None else folder / "report.html"
    try:
        with replacing(out) as unfinished:
            unfinished.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out
