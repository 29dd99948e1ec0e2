"""Phone calls and what people say about them: reading, checking, redacting, splitting and making them."""
