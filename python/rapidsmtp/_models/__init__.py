"""Data types that the other layers exchange: messages, outcomes, reports, settings, relay URLs."""
