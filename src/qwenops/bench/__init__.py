"""Measuring: load, latency, capacity, comparison and long runs against anything that speaks through an engine."""
