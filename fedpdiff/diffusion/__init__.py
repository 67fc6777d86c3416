"""Diffusion: noise schedule, networks, objectives, training, two-stage sampling."""
