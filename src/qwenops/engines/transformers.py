"""transformers engine."""
