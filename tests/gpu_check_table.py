"""The table at the end of gpu_check.sh: each step and how it ended, then the figures beside their aims."""

import json
import re
import sys
from pathlib import Path

AIMS = {"ours, share of peak": 0.40, "decoding, batch 32, times model.generate": 5.0,
        "decoding of the large one, batch 1, share of bandwidth": 0.60}


def figures_of(folder: Path) -> dict[str, float | str]:
    """Name -> figure, of the steps that left some."""
    found: dict[str, float | str] = {}
    if (folder / "train.json").is_file():
        content = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        machine, figures = content["machine"], content["figures"]
        found["machine"] = f"{machine.get('gpu', machine['processor'])}, torch {machine['torch']}"
        peak = figures["peak"]
        found[f"peak of products in {peak['dtype']}, GFLOP/s"] = peak["gflops"]
        for name, title in (("ours", "ours"), ("usual", "usual recipe")):
            if name in figures:
                found[f"{title}, clips/s"] = figures[name]["clips_per_second"]
                found[f"{title}, share of peak"] = figures[name]["share_of_peak"]
    for name, title in (("decode", "decoding"), ("decode_large", "decoding of the large one")):
        if not (folder / f"{name}.json").is_file():
            continue
        content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for count, batch in content["figures"]["batches"].items():
            found[f"{title}, batch {count}, tokens/s"] = batch["ours"]["tokens_per_second"]
            found[f"{title}, batch {count}, times model.generate"] = batch["ratio"]
            found[f"{title}, batch {count}, share of bandwidth"] = batch["ours"]["share_of_bandwidth"]
    log = folder / "sample.log"
    if log.is_file() and (minutes := re.search(r"is finished after ([\d.]+) minutes", log.read_text(encoding="utf-8"))):
        found["sample, minutes"] = float(minutes[1])
    return found


def table(folder: Path) -> str:
    lines = []
    for row in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines():
        name, status, seconds = row.split("\t")
        last = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or [""]
        ended = "passed" if status == "0" else f"FAILED ({status})"
        lines.append(f"{name:<14}{ended:<22}{seconds:>6} s  {last[0][:80]}")
    lines.append("")
    for name, value in figures_of(folder).items():
        shown = value if isinstance(value, str) else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        lines.append(f"{name:<56}{shown:>12}{f'  aim: {AIMS[name]:g}' if name in AIMS else ''}")
    return "\n".join([*lines, "", f"logs and figures: {folder}"])


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
