"""Puts together what the documentation site is built from: pages, READMEs and the API's pages.

Pages keep their places in the repository, so that a link which works there works on the site.
What a link leads to that is no page (a source file, a folder without a README) is checked here
and becomes plain text; one that leads nowhere ends the build, as does a page without a place in
the navigation.

    python docs/site/stage.py FOLDER        # then: zensical build --strict -f FOLDER/mkdocs.yml
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

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
        "Deploy": "docs/deploy.md",
        "Compare two versions in production": "docs/ab.md",
        "Compare and judge models": "docs/judging.md",
        "Change Heimdall": "docs/development.md",
    },
    "Explanation": {
        "How it works": "docs/architecture.md",
        "Features": "docs/features.md",
        "How accurate it is": "docs/accuracy.md",
        "How accurate on real data": "docs/accuracy-real.md",
    },
    "Packages": {
        name: str((path / "README.md").relative_to(ROOT)) for name, path in PACKAGES.items()
    },
    "Changes": {
        name: str((path / "CHANGELOG.md").relative_to(ROOT)) for name, path in PACKAGES.items()
    },
}
"""Pages that are not written yet have a place already, and none on the site."""
PICTURES = (".png", ".svg", ".jpg")
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
    written = [page for page in pages if (ROOT / page).is_file()]
    forgotten = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")} - set(pages)
    if forgotten:
        raise StageError(f"no place in the navigation: {', '.join(sorted(forgotten))}")
    outside: set[str] = set()
    for page in written:
        _write(folder / "pages" / page, _linked(page, set(written), outside))
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in PICTURES:
            target = folder / "pages" / picture.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
    navigation = [
        {title: [{name: page} for name, page in part.items() if page in written]}
        for title, part in NAVIGATION.items()
    ]
    reference = [{name: _reference(folder / "pages", name)} for name in PACKAGES]
    _write(folder / "mkdocs.yml", _configuration([*navigation, {"Reference": reference}]))
    return sorted(outside)


def _linked(page: str, pages: set[str], outside: set[str]) -> str:
    """The page's text; links to what is no page become what they say."""

    def replaced(match: re.Match[str]) -> str:
        text, address = match.groups()
        if re.match(r"[a-z]+:", address):
            outside.add(address)
            return match[0]
        path, hash_, anchor = address.partition("#")
        if not path:
            return match[0]
        target = ((ROOT / page).parent / path).resolve()
        if not target.exists():
            raise StageError(f"{page}: {address} leads nowhere")
        if target.is_dir() and (target / "README.md").exists():
            target, path = target / "README.md", f"{path.rstrip('/')}/README.md"
        is_page = str(target.relative_to(ROOT)) in pages or target.suffix in PICTURES
        return f"[{text}]({path}{hash_}{anchor})" if is_page else text

    text = (ROOT / page).read_text(encoding="utf-8")
    # A block that is a file has its name beside its language; on the site, above it.
    text = re.sub(r"^```(\w+) (\S+)$", r'```\1 title="\2"', text, flags=re.MULTILINE)
    # Text outside of code is every other piece.
    pieces = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(piece if k % 2 else LINK.sub(replaced, piece) for k, piece in enumerate(pieces))


def _reference(folder: Path, package: str) -> list[dict[str, str]]:
    """A page for each module of a package that has public names."""
    source = PACKAGES[package] / "src"
    rows = []
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        module = ".".join(parts)
        if any(part.startswith("_") for part in parts) or not file.read_text().strip():
            continue
        page = f"reference/{module}.md"
        _write(folder / page, f"# `{module}`\n\n::: {module}\n")
        rows.append({module.partition(".")[2] or module: page})
    return rows


def _configuration(navigation: list[dict[str, object]]) -> str:
    """MkDocs's configuration, as JSON, which is YAML too."""
    options = {
        "docstring_style": "google",
        "show_root_heading": False,
        "show_root_toc_entry": False,
        "show_source": False,
        "members_order": "source",
        "separate_signature": True,
        "show_signature_annotations": True,
        "show_if_no_docstring": True,
        "filters": ["!^_"],
        "heading_level": 2,
    }
    paths = [str(path / "src") for path in PACKAGES.values()]
    return json.dumps(
        {
            "site_name": "Heimdall",
            "docs_dir": "pages",
            "site_dir": "site",
            "theme": THEME,
            "nav": navigation,
            "markdown_extensions": ["tables", "toc", "pymdownx.highlight", "pymdownx.superfences"],
            "plugins": [
                "search",
                {"mkdocstrings": {"handlers": {"python": {"paths": paths, "options": options}}}},
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
