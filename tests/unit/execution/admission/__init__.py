"""Tests of the gates before the engines."""
