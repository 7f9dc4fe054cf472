"""One page about a run, a benchmark, an audit, a mending or a demo: a single HTML file with everything in it, that needs no network."""

from pathlib import Path

from pixeltrust.plumbing.errors import RunError


def report(folder: Path, *, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run, a benchmark, an audit, a mending or a demo.

    Example:
        pixeltrust.report("runs/mended")  # the path of the page

    Args:
        folder: of a run (`pixeltrust train`), a benchmark (`pixeltrust benchmark`; the page has its results so far), an audit
            (`pixeltrust audit`), a mending (`pixeltrust mend`), or a demo.
        out: the file to write; report.html in the folder where not given.

    Returns:
        The file written.

    Raises:
        RunError: the folder is none of these, has nothing to report yet, or the page cannot be written.
    """
    folder = Path(folder)
    if (folder / "demo.json").is_file():
        from pixeltrust.demonstration.page import demo_page

        html = demo_page(folder)
    elif (folder / "benchmark.json").is_file():
        from pixeltrust.benchmarking.outcome.reading import read_results
        from pixeltrust.benchmarking.page import benchmark_page

        html = benchmark_page(folder, read_results(folder))
    elif (folder / "estimate.json").is_file():
        from pixeltrust.mending.page import read_mending_page

        html = read_mending_page(folder)
    elif (folder / "audit.json").is_file():
        from pixeltrust.auditing.page import read_audit_page

        html = read_audit_page(folder)
    elif (folder / "config.toml").is_file():
        from pixeltrust.training.page import run_page
        from pixeltrust.training.run_folder import Run

        html = run_page(Run(folder))
    else:
        missing = "a run folder (it has no config.toml), benchmark (no benchmark.json), audit (no audit.json) or demo (no demo.json)"
        raise RunError(f"{folder}: not {missing}; nothing to report on")
    from pixeltrust.pages.pieces import write_page

    return write_page(html, Path(out) if out is not None else folder / "report.html")
