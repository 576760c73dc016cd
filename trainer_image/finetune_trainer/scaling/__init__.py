"""The machine, and the processes on it that train together."""
