"""Attacks on a finished run: collects its artefacts, mounts every attack on them, judges what they found."""
