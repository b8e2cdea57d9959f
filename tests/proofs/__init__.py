"""Proofs of the ledger that are run for their figures: storms, kills. See docs/guides/budgets.md."""
