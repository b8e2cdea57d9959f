"""The store: its schema, its one writer thread, its lock."""
