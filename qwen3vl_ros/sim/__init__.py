"""Sources of pictures that need no hardware: the embedded RGB-D camera and recordings."""
