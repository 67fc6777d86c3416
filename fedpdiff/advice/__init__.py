"""Whether collaborating will pay, from theory and public statistics alone, before anyone shares anything."""
