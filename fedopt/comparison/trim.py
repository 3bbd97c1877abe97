"""Copy what a reader needs of a comparison: ``python -m fedopt.comparison.trim COMPARISON DESTINATION``.

The plotting script, five megabytes, stays behind: the copy shows the SVG figures instead, so it needs no script at all.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from fedopt.report.page import POLICY

REPORT = "compare.html"
COPIED = ("compare.md", "figures/*.svg", "tables/*.csv")
LEFT_OUT = ("curves.csv",)

_PLOT = re.compile(
    r'(?:<fieldset class="views">.*?</fieldset>)?<div class="plot" id="plot-(?P<name>[^"]+)" role="img" '
    r'aria-label="(?P<alt>[^"]*)" style="[^"]*"></div><script type="application/json">.*?</script>',
    re.DOTALL,
)
_SCRIPTS = re.compile(r"<script>.*?</script>|<noscript>.*?</noscript>", re.DOTALL)
# Pictures beside the page, opened from disk or from a server.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src file: 'self'"


def trim(source: Path, destination: Path) -> list[Path]:
    """Write the report without its script, and copy the summary, the SVG figures and the small tables.

    Returns:
        What was written.
    Raises:
        FileNotFoundError: the source holds no comparison.
    """
    if not (source / REPORT).exists():
        raise FileNotFoundError(f"{source} holds no {REPORT}; make it with fedopt compare")
    written = []
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.name not in LEFT_OUT:
                target = destination / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                written.append(target)
    names = [path.stem for path in written if path.suffix == ".svg"]
    (destination / REPORT).write_text(without_script((source / REPORT).read_text("utf-8"), names), "utf-8")
    return [destination / REPORT, *written]


def without_script(page: str, pictures: list[str]) -> str:
    """The page with pictures where plots were: one for every choice of an axis.

    Args:
        page: a report.
        pictures: names in ``figures/`` without ending.
    """

    def shown(found: re.Match[str]) -> str:
        name, alt = found["name"], found["alt"]
        labels = re.findall(r"<span>([^<]+)</span>", found[0])  # of the choices, in their order
        wanted = [f"{name}-{label.replace(' ', '-')}" for label in labels] or [name]
        own = [picture for picture in wanted if picture in pictures]
        style = "display:block; max-width:100%; margin:0.6rem 0; background:#fff"
        return "".join(f'<img src="figures/{p}.svg" alt="{alt}" style="{style}" loading="lazy">' for p in own)

    return _PLOT.sub(shown, _SCRIPTS.sub("", page)).replace(POLICY, _POLICY)


if __name__ == "__main__":
    for file in trim(Path(sys.argv[1]), Path(sys.argv[2])):
        print(file)
