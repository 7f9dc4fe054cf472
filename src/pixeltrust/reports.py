"""One page about a run, a benchmark, an audit, a mending or a demo: a single HTML file with everything in it, that needs no network."""

from pathlib import Path

from pixeltrust.plumbing.errors import RunError


def report(folder: Path, *, out: Path | None = None, beside: Path | None = None, show_progress: bool = True) -> Path:
    """Write one self-contained HTML page about a run, a benchmark, an audit, a mending or a demo.

    Of a run whose data have test masks it predicts and measures these, unless that has been done; what it finds stays in RUN/test.

    Example:
        pixeltrust.report("runs/trust", beside="runs/plain")  # the path of the page

    Args:
        folder: of a run (`pixeltrust train`), a benchmark (`pixeltrust benchmark`; the page has its results so far), an audit
            (`pixeltrust audit`), a mending (`pixeltrust mend`), or a demo.
        out: the file to write; report.html in the folder where not given.
        beside: of a run: a second run, to be compared on the test cases; or the folder of a question (`benchmark --question`), whose
            estimate by folds is shown.
        show_progress: a progress bar on standard error, where test cases are predicted.

    Returns:
        The file written.

    Raises:
        RunError: the folder is none of these, has nothing to report yet, or the page cannot be written.
    """
    folder = Path(folder)
    if beside is not None and not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: is no run, so nothing can be shown beside it")
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
        from pixeltrust.prediction.report import report_run

        html = report_run(folder, None if beside is None else Path(beside), show_progress=show_progress)
    else:
        missing = "a run folder (it has no config.toml), benchmark (no benchmark.json), audit (no audit.json) or demo (no demo.json)"
        raise RunError(f"{folder}: not {missing}; nothing to report on")
    from pixeltrust.pages.pieces import write_page

    return write_page(html, Path(out) if out is not None else folder / "report.html")
