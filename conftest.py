"""What the tests leave out where an extra is not installed: doctests of modules, and helpers, that import it."""

from importlib.util import find_spec

collect_ignore_glob = []
if find_spec("flwr") is None:  # tests of Flower skip themselves and say so
    collect_ignore_glob += ["fedopt/flower/*.py", "tests/flower/[!t]*.py", "tests/flower/virtual_deployment.py"]
