"""Put it on machines, and change them without losing a request."""
