"""The seven steps, one a file."""
