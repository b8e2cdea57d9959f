"""The Python API: Trivet in this process or over HTTP, and the classes of the original guide."""
