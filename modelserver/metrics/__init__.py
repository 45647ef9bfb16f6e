"""What the server counts, in memory that all of its processes share, and the page that shows it."""
