"""The page's panels, a subject each. Each is made once, shown to every browser, and `update`d by the page's one thread."""
