"""Self-contained HTML reports made from run directories alone. No torch, no network.

``page`` is the shell (skeleton, style, script, placeholders), ``figures`` the plots as plain dictionaries,
``sections`` the parts of a run's report. A comparison reuses all three.
"""

from __future__ import annotations

from pathlib import Path

REPORT = "report.html"


def write_report(run_directory: Path | str) -> Path:
    """Write ``report.html`` of a run, finished or not.

    Args:
        run_directory: holds at least the running files or the Parquet files of a run.
    Returns:
        Path of the report.
    Raises:
        RunLogError: the directory holds no run, or the report cannot be written.
    """
    from fedopt.report.page import render_page
    from fedopt.report.run_data import load_run
    from fedopt.report.sections import run_page
    from fedopt.runlog import write_atomically

    path = Path(run_directory) / REPORT
    write_atomically(path, render_page(run_page(load_run(Path(run_directory)))))
    return path
