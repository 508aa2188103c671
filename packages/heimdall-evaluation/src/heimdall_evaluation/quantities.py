"""Quantities as text: three figures and a fitting unit, with no line break before it."""

from __future__ import annotations

import math

from heimdall_locate.description import distance_text

_SPACE = "\N{NO-BREAK SPACE}"
_DASH = "\N{EM DASH}"


def distance(metres: float) -> str:
    """Metres below a kilometre, kilometres above, three significant figures."""
    return distance_text(metres) if math.isfinite(metres) else _DASH


def round_distance(metres: float) -> str:
    """A round number of metres or kilometres, as on an axis: no zeros behind the point."""
    if abs(metres) < 1000:
        return f"{metres:g}{_SPACE}m"
    return f"{metres / 1000:,g}{_SPACE}km"


def percent(share: float) -> str:
    """A share of one as whole per cent."""
    return f"{100 * share:.0f}{_SPACE}%" if math.isfinite(share) else _DASH


def decimal(value: float, digits: int = 2) -> str:
    """A plain number with fixed decimals, or a dash where there is none."""
    text = f"{value:.{digits}f}" if math.isfinite(value) else _DASH
    return text.replace("-", "\N{MINUS SIGN}")


def factor(value: float) -> str:
    """A ratio: two decimals, or two significant figures of what is below a tenth."""
    if not 0 < value < 0.1:
        return decimal(value)
    return f"{value:.{1 - math.floor(math.log10(value))}f}"


def count(n: int, thing: str) -> str:
    """`1 session`, `90 sessions`."""
    return f"{n:,}{_SPACE}{thing if n == 1 else thing + 's'}"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes and seconds, then hours and minutes."""
    if not math.isfinite(seconds):
        return _DASH
    if seconds < 119.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def file_size(n_bytes: int) -> str:
    """Bytes in the decimal unit that leaves three figures."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g}{_SPACE}{unit}"


def metric_text(name: str, value: float, otherwise: str) -> str:
    """A metric in the unit that its name implies, or `otherwise` if it has none."""
    short = name.rpartition("/")[2]
    if short.startswith(("error_m", "energy_score")):
        return distance(value)
    return percent(value) if short.startswith(("coverage", "accuracy")) else otherwise
