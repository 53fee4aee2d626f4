"""Checks of every request before the app sees it: host, origin, rate, API key, body size."""
