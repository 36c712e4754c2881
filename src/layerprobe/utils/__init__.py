"""Functions that depend on the machine: threads, memory, files, several processes."""
