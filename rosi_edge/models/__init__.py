"""Model files: reading and rewriting GGUF, which tensors write to the stream, where models come from."""
