"""What replicas share: keys now; feedback, review queue and audit later."""
