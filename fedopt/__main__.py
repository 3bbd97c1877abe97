"""``python -m fedopt``."""

from fedopt.cli import main

main()
