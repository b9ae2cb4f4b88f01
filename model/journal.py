"""What a training run tells who watches it: RUN/log.jsonl, a line on the screen, and RUN/curves.png."""

from __future__ import annotations

import json
from pathlib import Path


def note(folder: Path, row: dict) -> None:
    """A row for RUN/log.jsonl and for who is watching."""
    with (folder / "log.jsonl").open("a") as log:
        print(json.dumps(row), file=log)
    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


def draw_curves(folder: Path) -> None:
    """RUN/curves.png from the log: losses and held-out scores over the images seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    log, images = folder / "log.jsonl", 0
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for row in rows:  # held-out rows stand at the images of the training row before them
        images = row["images"] = row.get("images", images)
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), constrained_layout=True)
    for axis, held_out, title in (
        (axes[0], False, "training: losses"),
        (axes[1], True, "held out: scores, and losses of the words"),
    ):
        chosen = [r for r in rows if (r["phase"] == "val") is held_out]
        skip = {"step", "phase", "rate", "images", "seconds", "images_per_s", "loss"}
        names = sorted({k for r in chosen for k in r} - skip)
        axis.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for name in names:
            axis.plot(*zip(*((r["images"], r[name]) for r in chosen if name in r)), label=name, linewidth=1.2)
        axis.set(title=title, xlabel="images seen")
        axis.grid(alpha=0.3)
        if names:
            axis.legend(fontsize=7, ncols=2)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.02)  # nearly all are shares; a loss is worth a look once it is below 1
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
