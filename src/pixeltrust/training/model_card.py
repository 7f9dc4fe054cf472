"""The model card beside the weights: RUN/README.md, what whoever gets the network should know, made from what is known of the run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust import __version__
from pixeltrust.config import Config
from pixeltrust.method_table import METHODS
from pixeltrust.pages.pieces import cases_by_role, list_settings
from pixeltrust.plumbing.files import naming_write_errors, write_file
from pixeltrust.plumbing.text import count
from pixeltrust.training.run_folder import Run

FILE = "README.md"
NOT_MEASURED = "It was not measured on test cases."
FILL_IN = "**To be filled in:**"


def model_card(run: Run, data: Path, *, own_step: bool = False) -> str:
    """Return the card of a run as Markdown, in the form that model hubs read. Places that only a person can fill are marked.

    Args:
        run: a run that has finished.
        data: what it was trained on; its name is told, and not where it lies.
        own_step: it was trained by a step of the user's own, which the settings do not name.
    """
    config, cases, history = run.config(), run.read_table("cases.csv"), run.read_table("history.csv")
    counts, last = cases_by_role(cases), history.iloc[-1]
    axes = "volumes" if len(config.size) == 3 else "images"
    labels = "foreground against background" if config.classes == 1 else f"labels 0 … {config.classes - 1}"
    how = "a training step of its own" if own_step else f"the method `{config.method}`: {_plain(METHODS[config.method].help)}"
    return f"""---
license: other
library_name: pixeltrust
pipeline_tag: image-segmentation
tags: [image-segmentation, noisy-labels, pixeltrust]
---

# {run.folder.resolve().name}

A network that segments {axes}: {labels}. It was trained by pixeltrust {__version__} on masks that could not all be trusted.

- **Licence:** {FILL_IN} what may be done with these weights. The images and masks that they were learned from may forbid some of it.
- **Intended use:** {FILL_IN} who is meant to use it, and for what. It was made for {axes} like those it was trained on (same device, same
  kind of patients, same way to annotate); on others it has not been measured. It is a research tool, not a medical device.
- **Contact:** {FILL_IN} whom to ask.

## Data

`{data.resolve().name or "data"}`: {count(counts["noisy"], "noisy mask")} and {count(counts["clean"] + counts["held out"], "clean mask")}\
{f", {counts['held out']:,} of these held out to choose by" if counts["held out"] else ""}. {_noise(data)}
{FILL_IN} where the images come from, who annotated them, and who is over- or underrepresented.

## Training

`{config.model}` by {how}. {int(last["update"]):,} updates at {" × ".join(map(str, config.size))} pixels. All settings are in \
`config.toml`, all cases in `cases.csv`, machine and versions in `environment.json`.

{_settings(config)}

## How good it is

{NOT_MEASURED}
{_validation(last, counts)}
## Use

```python
import pixeltrust

run = pixeltrust.load("{run.folder.resolve().name}")  # this folder
mask = run.predict("image.png")
```
"""


def say_measured(run: Run, measured: str) -> None:
    """Write into the card of a run how good it is on test cases, where it does not say so yet; what a person has changed stays.

    Raises:
        RunError: the card cannot be written.
    """
    card = run.folder / FILE
    with naming_write_errors(card):
        if card.is_file() and NOT_MEASURED in (text := card.read_text(encoding="utf-8")):
            write_file(card, text.replace(NOT_MEASURED, measured))


def _noise(data: Path) -> str:
    """Return what is known of the errors of the noisy masks."""
    try:
        made: dict[str, Any] = json.loads((data / "simulation.json").read_text(encoding="utf-8"))
        dice = f"; their mean Dice to the truth is {made['mean_dice']:.3f}" if made.get("mean_dice") is not None else ""
        return f"The noisy masks are simulated: `{made['noise']}` at strength {made['strength']:.3g}{dice}."
    except (OSError, ValueError, KeyError, TypeError):
        return "The noisy masks are as they were given; how wrong they are is not known here."


def _validation(last: pd.Series, counts: dict[str, int]) -> str:
    if np.isnan(last["val_dice"]):
        return ""
    return f"\nOn {count(counts['held out'], 'held-out clean case')}, at the size of training: a mean Dice of {last['val_dice']:.3f}.\n"


def _settings(config: Config) -> str:
    return "\n".join(["| setting | |", "|---|---|", *(f"| `{name}` | {value} |" for name, value in list_settings(config))])


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown)
