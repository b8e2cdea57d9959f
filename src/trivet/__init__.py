"""Trivet."""
