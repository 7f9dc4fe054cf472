"""What several commands share: types of options, the options of a data folder, and the printing of an outcome."""

import inspect
import os
import re
import webbrowser
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from pixeltrust.config import HEADINGS, describe_settings, require_run, show_default
from pixeltrust.method_table import METHODS
from pixeltrust.plumbing.errors import DataError

if TYPE_CHECKING:
    from pixeltrust.data.layouts import Layout

GUIDE = "docs/how-to/settings.md"
UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ  # as `launched_by_torchrun`, which would load torch


class WithSettings(TyperCommand):
    """A command whose help ends with a list of all settings."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        formatter.write_paragraph()
        formatter.write_text("Settings, for --set and --config, with their defaults; RUN/config.toml holds those of a run.")
        texts = describe_settings()
        firsts = [*HEADINGS, ""]
        for first, following in pairwise(firsts):
            names = list(texts)[list(texts).index(first) : list(texts).index(following) if following else None]
            with formatter.section(HEADINGS[first]):
                formatter.write_dl([(f"{name} = {show_default(name)}", re.split(r"[.;] ", texts[name])[0].rstrip(".")) for name in names])
        formatter.write_paragraph()
        formatter.write_text(f"Methods: {', '.join(METHODS)}.")
        formatter.write_text(f"How to choose them, and all methods: {GUIDE}")


def setting_names(incomplete: str) -> list[str]:
    """Return the settings that begin with a text, for the completion of a shell."""
    return [f"{name}=" for name in describe_settings() if name.startswith(incomplete)]


def existing(path: Path) -> Path:
    """Return a path that exists.

    Raises:
        DataError: it does not.
    """
    if path is not None and not path.exists():  # an option that may be left out
        raise DataError(f"{path}: there is no such file or folder")
    return path


Data = Annotated[Path, typer.Argument(help="A data folder, or a .csv or .parquet table of cases.", callback=existing)]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", callback=require_run)]
Weights = Annotated[Literal["last", "best"], typer.Option("--weights", help="The last ones, or the best by the held-out clean cases.")]
Classes = Annotated[int, typer.Option("--classes", min=1, max=254, help="1: foreground and background; 2 or more: labels 0 … classes − 1.")]
IgnoreLabel = Annotated[int | None, typer.Option("--ignore-label", min=0, max=255, help="The value of ignored pixels, if not 255.")]
MaskSuffix = Annotated[
    list[str] | None,
    typer.Option("--mask-suffix", metavar="ENDING", help="An ending to remove from the masks' names, like _segmentation; may be repeated."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated, and overrides the file.", autocompletion=setting_names),
]


def show(outcome: object, page: Path | None = None) -> None:
    """Print, in one process only where several work together, and show a page in the browser, where one is given."""
    if UNDER_TORCHRUN and os.environ["RANK"] != "0":
        return
    print(outcome)
    if page is not None:
        webbrowser.open(page.resolve().as_uri())


def _layout(
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images, if not DATA/images.")] = None,
    noisy: Annotated[Path | None, typer.Option("--noisy", help="The folder of the noisy masks, if not DATA/noisy.")] = None,
    clean: Annotated[
        Path | None, typer.Option("--clean", help="The folder of the clean masks, if not DATA/clean; of nnU-Net's data: a file of ids.")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="The folder of the test masks, if not DATA/test.")] = None,
    mask_suffix: MaskSuffix = None,
    image_suffix: Annotated[
        list[str] | None,
        typer.Option("--image-suffix", metavar="ENDING", help="To remove from the images' names, like _0000; may be repeated."),
    ] = None,
) -> "Layout":
    """Return where a data folder has its files, for the functions that read one."""
    folders = {"images": images, "noisy": noisy, "clean": clean, "test": test}
    return {**folders, "mask_suffix": mask_suffix or (), "image_suffix": image_suffix or ()}  # type: ignore[typeddict-item]


def with_layout(command: Callable[..., None]) -> Callable[..., None]:
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
