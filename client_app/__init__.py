"""The Flower ClientApp: one handler per phase, each a call into the library."""
