"""Copy what a reader needs of a comparison: ``python -m fedopt.comparison.trim COMPARISON DESTINATION``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

KEPT = ("compare.html", "compare.md", "figures/*.svg", "tables/*.csv")
LEFT_OUT = ("curves.csv",)


def trim(source: Path, destination: Path) -> list[Path]:
    """Copy the report, the SVG figures and the small tables.

    Returns:
        What was written.
    Raises:
        FileNotFoundError: the source holds no comparison.
    """
    if not (source / KEPT[0]).exists():
        raise FileNotFoundError(f"{source} holds no {KEPT[0]}; make it with fedopt compare")
    written = []
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.name not in LEFT_OUT:
                target = destination / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                written.append(target)
    return written


if __name__ == "__main__":
    for file in trim(Path(sys.argv[1]), Path(sys.argv[2])):
        print(file)
