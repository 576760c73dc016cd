"""What survives the process: when it is saved, where to, and which of it can be gone on with."""
