"""Judges: each reads requests with their answers and gives a verdict on each; one judge a file."""
