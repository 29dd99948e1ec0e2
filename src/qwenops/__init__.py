"""Qwen3-0.6B and Qwen3-1.7B made useful on machines without a GPU."""

__version__ = "0.1.0"
