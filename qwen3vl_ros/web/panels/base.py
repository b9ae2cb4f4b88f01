"""What the page knows of a panel."""

from __future__ import annotations

import viser


class Panel:
    """Made once and shown to every browser. What it shows of the node it takes in `update`, on the page's thread, every period_s;
    what a browser does comes on viser's threads.
    """

    period_s = 0.5

    def join(self, client: viser.ClientHandle) -> None:
        """A browser has come: gets what is its own."""

    def update(self) -> None:
        """Show what is new. Raises PerceptionError for a message that cannot be shown."""
