"""``anemone doctor``: what this machine and the installed models are, and what is wrong with them."""
