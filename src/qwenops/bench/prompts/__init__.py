"""Where prompts come from: our own synthetic calls, and the user's files."""
