"""fake engine."""
