"""Turns a recipe into a published version."""
