"""Images and text in, text out: the protocol, the runtimes behind it, and `load_engine`."""
