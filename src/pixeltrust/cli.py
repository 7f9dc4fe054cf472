"""The command line: every command parses, calls one function, prints. Heavy imports are inside the commands, so --help answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pixeltrust import __version__
from pixeltrust.errors import PixeltrustError

app = typer.Typer(
    name="pixeltrust",
    help="Train segmentation networks on masks that cannot all be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def main() -> None:
    """Run the command line; the user's mistakes end with one line (or one list) on standard error and exit code 2, Ctrl-C with 130."""
    try:
        app(standalone_mode=True)
    except PixeltrustError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False) -> None:
    if version:
        print(f"pixeltrust {__version__}")
        raise typer.Exit


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A data folder, or a .csv or .parquet table of cases.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value; may be repeated.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a network; a stopped run continues with --resume.

    Example: pixeltrust train lesions --out runs/pixel --set method=pixel --set epochs=50
    """
    from pixeltrust.config import read_config
    from pixeltrust.train import train

    print(train(data, out=out, config=read_config(config, setting or []), resume=resume, show_progress=not quiet))


if __name__ == "__main__":
    main()
