"""Attacks on what leaves a client and on what is trained from it: tensors in, scores out.

One attack a file; nothing here reads a run's files or private data by itself. Scores of membership are LOWER
for members. Every attack says what the attacker holds; all of them may know the public settings (schedule,
t0, clip, centre) and the labels, which a release discloses.
"""
