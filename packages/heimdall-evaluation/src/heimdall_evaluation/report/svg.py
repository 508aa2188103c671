"""Figures as inline SVG in the page's colours.

Matplotlib draws with a stand-in colour for each role; in the SVG these become CSS variables, so
that one drawing serves light, dark and print. Text stays text: selectable, and in the reader's
font. The bytes depend on the drawing alone: no dates, no random ids.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from heimdall_features.names import shown
from matplotlib.figure import Figure
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_ROLES = ("ink", "muted", "grid", "page", "network", "truth", "receiver", "warning", "second")
_VARIABLES = {
    f"#0102{k:02x}": role
    for k, role in enumerate((*_ROLES, *(f"baseline-{k}" for k in range(7))), start=1)
}
"""Names of CSS variables by stand-in colour."""
FOREGROUND, MUTED, GRID, PAGE, NETWORK, TRUTH, RECEIVER, WARNING, SECOND, *BASELINES = _VARIABLES

OUTLINED = "halo"
"""Gid of text outlined in the page's colour, to be legible on lines."""
ON_REQUEST = "every"
"""Gid of what is visible only while the reader asks for every ellipse."""
WHOLE_MAP_ONLY = "halo furniture"
"""Gid of outlined text and lines that a magnified map hides, such as its scale."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name is never TeX
    "text.color": FOREGROUND,
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.solid_capstyle": "round",
}


def anchored(x: float, y: float) -> str:
    """Gid of an outlined text that stays beside a point while the map is magnified.

    x and y are shares of the figure's size, from the left and from the top.
    """
    return f"{OUTLINED}@{x:.4f},{y:.4f}"


def style() -> contextlib.AbstractContextManager[None]:
    """Context of Matplotlib's settings, to draw and render in."""
    return mpl.rc_context(_STYLE)


@contextlib.contextmanager
def chart(
    height_in: float, box: tuple[float, float, float, float]
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with two thin axes and a faint grid, to draw on and render in the context.

    It is 5.4 inches wide; an inch is 72 units of the SVG. The box of the axes is left, bottom,
    width and height, as shares of the figure's.
    """
    with style():
        figure = Figure(figsize=(5.4, height_in))
        axes = figure.add_axes(box)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=3, width=0.7)
        axes.minorticks_off()
        yield figure, axes


def label_above(axes: Axes, text: str) -> None:
    """Label the vertical axis above it, where the text is horizontal."""
    axes.set_title(text, loc="left", x=0, pad=7, fontsize=9.5, color=MUTED)


def text_beside(
    axes: Axes,
    text: str,
    point: ArrayLike,
    offset: tuple[float, float],
    **look: Any,  # noqa: ANN401 - as Matplotlib takes them
) -> None:
    """Write a text at an offset, in typographic points, from a point (2,) of the axes."""
    x, y = np.asarray(point)
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", **look)


def render(
    figure: Figure, name: str, description: str, *, notes: Mapping[str, str] | None = None
) -> str:
    """Return a figure as one `<svg>` element, with every text in it escaped; call it in `style`.

    Control characters are escaped too: XML cannot hold most of them.

    The name is unique on the page, so that the ids of two figures differ. The description is for
    those who cannot see the figure. Notes are texts to show over the element with that gid.
    """
    for label in figure.findobj(Text):
        label.set_text(shown(label.get_text()))
    written = io.StringIO()
    no_dates = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata=no_dates)
    # HTML implies the namespaces, and their addresses would look like links.
    head, _, body = written.getvalue().partition("<svg")[2].partition(">")
    box = head.partition('viewBox="')[2].partition('"')[0]
    body = body.replace("xlink:href", "href")
    root = ElementTree.fromstring(f'<svg viewBox="{box}">{body}')  # noqa: S314 - our own drawing
    _simplify(root, notes or {})
    root.attrib.update(
        {"id": name, "class": "figure", "role": "img", "aria-label": shown(description)}
    )
    text = ElementTree.tostring(root, encoding="unicode").replace("\n", " ")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _simplify(root: ElementTree.Element, notes: Mapping[str, str]) -> None:
    """Drop what the page does not need; turn gids into notes, classes and anchors."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    referenced = {value[1:] for value in values if value.startswith("#")}
    referenced |= {value[5:-1] for value in values if value.startswith("url(#")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("style", "metadata") or child.attrib.get("id") == "patch_1":
                parent.remove(child)
    for element in root.iter():
        attributes = element.attrib
        gid = attributes.get("id", "")
        if gid not in referenced:
            attributes.pop("id", None)
        if gid in notes:
            title = ElementTree.Element("title")
            title.text = shown(notes[gid])
            element.insert(0, title)
            attributes["class"] = "noted"
        role, _, anchor = gid.partition("@")
        if role in (OUTLINED, ON_REQUEST, WHOLE_MAP_ONLY):
            attributes["class"] = role
        if anchor:
            attributes["data-at"] = anchor
        if element.tag == "text" and "style" in attributes:
            parts = attributes["style"].split("; ")
            attributes["style"] = "; ".join(p for p in parts if not p.startswith("font-family"))
