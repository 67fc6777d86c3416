"""The Flower ServerApp: settings in, strategy run, results out."""
