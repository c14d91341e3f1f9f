"""The bulk sender: it sends messages in batches and returns their outcomes."""
