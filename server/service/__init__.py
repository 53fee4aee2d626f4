"""Makes the system start the server: at login on a Mac (launchd), with the user's session on Linux (systemd)."""
