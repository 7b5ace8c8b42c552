"""Programs that answer a question."""
