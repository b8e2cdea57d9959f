"""The `trivet` command: one file per command. Data goes to standard output, talk to standard error."""
