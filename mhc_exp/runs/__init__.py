"""A run on disk and its life: directory, identity, status, lock, checkpoints, launch, worker."""
