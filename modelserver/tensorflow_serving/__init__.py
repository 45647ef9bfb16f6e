"""What TensorFlow Serving's users bring along: the flags of its command line and its configuration files.

Rules of the room: names, kinds and meanings are TensorFlow Serving's, and are turned into what this server is
told. Nothing is served or built here; ``cli`` calls it.
"""
