"""Defaults < file < environment < flags: one Settings, read by the command line only."""
