"""The command line as a whole: its name and version, and how it ends: done, refused, or stopped."""

import sys
from typing import Annotated

import typer

from pixeltrust import __version__
from pixeltrust.cli.options import UNDER_TORCHRUN
from pixeltrust.plumbing.errors import PixeltrustError

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
    if not UNDER_TORCHRUN:
        return True
    from pixeltrust.plumbing.processes import claims_error_report

    return claims_error_report()


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pixeltrust {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)] = False,
) -> None:
    pass
