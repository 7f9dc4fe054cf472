"""Write the pages that are made from the code: python docs/make/made_pages.py

docs/reference/command-line.md has the help of every command with its options, settings.md every setting of a training, python.md every
public name. Nothing in them is written by hand; a test compares them with the code.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

import pixeltrust
import wrap
from pixeltrust.cli import app
from pixeltrust.config import Config, describe_settings

REFERENCE = Path(__file__).parents[1] / "reference"
MADE = "<!-- made from the code by docs/make/made_pages.py -->\n\n"
COMMAND_LINE = """# The command line

Every command with its arguments and options, as `--help` shows them. [Commands in detail](commands.md) says what they
do and what they write; [Settings](settings.md) lists what `--set` can change.
"""
PYTHON = """# Python

Every public name, with shapes, units, errors and examples. All of them are imported from the top:
`from pixeltrust import Trust`, `pixeltrust.mend(...)`. A name is loaded when it is asked for.

Shapes: B images or volumes of a batch, C channels, K classes (1: foreground against background), and \\*S the spatial
axes, (H, W) of a picture, (D, H, W) of a volume.
"""
SETTINGS = """# Settings

What a training can be told. Give them in a TOML file (`--config settings.toml`), one by one (`--set epochs=20`), or in
Python (`Config(epochs=20)`). `RUN/config.toml` keeps those of a run, and is the file that repeats it. [Choose
settings](../how-to/settings.md) says which ones matter.
"""


def command_line() -> str:
    """Return the page of all commands."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return MADE + "\n".join([COMMAND_LINE, *(command_section(name, command) for name, command in commands.items())])


def command_section(name: str, command: Any) -> str:
    """Return what a command does, how it is called, and its arguments and options."""
    text, _, example = (command.help or "").partition("Example:")
    example = "\n".join(example.strip().split(", then "))
    taken = [one for one in command.params if is_argument(one)]
    usage = [placeholder(one) if one.required else f"[{placeholder(one)}]" for one in taken]
    shown = [one for one in command.params if one.name != "help"]
    rows = [f"| {spelling(one, choices(command, one.name))} | {default(one)} | {told(one)} |" for one in shown]
    call = " ".join(["pixeltrust", name, *usage, "[OPTIONS]"])
    heading = [
        f"## {name}\n",
        " ".join(text.split()) + "\n",
        f"```text\n{call}\n```\n",
        f"```sh\n{example.strip().replace(', then ', chr(10))}\n```\n",
    ]
    return "\n".join([*heading, "| | default | |", "|---|---|---|", *rows, ""])


def is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def placeholder(argument: Any) -> str:
    return (argument.metavar or argument.name).upper()


def choices(command: Any, name: str) -> tuple[str, ...]:
    """Return the values that an option may have, where they are listed in the signature of the command."""
    (kind, *_) = get_args(inspect.signature(command.callback).parameters[name].annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def spelling(parameter: Any, values: tuple[str, ...]) -> str:
    """Return how an option or an argument is written."""
    if is_argument(parameter):
        return f"`{placeholder(parameter)}`"
    return ", ".join(f"`{name}`" for name in parameter.opts) + (": " if values else "") + " or ".join(f"`{one}`" for one in values)


def default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default() if callable(parameter.default) else parameter.default
    return "" if value in (None, False, (), []) else f"`{value}`"


def told(parameter: Any) -> str:
    text = getattr(parameter, "help", "") or ""
    return re.sub(r"\|", r"\\|", " ".join(text.split()))


def public_names() -> str:
    """Return the page of all public names, which `make docs` fills with their docstrings."""
    homes = pixeltrust._HOME
    loop = [name for name in homes if homes[name].startswith("method.")]
    other = [name for name in homes if homes[name] in ("config", "plumbing.errors")]
    commands = [name for name in homes if name not in (*loop, *other)]
    parts = {"In your own loop": loop, "Every command is a function": commands, "Settings and errors": other}
    lines = [f"## {title}\n\n" + "\n".join(map(documented, names)) for title, names in parts.items()]
    return MADE + "\n".join([PYTHON, *lines])


def documented(name: str) -> str:
    """Return the directive that shows the docstring of a public name."""
    return f"::: pixeltrust.{pixeltrust._HOME[name]}.{name}\n    options:\n      heading: pixeltrust.{name}\n      heading_level: 3\n"


def settings() -> str:
    """Return the page of all settings."""
    return f"{MADE}{SETTINGS}\n{settings_table()}\n"


def settings_table() -> str:
    """Return every setting with its default and the docstring under its field."""
    texts = describe_settings()
    rows = [f"| `{f.name}` | {'unset' if f.default is None else f'`{f.default}`'} | {texts[f.name]} |" for f in dataclasses.fields(Config)]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows])


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "command-line.md": lambda: wrap.wrapped(command_line()),
    REFERENCE / "settings.md": lambda: wrap.wrapped(settings()),
    REFERENCE / "python.md": public_names,
}


if __name__ == "__main__":
    for page, made in PAGES.items():
        page.write_text(made(), encoding="utf-8")
