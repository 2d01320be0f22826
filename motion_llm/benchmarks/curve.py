"""`python bench.py curve --work_dir output`: an SVG of a finished run's held-out NLL against minutes of training."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from motion_llm.json_files import read_json

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 48, 52
COLOURS = {"seen": "#1f6fb4", "unseen": "#c4551a"}
TITLES = {"seen": "seen captions", "unseen": "unseen captions"}


def add_arguments(parser) -> None:
    parser.add_argument("--picture", metavar="FILE", help="where the picture goes. Default: curve.svg in WORK_DIR")


def run(args, settings: Mapping) -> dict:
    """Write the curves of WORK_DIR's metrics.json as a picture. Raises ModelError, ValueError."""
    folder = Path(settings["WORK_DIR"])
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder / 'metrics.json'} does not exist: expected the WORK_DIR of a finished run")
    stages = read_json(folder / "metrics.json")["stages"]
    curves = curves_of(stages)
    if not any(curve["points"] for curve in curves):
        raise ValueError(f"{folder / 'metrics.json'} has no held-out figures: HELDOUT_SHARE was 0")
    picture = Path(args.picture or folder / "curve.svg")
    picture.write_text(draw(curves), encoding="utf-8")
    return {"picture": str(picture), "curves": curves}


def curves_of(stages: Mapping[str, Mapping]) -> list[dict]:
    """For each stage {"stage", "start", "end" (minutes since training began), "points": [(minutes, {set: NLL})]}."""
    curves, start = [], 0.0
    for name, history in stages.items():
        points = [((start + entry["seconds"]) / 60, {kind: entry[kind] for kind in COLOURS if kind in entry})
                  for entry in history["nll"]]
        end = start + history["seconds"]
        curves.append({"stage": name, "start": start / 60, "end": end / 60, "points": points})
        start = end
    return curves


def draw(curves: Sequence[Mapping]) -> str:
    """The SVG. Stage 1 measures motion alone, the others text to motion, so their lines are not joined."""
    last = max(curve["end"] for curve in curves)
    values = [nll for curve in curves for _, point in curve["points"] for nll in point.values()]
    low, high = int(min(values) * 5) / 5, -int(-max(values) * 5 // 1) / 5

    def x(minutes: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * minutes / last

    def y(nll: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (nll - low) / max(high - low, 1e-9)

    parts = [_text(LEFT, 24, "Held-out NLL (nats a motion token) against minutes of training", "start", 15)]
    for i in range(round((high - low) * 5) + 1):
        nll = low + i / 5
        parts += [f'<line x1="{LEFT}" y1="{y(nll):.1f}" x2="{WIDTH - RIGHT}" y2="{y(nll):.1f}" stroke="#ddd"/>',
                  _text(LEFT - 8, y(nll) + 4, f"{nll:.1f}", "end")]
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 1200, 6000) if last / step <= 12)
    for i in range(int(last / step) + 1):
        parts.append(_text(x(i * step), HEIGHT - BOTTOM + 20, f"{i * step:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "minutes", "middle"))
    for place, curve in enumerate(curves):
        if place:
            parts.append(f'<line x1="{x(curve["start"]):.1f}" y1="{TOP}" x2="{x(curve["start"]):.1f}" '
                         f'y2="{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="4 4"/>')
        parts.append(_text(x(curve["start"]) + 6, TOP - 4, curve["stage"].split("_")[0].replace("stage", "stage "),
                           "start", 12))
        for kind, colour in COLOURS.items():
            points = [(x(minutes), y(point[kind])) for minutes, point in curve["points"] if kind in point]
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
    parts += _line_labels(curves[-1], y)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
            + "\n".join(parts) + "</svg>\n")


def _line_labels(curve: Mapping, y) -> list[str]:
    """Each line's name and last value at its right end, apart from each other."""
    if not curve["points"]:
        return []
    last_values = sorted(curve["points"][-1][1].items(), key=lambda item: -item[1])
    heights: list[float] = []
    for _, nll in last_values:
        heights.append(max(y(nll) + 4, heights[-1] + 18 if heights else 0))
    return [_text(WIDTH - RIGHT + 8, height, f"{TITLES[kind]} {nll:.2f}", "start", 12, COLOURS[kind])
            for (kind, nll), height in zip(last_values, heights, strict=True)]


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#222") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}'
            "</text>")


def format_figures(figures: Mapping) -> str:
    lines = [f"{'stage':<20}{'minutes':>9}{'seen':>8}{'unseen':>8}"]
    for curve in figures["curves"]:
        for minutes, point in curve["points"]:
            values = "".join(f"{point[kind]:>8.3f}" if kind in point else f"{'':>8}" for kind in COLOURS)
            lines.append(f"{curve['stage']:<20}{minutes:>9.2f}{values}")
    return "\n".join([*lines, f"the picture is in {figures['picture']}"])
