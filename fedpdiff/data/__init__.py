"""Images and labels: sources, splits, the clients' partitions, and what one client sees."""
