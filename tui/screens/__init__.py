"""What lies over the steps: help, advanced settings, questions."""
