"""Faults put into real deployments on this machine: python -m simulations.faults."""
