"""`python -m trivet` is the `trivet` command."""

from trivet.cli.main import run

if __name__ == "__main__":
    run()
