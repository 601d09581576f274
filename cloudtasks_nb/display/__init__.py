"""How objects show themselves: cards, progress bars, notes."""
