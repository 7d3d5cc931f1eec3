"""What runs a plugin."""
