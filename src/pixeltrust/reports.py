"""One page about a run, a benchmark, an audit or a demo: a single HTML file with everything in it, that needs no network."""

from pathlib import Path

from pixeltrust.auditing.page import read_audit_page
from pixeltrust.benchmarking.outcome import is_benchmark, read_results
from pixeltrust.benchmarking.page import benchmark_page
from pixeltrust.demonstration.page import demo_page
from pixeltrust.pages.pieces import write_page
from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.page import run_page
from pixeltrust.training.run_folder import Run


def report(folder: Path, *, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run, a benchmark, an audit or a demo.

    Args:
        folder: of a run (`pixeltrust train`), a benchmark (`pixeltrust benchmark`; the page has its results so far), an audit
            (`pixeltrust audit`), or a demo.
        out: the file to write; report.html in the folder where not given.

    Returns:
        The file written.

    Raises:
        RunError: the folder is none of these, has nothing to report yet, or the page cannot be written.
    """
    folder = Path(folder)
    if (folder / "demo.json").is_file():
        html = demo_page(folder)
    elif is_benchmark(folder):
        html = benchmark_page(folder, read_results(folder))
    elif (folder / "audit.json").is_file():
        html = read_audit_page(folder)
    elif (folder / "config.toml").is_file():
        html = run_page(Run(folder))
    else:
        missing = "a run folder (it has no config.toml), benchmark (no benchmark.json), audit (no audit.json) or demo (no demo.json)"
        raise RunError(f"{folder}: not {missing}; nothing to report on")
    return write_page(html, Path(out) if out is not None else folder / "report.html")
