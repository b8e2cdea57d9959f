"""Models, cards, footprints and placement."""
