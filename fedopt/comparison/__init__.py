"""Comparing runs: describe, execute what is missing, judge with statistics, report. Above the simulator.

``description`` reads a comparison file, ``expansion`` turns it into runs, ``runs`` executes them (and reuses finished
ones), ``tuning`` chooses hyper-parameters first, ``results`` reads run directories into tidy tables, ``statistics``
judges them, ``ground`` puts epsilons on common ground, ``figures`` and ``page`` draw. No torch until a run is missing.
"""

from fedopt.comparison.api import Comparison, compare

__all__ = ["Comparison", "compare"]
