"""Our own measured figures: scripts, and their result files under `results/`."""
