"""fedpdiff: federated personalised diffusion models from one noisy upload per client (PFDM, arXiv 2504.00952)."""
