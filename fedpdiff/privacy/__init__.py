"""Local differential privacy of the one noisy upload: accounting, noise, coding, the release on disk."""
