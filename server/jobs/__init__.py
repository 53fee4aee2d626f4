"""Jobs: what was asked for, where it stands, and the process that does it."""
