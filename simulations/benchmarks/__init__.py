"""What things cost, measured as ratios against a named alternative in one run."""
