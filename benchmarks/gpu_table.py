"""The section "On a GPU" of docs/results.md, out of the logs that benchmarks/gpu_all.sh leaves.

python benchmarks/gpu_table.py OUT [--write]     prints it; --write puts it into docs/results.md
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results.md"
TITLE = "## On a GPU"
GOALS = {"2B": 0.65, "4B": 0.80, "8B": 0.80}  # of the measured bandwidth, decoding
ANSWER_GOAL = 6.0  # times eager generate


def last_json(log: Path) -> dict[str, Any] | None:
    """The JSON object on the last line of a log that has one."""
    if not log.is_file():
        return None
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None


def section(out: Path) -> str:
    """Markdown, with its title."""
    engines = [found for log in sorted(out.glob("engine_*.log")) if (found := last_json(log))]
    if not engines:
        raise SystemExit(f"{out} has no log of engine_gpu that ends with its figures; read engine_torch.log there")
    device = engines[0]["device"]
    lines = [
        TITLE,
        "",
        f"    benchmarks/gpu_all.sh   # {device}, {engines[0]['dtype']}, torch {engines[0]['torch']}",
        "",
    ]
    if not engines[0]["gpu"]:
        lines += ["A rehearsal without a GPU: these figures say that everything runs, and nothing more.", ""]
    lines += [
        "| random weights, 640x480, 60 + 100 tokens | vision, ms | prefill, ms | tokens/s | of the bandwidth | answer, ms | x eager |",
        "|---|---|---|---|---|---|---|",
    ]
    told, ours = set(), []
    for found in engines:
        for size, of in found["sizes"].items():
            for name, row in of["runtimes"].items():
                if (size, name) not in told:
                    told.add((size, name))
                    lines.append(_row(size, name, row))
                    ours += [(size, name, row)] * ("vision_ms" in row)
    lines += ["", *_goals(ours), *_ahead(engines), *_stream(out), *_tests(out)]
    return "\n".join(lines) + "\n"


def _row(size: str, name: str, row: dict[str, Any]) -> str:
    def median(key: str, form: str) -> str:
        return format(row[key]["median"], form) if row.get(key) else ""

    share = f"{row['share_of_bandwidth']:.0%}" if row.get("decode_tok_s") else ""
    cells = [median("vision_ms", ".1f"), median("prefill_ms", ".1f"), median("decode_tok_s", ".0f"), share]
    return f"| {size}, {name} | {' | '.join(cells)} | {median('answer_ms', '.0f')} | {row['ratio_vs_eager']:.2f} |"


def _goals(ours: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Which goals are missed, of the sizes that have one."""
    missed, best = [], {}
    for size, name, row in sorted(ours, key=lambda o: o[2]["ratio_vs_eager"]):
        best[size, name.partition("_")[0]] = size, name, row  # of the ways of one runtime, that which would be used
    for size, name, row in best.values():
        if size in GOALS and row.get("decode_tok_s") and row["share_of_bandwidth"] < GOALS[size]:
            missed.append(f"{size} on {name} decodes at {row['share_of_bandwidth']:.0%}, {GOALS[size]:.0%} wanted")
        if size in GOALS and row["ratio_vs_eager"] < ANSWER_GOAL:
            missed.append(f"{size} on {name} answers {row['ratio_vs_eager']:.1f} times as fast, {ANSWER_GOAL:g} wanted")
    if not any(size in GOALS for size, _, _ in ours):
        return []
    return [f"Short of the goals: {'; '.join(missed)}." if missed else "All goals are met.", ""]


def _ahead(engines: list[dict[str, Any]]) -> list[str]:
    rows = []
    for size, of in ((size, of) for found in engines for size, of in found["sizes"].items()):
        ahead = of.get("seen_ahead", {})
        for tokens in sorted(int(key.removeprefix("ratio_")) for key in ahead if key.startswith("ratio_")):
            without, with_it = ahead[f"answer_ms_{tokens}"]
            same = "yes" if ahead["same_tokens"] else "no"
            rows.append(
                f"| {size}, {tokens} tokens | {without} → {with_it} | {ahead[f'ratio_{tokens}']:.3f} | {same} |"
            )
    if not rows:
        return []
    return [
        "| the next picture seen meanwhile | ms an answer, without → with | ratio | same tokens |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _stream(out: Path) -> list[str]:
    found = last_json(out / "stream.log")
    if not found:
        return []
    lines = [
        "| stream, embedded model on torch | passes, drafts off → on | ms, off → on | same tokens |",
        "|---|---|---|---|",
    ]
    for motion, r in found.items():
        if isinstance(r, dict) and "passes_off" in r:
            passes, times = (f"{r[f'{k}_off']} → {r[f'{k}_on']}" for k in ("passes", "wall_ms"))
            lines.append(f"| {motion} | {passes} | {times} | {r['same_answers']:.0%} |")
    return [*lines, ""]


def _tests(out: Path) -> list[str]:
    lines = []
    if (out / "tests.log").is_file():
        last = [
            line for line in (out / "tests.log").read_text().splitlines() if re.search(r"passed|failed|skipped", line)
        ]
        lines += [f"`tests/gpu`: {last[-1].strip('= ') if last else 'did not end'}."]
    if found := last_json(out / "selftest.log"):
        lines += [f"`qwen3vl selftest` on {found['engine']}: {found['passed']} passed, {found['failed']} failed."]
    return lines


def write(text: str, path: Path = RESULTS) -> None:
    """Put the section in the place of the old one, or before "Not measured"."""
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"^{re.escape(TITLE)}$.*?(?=^## |\Z)", re.M | re.S)
    if pattern.search(page):
        page = pattern.sub(lambda _: text + "\n", page)
    else:
        page = page.replace("## Not measured", f"{text}\n## Not measured", 1)
    path.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/results.md")
    options = parser.parse_args()
    text = section(options.out)
    (options.out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
