"""Work modes: how much of its planned local work a device really does."""
