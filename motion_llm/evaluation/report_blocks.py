"""The evaluation's tables of parts of the motions, their streams and the parts of the figure, for the page."""

from html import escape

from motion_llm.evaluation.metric_names import SHORT, TITLES, TOLD, Block
from motion_llm.evaluation.report_sections import figure_line, head, table_card

ABOUT_PARTS = {
    "dtw_jpe": "As the DTW joint error, of a part's joints alone, relative to the joint on which the part hangs, such "
               "as the wrist of a hand (DTW-JPE of Zuo et al. 2024).",
    "dtw_pa_jpe": "The same with each pose first turned, moved and scaled to fit best onto the real one that it is "
                  "compared with (Procrustes alignment; DTW-PA-JPE of Zuo et al. 2024).",
    "speed_ratio": "Mean speed of a part's joints over that of the real clips: below 1 they move too little, as "
                   "over-smoothed motion does.",
    "spread_ratio": "How far joints are from their mean place in a clip (standard deviation over time), over the same "
                    "of the real clips.",
}


def block(content: Block) -> str:
    """The tables of a block, for all captions, with what its own metrics mean; "" without any."""
    cards, told = [], set()
    for others, metrics_of in content.parts():
        lines = [head(f"{content.title}, all captions", others)]
        for part, names in metrics_of.items():
            lines.append(f'<tr><th scope="rowgroup"><b><bdi>{escape(part)}</bdi></b></th>'
                         f'{"<td></td>" * (len(others) + 3)}</tr>')
            lines += [figure_line(content.tables[part], others, "all", name) for name in names]
            told |= {*names}
        names = "; ".join(f"{SHORT[row]}: {TITLES[row]}" for row in others)
        cards.append(table_card(content.title.capitalize(), "".join(lines), "figures")
                     + f'<p class="note">{escape(names)}.</p>')
    entries = "".join(f"<div><dt>{escape(TOLD[name].title)}</dt><dd>{escape(ABOUT_PARTS[name])}</dd></div>"
                      for name in ABOUT_PARTS if name in told)
    return "".join(cards) + (f'<dl class="about">{entries}</dl>' if entries else "")
