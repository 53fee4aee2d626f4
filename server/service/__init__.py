"""Started by the system: at login on a Mac (launchd), with the user's session on Linux (systemd)."""
