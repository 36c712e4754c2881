"""What depends on the machine: threads, memory, files, several processes."""
