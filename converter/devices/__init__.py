"""Try, time and compare packages on the compute units of this machine."""
