"""The HTTP service; the only place where FastAPI exists."""
