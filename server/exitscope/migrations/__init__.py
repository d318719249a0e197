"""Migrations: recognised as they happen, and what each came down to."""
