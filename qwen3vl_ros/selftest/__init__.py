"""`qwen3vl selftest`: questions about pictures whose truth is known, put to whatever engine and model there is.

pictures.py draws and reads the pictures, checks.py says what is asked of them and judges one answer, run.py asks and
weighs the outcomes against each other, page.py writes them down.
"""
