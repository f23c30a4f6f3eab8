"""What the steps are made of, one widget a file."""
