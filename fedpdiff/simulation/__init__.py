"""Launches ``flwr run`` simulations: presets, processes, progress."""
