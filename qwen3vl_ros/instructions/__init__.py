"""From an instruction in words to steps that are grounded in a picture, and from steps to work that was seen to be done."""
