"""The command line: a module for each command of ``anemone``."""
