"""Where models come from and where they are kept: archives on disk, models by name."""
