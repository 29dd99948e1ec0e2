"""What we watch: logs, metrics, samples of the system."""
