"""The page of a position: a map to zoom, the position to copy, and a table of receivers.

The page's own script is the only one that its security policy lets run, and every text that comes
from outside is escaped, control characters included.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from string import Template
from typing import Any

from heimdall_features.names import shown

from heimdall_locate.description import (
    coordinates,
    coordinates_text,
    ellipse_text,
    placed_receivers,
    probability_text,
    receiver_figures,
    receiver_text,
    shown_candidates,
    shown_ellipses,
    title,
)
from heimdall_locate.map.heat import heat_pictures
from heimdall_locate.outlines import ellipse_outline
from heimdall_locate.position import DOMINANT, Position, ReceiverResult
from heimdall_locate.sites import Site


def map_html(position: Position, sites: Sequence[Site]) -> str:
    """The page, which works offline and fetches nothing.

    Args:
        position: What was found.
        sites: Receivers' places; names as in `position.receivers`. A receiver without a site is
            in the table, not on the map.
    """
    folder = importlib.resources.files("heimdall_locate.map")
    template, style, script, world = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("map.html", "map.css", "map.js", "world.json")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    first = position.candidates[0]
    return Template(template).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=style,
        script=script,
        world=_data(json.loads(world)),
        data=_data(_contents(position, sites)),
        title=escape(title(position)),
        position=escape(coordinates_text(first)),
        copies="".join(_copies(position)),
        findings="".join(_findings(position)),
        alternative=escape(_alternative(position, sites)),
        one_candidate=" hidden" if len(shown_candidates(position)) == 1 else "",
        candidates="".join(_candidate_rows(position)),
        no_receivers="" if position.receivers else " hidden",
        receivers="".join(_receiver_rows(position)),
    )


def _data(value: object) -> str:
    """JSON that cannot end the element of a page that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _contents(position: Position, sites: Sequence[Site]) -> dict[str, Any]:
    """Everything that the script draws."""
    candidates = []
    for rank, one in enumerate(shown_candidates(position), start=1):
        outlines = [
            ellipse_outline(one.latitude_deg, one.longitude_deg, ellipse).round(7).tolist()
            for _, ellipse in shown_ellipses(position, rank)
        ]
        candidates.append(
            {
                "at": [one.latitude_deg, one.longitude_deg],
                "probability": one.probability,
                "outlines": outlines,
                "label": f"{rank}: {probability_text(one.probability)}",
                "coordinates": coordinates_text(one),
            }
        )
    receivers = [
        {
            "at": [site.latitude_deg, site.longitude_deg],
            "name": shown(site.name),
            "used": result.used,
            "about": receiver_text(result),
            "residual_us": result.residual_us if _known(result) else None,
        }
        for site, result in placed_receivers(position, sites)
    ]
    return {"candidates": candidates, "receivers": receivers, "heat": heat_pictures(position)}


def _known(result: ReceiverResult) -> bool:
    """True if hyperbolas may be drawn from its time."""
    return result.used and result.residual_us is not None and math.isfinite(result.residual_us)


def _copies(position: Position) -> Iterator[str]:
    """The position in the ways in which other programs take it, each with a button."""
    latitude, longitude = coordinates(position.candidates[0])
    for kind, text in (
        ("decimal", f"{latitude}, {longitude}"),
        ("DMS", _sexagesimal(position)),
        ("locator", locator(position.latitude_deg, position.longitude_deg)),
    ):
        yield (
            f'<li><span class="quiet">{kind}</span> <code>{text}</code> '
            f'<button type="button" data-copy="{text}" aria-label="Copy {kind}">Copy</button>'
            "</li>\n"
        )


def _sexagesimal(position: Position) -> str:
    """`50 00 54.7 N 009 00 40.3 E`."""
    parts = []
    for degrees, signs, width in (
        (position.latitude_deg, "NS", 2),
        (position.longitude_deg, "EW", 3),
    ):
        tenths = round(abs(degrees) * 36_000)
        minutes, rest = divmod(tenths, 600)
        whole, minutes = divmod(minutes, 60)
        parts.append(f"{whole:0{width}} {minutes:02} {rest / 10:04.1f} {signs[degrees < 0]}")
    return " ".join(parts)


def locator(latitude_deg: float, longitude_deg: float) -> str:
    """The Maidenhead locator of six characters, such as `JN49mx`.

    Source: IARU Region 1, "VHF Managers Handbook" (2012), section 7 (agreed at Maidenhead, 1980).
    """
    found = ""
    rest = [min((longitude_deg + 180) / 20, 17.999_999), min((latitude_deg + 90) / 10, 17.999_999)]
    for first, base, following in (("A", 18, 10), ("0", 10, 24), ("a", 24, 1)):
        found += "".join(chr(ord(first) + min(int(share), base - 1)) for share in rest)
        rest = [(share - int(share)) * following for share in rest]
    return found


def _findings(position: Position) -> Iterator[str]:
    """What is known beside the position, in sentences."""
    whole = position.candidates[0].probability >= DOMINANT
    of = "" if whole else " of the most probable candidate"
    for held, ellipse in shown_ellipses(position, 1):
        yield (
            f"<li><b>{100 * held:.0f}&nbsp;% ellipse{of}</b> {escape(ellipse_text(ellipse))} "
            '<span class="quiet">(semi-axes)</span></li>\n'
        )
    for name, text in (("Propagation", position.propagation), ("Search", position.termination)):
        if text:
            yield f"<li><b>{name}</b> {escape(shown(text))}</li>\n"


def _alternative(position: Position, sites: Sequence[Site]) -> str:
    """The map in words."""
    placed = placed_receivers(position, sites)
    used = sum(result.used for _, result in placed)
    candidates = "; ".join(
        f"candidate {rank} with {probability_text(one.probability)} at {coordinates_text(one)}"
        for rank, one in enumerate(shown_candidates(position), start=1)
    )
    return (
        f"Map with {len(placed)} receivers, {used} of them used, and the probable places of the "
        f"transmitter: {candidates}. 95 % ellipse: {ellipse_text(position.ellipse_95)}."
    )


def _candidate_rows(position: Position) -> Iterator[str]:
    for rank, one in enumerate(shown_candidates(position), start=1):
        ellipse = dict(shown_ellipses(position, rank))[0.95]
        yield (
            f'<tr><th scope="row">{rank}</th><td data-of="Probability">'
            f"{probability_text(one.probability)}</td>"
            f'<td data-of="Position">{escape(coordinates_text(one))}</td>'
            f'<td data-of="95 % ellipse">{escape(ellipse_text(ellipse))}</td>'
            f'<td><button type="button" data-show="{rank - 1}" '
            f'aria-label="Show candidate {rank} on the map">Show</button></td></tr>\n'
        )


def _receiver_rows(position: Position) -> Iterator[str]:
    for result in position.receivers:
        figures = receiver_figures(result)
        state = "used" if result.used else "not used"
        name = escape(shown(result.name))
        yield (
            f'<tr class="{state.replace(" ", "-")}"><th scope="row">{name}</th>'
            f'<td data-of="Used"><b>{state}</b></td>'
            + "".join(
                f'<td class="figure" data-of="{name}">{figures[key] or "&ndash;"}</td>'
                for key, name in (("residual", "Residual"), ("sigmas", "In sigmas"), ("snr", "SNR"))
            )
            + f'<td data-of="Remark">{escape(shown(result.reason))}</td></tr>\n'
        )
