"""The HTTP door: every URL, and how an answer or an error becomes bytes."""
