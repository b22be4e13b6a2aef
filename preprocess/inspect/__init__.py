"""Looks into a finished store: verifies, describes and draws it."""
