"""Trivet's tests."""
