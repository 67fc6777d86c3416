"""A finished run's global model, ready to be given to anyone: what may go out, and what is said of it."""
