"""Engines: one protocol, two transports, and what each kind of engine needs to be driven."""
