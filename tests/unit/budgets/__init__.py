"""Tests of the room `budgets`."""
