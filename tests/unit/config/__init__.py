"""The settings tree and its sources."""
