"""Migrations, recognised as they happen."""
