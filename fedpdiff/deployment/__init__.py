"""Setting up a coordinator and its sites on machines of their own: keys, settings, start scripts, checks."""
