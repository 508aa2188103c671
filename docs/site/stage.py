"""Puts together what the documentation site is built from: pages, READMEs and the API's pages.

Pages keep their places in the repository, so that a link which works there works on the site.
What a link leads to that is no page (a source file, a folder without a README) is checked here
and becomes plain text; one that leads to no file or heading ends the build, as does a page without
a place in the navigation, a table that would not be shown as one, and a public name or field
without a description.

The reference has the names that a package exports, and those that a page's Python imports.

    python docs/site/stage.py FOLDER        # then: zensical build --strict -f FOLDER/mkdocs.yml
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "heimdall-features": ROOT / "packages/heimdall-features",
    "heimdall-data": ROOT / "packages/heimdall-data",
    "heimdall-locate": ROOT / "packages/heimdall-locate",
    "heimdall-simulation": ROOT / "packages/heimdall-simulation",
    "heimdall-models": ROOT / "packages/heimdall-models",
    "heimdall-export": ROOT / "packages/heimdall-export",
    "heimdall-evaluation": ROOT / "packages/heimdall-evaluation",
    "heimdall-trainer": ROOT / "apps/trainer",
}
SOURCES = [str(path / "src") for path in PACKAGES.values()]
NAVIGATION = {
    "Start": {
        "What it is": "README.md",
        "Tutorial": "docs/tutorial.md",
    },
    "How to": {
        "Locate a transmitter": "docs/locate.md",
        "Calibrate the receivers": "docs/calibration.md",
        "Bring your own data": "docs/data.md",
        "Train": "docs/TRAINING.md",
        "Train as a service": "docs/worker.md",
        "Serve a model": "docs/inference.md",
        "Compare two versions in production": "docs/ab.md",
        "Deploy": "docs/deploy.md",
        "Compare and judge models": "docs/judging.md",
        "Change Heimdall": "docs/development.md",
    },
    "For you": {
        "KiwiSDR operators": "docs/for-kiwisdr-operators.md",
        "Service developers": "docs/for-service-developers.md",
        "Researchers": "docs/for-researchers.md",
    },
    "Explanation": {
        "How it works": "docs/architecture.md",
        "Features": "docs/features.md",
        "How accurate it is": "docs/accuracy.md",
        "How accurate on real data": "docs/accuracy-real.md",
        "Glossary": "docs/glossary.md",
    },
    "Packages": {
        name: str((path / "README.md").relative_to(ROOT)) for name, path in PACKAGES.items()
    },
    "Changes": {
        name: str((path / "CHANGELOG.md").relative_to(ROOT)) for name, path in PACKAGES.items()
    },
}
ASSETS = ("iframe-worker.js", "tables.css")
PICTURES = (".png", ".svg", ".jpg")
FENCE = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)
"""Every other piece of a page that it splits is a block of code."""
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
THEME = {
    "name": "material",
    "features": ["navigation.sections", "navigation.top", "content.code.copy", "toc.follow"],
    "font": False,
    "palette": [
        {"media": "(prefers-color-scheme: light)", "scheme": "default"},
        {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
    ],
}


class StageError(ValueError):
    """The documentation is not whole."""


def stage(folder: Path) -> list[str]:
    """Write everything below the folder; what was there goes.

    Returns:
        Addresses outside the repository that pages link to.

    Raises:
        StageError: A link leads nowhere, or a page has no place in the navigation.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = [page for part in NAVIGATION.values() for page in part.values()]
    forgotten = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")} - set(pages)
    if forgotten:
        raise StageError(f"no place in the navigation: {', '.join(sorted(forgotten))}")
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages}
    faults = [f"{page}: {fault}" for page, text in texts.items() for fault in table_faults(text)]
    if faults:
        raise StageError("\n".join(faults))
    outside: set[str] = set()
    for page, text in texts.items():
        _write(folder / "pages" / page, _linked(page, text, outside, set(pages)))
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in PICTURES:
            target = folder / "pages" / picture.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
    for asset in ASSETS:
        shutil.copyfile(ROOT / "docs/site" / asset, folder / "pages" / asset)
    navigation = [
        {title: [{name: page} for name, page in part.items()]} for title, part in NAVIGATION.items()
    ]
    imported = {name for text in texts.values() for name in _imported(text)}
    reference = [{name: _reference(folder / "pages", name, imported)} for name in PACKAGES]
    _write(folder / "mkdocs.yml", _configuration([*navigation, {"Reference": reference}]))
    return sorted(outside)


def table_faults(text: str) -> Iterator[str]:
    """Lines that look like a table's and would not be shown as one, and rows of other lengths."""
    for paragraph in re.split(r"\n\s*\n", "".join(FENCE.split(text)[::2])):
        rows = paragraph.strip("\n").split("\n")
        if not any(row.startswith("|") for row in rows):
            continue
        if len(rows) < 2 or not re.fullmatch(r"\|[\s:|-]+\|", rows[1]):
            yield f"no table without a head: {rows[0]}"
            continue
        lengths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        for row, n_bars in zip(rows, lengths, strict=True):
            if n_bars != lengths[0] or not row.startswith("|"):
                yield f"other cells than in the table's head: {row}"


def anchors(text: str) -> set[str]:
    """Headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", "".join(FENCE.split(text)[::2]), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def _linked(page: str, text: str, outside: set[str], pages: set[str]) -> str:
    """The page's text; links to what is no page become what they say."""

    def replaced(match: re.Match[str]) -> str:
        label, address = match.groups()
        if re.match(r"[a-z]+:", address):
            outside.add(address)
            return match[0]
        path, hash_, anchor = address.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if target.is_dir() and (target / "README.md").exists():
            target, path = target / "README.md", f"{path.rstrip('/')}/README.md"
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            raise StageError(f"{page}: {address} leads nowhere")
        is_page = str(target.relative_to(ROOT)) in pages or target.suffix in PICTURES
        return f"[{label}]({path}{hash_}{anchor})" if is_page else label

    # A block that is a file has its name beside its language; on the site, above it.
    text = re.sub(r"^```(\w+) (\S+)$", r'```\1 title="\2"', text, flags=re.MULTILINE)
    pieces = FENCE.split(text)
    return "".join(piece if k % 2 else LINK.sub(replaced, piece) for k, piece in enumerate(pieces))


def _imported(text: str) -> Iterator[str]:
    """Names of ours that the Python of a page imports."""
    for block in re.findall(r"^```python.*?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("heimdall_"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reference(folder: Path, package: str, imported: set[str]) -> str:
    """Write the page of a package's public names, and return its place."""
    module = griffe.load(package.replace("-", "_"), search_paths=SOURCES)
    if not isinstance(module, griffe.Module):
        raise StageError(f"{package} is no package")
    exported = [
        name
        for name, item in module.members.items()
        if isinstance(item, griffe.Alias) and item.target_path.startswith("heimdall_")
    ]
    prefix = f"{module.path}."
    others = [name.removeprefix(prefix) for name in imported if name.startswith(prefix)]
    found: dict[str, griffe.Object | griffe.Alias] = {}
    for name in (*sorted(exported, key=str.lower), *sorted(others)):
        found.setdefault(module[name].canonical_path, module[name])
    faults = [fault for item in found.values() for fault in undescribed(item)]
    if faults:
        raise StageError(f"no description: {', '.join(faults)}")
    page = f"reference/{package}.md"
    blocks = "\n\n".join(f"::: {item.path}" for item in found.values())
    about = module.docstring.value if module.docstring else ""
    _write(folder / page, f"# `{module.path}`\n\n{about}\n\n{blocks}\n")
    return page


def undescribed(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    """The name itself and its fields, as far as no docstring has them."""
    if not item.docstring:
        yield item.path
        return
    sections = item.docstring.parse("google")
    listed = {
        attribute.name
        for section in sections
        if section.kind is griffe.DocstringSectionKind.attributes
        for attribute in section.value
    }
    for field in item.all_members.values() if item.is_class else ():
        is_field = field.is_attribute and field.annotation and "property" not in field.labels
        named = field.name.startswith("_") or field.name in listed or field.docstring
        if is_field and not named:
            yield f"{item.path}.{field.name}"


def _configuration(navigation: list[dict[str, object]]) -> str:
    """MkDocs's configuration, as JSON, which is YAML too."""
    options = {
        "docstring_style": "google",
        "docstring_options": {"returns_multiple_items": False, "returns_named_value": False},
        "show_root_heading": True,
        "show_root_full_path": True,
        "show_labels": False,
        "inherited_members": True,
        "show_source": False,
        "members_order": "source",
        "separate_signature": True,
        "line_length": 80,
        "show_signature_annotations": True,
        "filters": ["!^_"],
        "heading_level": 2,
    }
    return json.dumps(
        {
            "site_name": "Heimdall",
            "docs_dir": "pages",
            "site_dir": "site",
            "theme": THEME,
            "nav": navigation,
            # Without this, Zensical takes such a script from elsewhere.
            "extra": {"polyfills": ["iframe-worker.js"]},
            "extra_css": ["tables.css"],
            "markdown_extensions": ["tables", "toc", "pymdownx.highlight", "pymdownx.superfences"],
            "plugins": [
                "search",
                "offline",
                {"mkdocstrings": {"handlers": {"python": {"paths": SOURCES, "options": options}}}},
            ],
        },
        indent=1,
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        addresses = stage(Path(sys.argv[1]))
    except StageError as error:
        sys.exit(f"docs: {error}")
    print("links that leave the repository, not followed:", *addresses, sep="\n  ")
