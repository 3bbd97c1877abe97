"""Commands of the command line by what they work on; all start without torch."""
