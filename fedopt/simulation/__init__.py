"""The virtual clock, lazy computation and checkpoints."""
