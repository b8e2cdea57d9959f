"""The settings tree, and how it is put together from flags, environment, file and defaults."""
