"""What is written to disk: predictions and weights."""
