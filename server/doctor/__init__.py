"""``anemone doctor``: examines this machine and the installed models, and reports problems."""
