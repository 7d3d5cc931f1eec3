"""The modules that run a plugin, named as in the official package."""
