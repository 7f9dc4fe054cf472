"""The command line as a whole: its name and version, and how it ends: done, refused, or stopped."""

import shlex
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from pixeltrust import __version__
from pixeltrust.cli.options import UNDER_TORCHRUN
from pixeltrust.plumbing.errors import PixeltrustError

INTERRUPTED = 130  # the exit code of Ctrl-C

ORDER = "demo check review mend train predict evaluate report export audit benchmark simulate fetch convert".split()  # noqa: SIM905
"""The commands as the help lists them."""
CONTINUES = ("demo", "fetch", "benchmark", "review")
"""Commands that continue by the same command; others have --resume, or start anew."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        return sorted(self.commands, key=(*ORDER, *self.commands).index)


app = typer.Typer(
    name="pixeltrust",
    cls=_InOrder,
    help="Learn which mask pixels to trust: mend masks, and train segmentation networks on masks that cannot all be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
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
            print(_stop_words(sys.argv[1:]), file=sys.stderr)
        raise
    except Exception:
        _claims_error_report()  # the traceback follows
        raise


def _claims_error_report() -> bool:
    if not UNDER_TORCHRUN:
        return True
    from pixeltrust.plumbing.processes import claims_error_report

    return claims_error_report()


def _stop_words(words: list[str]) -> str:
    """Return where a command was stopped, and the command that goes on."""
    from pixeltrust.plumbing.progress import Bar

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {option for parameter in commands[words[0]].params for option in parameter.opts}
    where = f" at {', '.join(reversed(Bar.stopped))}" if Bar.stopped else ""
    launched = "torchrun … -m " if UNDER_TORCHRUN else ""
    if resumes := "--resume" in options and "--again" not in words:
        words = words if "--resume" in words else [*words, "--resume"]
    again = f"{launched}{shlex.join(['pixeltrust', *words])}"
    if resumes or words[0] in CONTINUES:
        return f"stopped{where}; what is finished is kept. To go on:\n  {again}"
    return f"stopped{where}; nothing is left half-written. To start anew:\n  {again}"


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pixeltrust {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)] = False,
) -> None:
    pass
