"""The vocabulary that every room speaks: values, errors and the clock. Standard library only."""
