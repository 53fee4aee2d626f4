"""Checks every request before the app: host, origin, rate, API key, body size."""
