"""The HTTP API: what every dialect shares, and a package for each dialect."""
