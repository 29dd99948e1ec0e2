"""The scheduler decides and never computes."""
