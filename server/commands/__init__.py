"""Subcommands of ``anemone``, each with its flags and what it does."""
