"""What models need and which of them fit a machine. Everything here but the readers of files is pure."""
