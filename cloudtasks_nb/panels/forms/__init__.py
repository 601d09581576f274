"""What an analyst fills in."""
