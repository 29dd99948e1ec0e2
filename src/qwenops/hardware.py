"""Facts about this machine; every derived number travels with its reason."""
