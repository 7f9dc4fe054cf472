"""What the site has beside the pages of docs/: the changelog, the files that pages link to, and formulas. mkdocs.yml loads it.

On the disk, and where a repository is browsed, every link leads to the file itself. A file outside of docs/ is brought into the site.
No page may load anything from elsewhere.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SHIM = "https://unpkg.com/iframe-worker/shim"  # what makes search work in a page that is opened as a file
OUTSIDE = re.compile(r"<(?!a\b|link rel=\"canonical\")[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>")
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> None:
    """Set ```math fences as MathML, which browsers show by themselves."""
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [{"name": "math", "class": "math", "format": formula}]}


def formula(source: str, *_: object, **__: object) -> str:
    return f'<div class="math">{convert(source, display="block")}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the changelog, and every file outside of docs/ that a page links to."""
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    docs = Path(config.docs_dir)
    for file in [*files.documentation_pages()]:
        for target in linked(Path(file.abs_src_path)):
            if target.is_file() and not target.is_relative_to(docs) and str(target) not in sources(files):
                place, aside = f"files/{target.relative_to(ROOT)}", InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, place, abs_src_path=str(target), inclusion=aside))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Lead every link to where its file is in the site."""
    places, here = sources(files), Path(page.file.abs_src_path).parent

    def moved(link: re.Match[str]) -> str:
        place = places.get(os.path.normpath(here / link[0]))
        return os.path.relpath(place, Path(page.file.src_uri).parent) if place else link[0]

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Take the page's scripts from the site itself, and refuse whatever else is loaded from elsewhere."""
    return own(output, os.path.relpath("assets/iframe-worker.js", Path(page.file.dest_uri).parent), page.file.src_uri)


def on_post_template(output_content: str, template_name: str, **_: object) -> str:
    """Do the same with the page that says that there is none."""
    return own(output_content, "/assets/iframe-worker.js", template_name)


def own(html: str, shim: str, name: str) -> str:
    html = html.replace(SHIM, shim)
    if outside := OUTSIDE.search(html):
        raise PluginError(f"{name} loads something from elsewhere: {outside[0]}")
    return html


def linked(page: Path) -> Iterator[Path]:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        yield Path(os.path.normpath(page.parent / target))


def sources(files: Files) -> dict[str, str]:
    return {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}
