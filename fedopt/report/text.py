"""Numbers and tables as text a person can read, escaped for HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

MISSING = "–"


def escape(value: Any) -> str:
    """Text made safe inside HTML, also in attributes."""
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 4) -> str:
    """A number with about ``digits`` significant digits; large integers with thin spaces.

    >>> number(0.123456), number(1234567), number(None), number(1e-5)
    ('0.1235', '1\u202f234\u202f567', '–', '1e-05')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as per cent.

    >>> percent(0.91234)
    '91.2\u202f%'
    """
    return MISSING if share is None or math.isnan(share) else f"{100 * share:.1f}\u202f%"


def size(num_bytes: float | None) -> str:
    """Bytes with a decimal unit.

    >>> size(950), size(6_400_000)
    ('950 B', '6.4 MB')
    """
    if num_bytes is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(num_bytes) < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as a length of time.

    >>> duration(0.25), duration(75), duration(7322), duration(200000)
    ('0.25 s', '1 min 15 s', '2 h 2 min', '2 d 7 h')
    """
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours == 0:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def metric(value: float | None, name: str | None) -> str:
    """A metric: accuracies in per cent, all else as it is."""
    return percent(value) if name is not None and "accuracy" in name else number(value)


def cell(value: Any) -> str:
    """One table cell."""
    if value is None:
        return MISSING
    return number(value, 5) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> str:
    """An accessible table that scrolls by itself on narrow screens; the first column heads the rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for row in rows:
        first, *rest = (escape(cell(value)) for value in row)
        body.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{value}</td>" for value in rest) + "</tr>")
    return (
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def paragraphs(*texts: str) -> str:
    """Escaped paragraphs."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def bullet_list(items: Sequence[str], ordered: bool = False) -> str:
    """Escaped list."""
    tag = "ol" if ordered else "ul"
    return f"<{tag}>" + "".join(f"<li>{escape(item)}</li>" for item in items) + f"</{tag}>"
