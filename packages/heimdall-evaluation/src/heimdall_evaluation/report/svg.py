"""Figures as inline SVG whose colours are the page's.

Matplotlib draws with stand-in colours, one for each role; in the SVG they become CSS variables,
so that one drawing serves light, dark and print. Text stays text: selectable, and in the reader's
font. The bytes depend on the drawing alone: no dates, no random ids.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes

__all__ = [
    "BASELINES",
    "EVERY",
    "FURNITURE",
    "GRID",
    "HALO",
    "INK",
    "MUTED",
    "NETWORK",
    "PAGE",
    "RECEIVER",
    "SECOND",
    "TRUTH",
    "WARNING",
    "beside",
    "drawing",
    "label_above",
    "plain_axes",
    "sheet",
    "svg",
]

INK = "#010201"
MUTED = "#010202"
GRID = "#010203"
PAGE = "#010204"
NETWORK = "#010205"
TRUTH = "#010206"
RECEIVER = "#010207"
WARNING = "#010208"
SECOND = "#010209"
BASELINES = ("#01020a", "#01020b", "#01020c", "#01020d", "#01020e", "#01020f", "#010210")

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAGE: "page",
    NETWORK: "network",
    TRUTH: "truth",
    RECEIVER: "receiver",
    WARNING: "warning",
    SECOND: "second",
    **{colour: f"baseline-{k}" for k, colour in enumerate(BASELINES)},
}

HALO = "halo"
"""A text with this gid is outlined in the page's colour, to be legible on lines."""
EVERY = "every"
"""What has this gid is seen only where the reader asks for every ellipse."""
FURNITURE = "furniture"
"""What has this gid makes sense only on the whole map."""


_CLASSES = {HALO: HALO, EVERY: EVERY, FURNITURE: f"{HALO} {FURNITURE}"}


def beside(x: float, y: float, *, of: str = HALO) -> str:
    """The gid of an outlined text that stays beside a point when the map is magnified.

    Args:
        x: Of the point, as a share of the figure's width from the left.
        y: Of its height, from the top.
        of: The class.
    """
    return f"{of}@{x:.4f},{y:.4f}"


def drawing() -> AbstractContextManager[None]:
    """Matplotlib's settings while drawing: names are never read as TeX, text stays text."""
    return mpl.rc_context(
        {
            "svg.fonttype": "none",
            "text.parse_math": False,
            "text.color": INK,
            "font.size": 9.5,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": MUTED,
            "axes.linewidth": 0.8,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "lines.solid_capstyle": "round",
        }
    )


def sheet(width_in: float, height_in: float) -> Figure:
    """An empty figure; an inch is 72 units of the SVG, which the page scales to fit."""
    return Figure(figsize=(width_in, height_in))


def plain_axes(axes: Axes) -> Axes:
    """Two thin axes and a faint grid, nothing boxed in."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.7)
    axes.minorticks_off()
    return axes


def label_above(axes: Axes, text: str) -> None:
    """Say what the vertical axis measures, above it, where it can be read without turning."""
    axes.set_title(text, loc="left", x=0, pad=7, fontsize=9.5, color=MUTED)


def svg(
    figure: Figure, name: str, description: str, *, notes: Mapping[str, str] | None = None
) -> str:
    """The figure as one `<svg>` element, every text in it escaped.

    Args:
        figure: Drawn inside `drawing()`.
        name: Unique on the page; keeps the ids of two figures apart.
        description: What is to be seen, for those who cannot see it.
        notes: Text shown over the element with that gid.
    """
    written = io.StringIO()
    undated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", transparent=True, metadata=undated)
    root = _without_namespaces(written.getvalue())
    _simplify(root, notes or {})
    root.attrib.update({"id": name, "class": "figure", "role": "img", "aria-label": description})
    text = ElementTree.tostring(root, encoding="unicode").replace("\n", " ")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _without_namespaces(text: str) -> ElementTree.Element:
    """Inside HTML the namespaces are implied, and their addresses would look like links."""
    start = text.index("<svg")
    end = text.index(">", start)
    box = text[text.index("viewBox", start) : end].split('"')[1]
    body = text[end:].replace("xlink:href", "href")
    return ElementTree.fromstring(f'<svg viewBox="{box}"{body}')  # noqa: S314 - our own drawing


def _simplify(root: ElementTree.Element, notes: Mapping[str, str]) -> None:
    """Drop what the page does not need; turn gids into notes and classes."""
    used = set(_references(root))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("style", "metadata") or child.attrib.get("id") == "patch_1":
                parent.remove(child)
    for element in root.iter():
        identity = element.attrib.get("id", "")
        if identity not in used:
            element.attrib.pop("id", None)
        if identity in notes:
            title = ElementTree.Element("title")
            title.text = notes[identity]
            element.insert(0, title)
            element.attrib["class"] = "noted"
        classes, _, anchor = identity.partition("@")
        if classes in _CLASSES:
            element.attrib["class"] = _CLASSES[classes]
        if anchor:
            element.attrib["data-at"] = anchor
        _free_the_font(element)


def _free_the_font(element: ElementTree.Element) -> None:
    style = element.attrib.get("style")
    if element.tag == "text" and style:
        kept = (part for part in style.split("; ") if not part.startswith("font-family"))
        element.attrib["style"] = "; ".join(kept)


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for value in element.attrib.values():
            if value.startswith("#"):
                yield value[1:]
            elif value.startswith("url(#"):
                yield value[5:-1]
