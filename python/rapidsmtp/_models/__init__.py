"""Data types that the layers above exchange: messages, outcomes, reports, settings, relay URLs."""
