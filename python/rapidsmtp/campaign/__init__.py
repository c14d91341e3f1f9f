"""Campaigns: sending a list in a way that survives crashes, with a journal of all outcomes."""
