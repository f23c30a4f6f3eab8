"""How a model behaves: judges of answers, and the statistics behind every reported figure."""
