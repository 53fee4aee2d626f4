"""Sources of checkpoints: the hub, folders and single files, read without unpickling anything."""
