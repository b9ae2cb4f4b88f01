"""The demo: drives the real node with the embedded camera and measures it against the renderer's truth."""
