"""The runner computes and never decides."""
