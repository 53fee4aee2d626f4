"""Where checkpoints come from: the hub, folders and single files, read without unpickling anything."""
