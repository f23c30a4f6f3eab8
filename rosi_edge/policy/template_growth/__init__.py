"""Whether a chat template can write texts that grow beyond measure."""
