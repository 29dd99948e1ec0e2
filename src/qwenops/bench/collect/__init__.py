"""What happens around the requests while they run: the host, the engine's own figures, energy; and what it means."""
