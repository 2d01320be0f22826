"""The folded parts of the evaluation's page: figures, definitions, where it fails, curves, settings and versions.

Every text that comes from data is escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape

from metrics import count_ngrams
from motion_llm.evaluation.charts import Mark, Series, chart, code_strip, dot_plot, legend
from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.findings import interval_text, over_what, value_text
from motion_llm.evaluation.following import is_weak
from motion_llm.evaluation.metric_names import (
    FROM_EMBEDDINGS,
    METRICS,
    MODEL,
    REAL,
    SHORT,
    SPLITS,
    TITLES,
    TOLD,
    Table,
    group_metrics,
    group_rows,
)
from motion_llm.evaluation.rows import clips_and_captions
from motion_llm.evaluation.stream_clips import all_columns, shown
from motion_llm.streams import ONE, Value

SHOWN_CLIPS, SHOWN_CAPTIONS, SMOOTH = 5, 40, 9
ARROWS = {"up": "↑", "down": "↓", "real": "≈"}
KEY_FIGURES = ("r_precision_top3", "normalised_edit_distance", "length_accuracy")
ABOUT = {
    "r_precision_top1": "Share of clips whose own caption is the nearest of 32 in the evaluator's space; top 2 and 3: "
                        "among the nearest 2 and 3 (Guo et al. 2022).",
    "mm_dist": "Mean distance of a clip to its caption in that space (Guo et al. 2022).",
    "fid": "Frechet distance of generated to real clips in that space (Heusel et al. 2017). It grows with fewer clips.",
    "kid": "Kernel distance of the same, unbiased, so that it can be negative (Binkowski et al. 2018).",
    "diversity": "Mean distance of two clips of any captions; best where real clips have it.",
    "multimodality": "Mean distance of two clips of one caption; n counts captions. Defined with 30 clips a caption.",
    "nll_per_token": "What real clips cost the model: negative log-likelihood in nats a motion token, end included.",
    "normalised_edit_distance": "Insertions, deletions and replacements of codes to the nearest real clip of the "
                                "caption, over the longer length: 0 the same, 1 nothing in common.",
    "length_accuracy": "Share of clips within 10 % of the nearest real clip's length.",
    "dtw_joint_error": "Distance of the decoded joints to those of the row's own real clip, root and heading taken "
                       "away, mean over joints and frames, both clips played as fast as fits best (DTW-JPE of Zuo et "
                       "al. 2024, as a mean along the path instead of a sum).",
    "fid_joints": "Frechet distance of generated to real clips in kinetic energies of the decoded joints (Onuma et al. "
                  "2008; FID_k of Li et al. 2021), which nothing is trained for. It grows with fewer clips.",
    "unigram_jsd": "Jensen-Shannon divergence of how often codes, and pairs of codes, are used: 0 the same, 1 nothing "
                   "in common.",
    "codebook_usage": "Share of the codebook that occurs at all; perplexity: how many codes, used equally often, would "
                      "be as hard to guess.",
    "repetition_rate": "Share of codes that repeat the one before.",
    "distinct_1": "Different codes over all codes (distinct-2: pairs); it falls as a set grows.",
    "novelty": "Normalised edit distance to the nearest training clip: 0 is a copy.",
    "valid_share": "Share of clips that a codec could decode.",
    "participant_accuracy": "Share of clips in which a classifier trained on real clips names the participant asked "
                            "for.",
    "bleu_4": "Runs of up to 4 words (BLEU-1: words) of the model's captions that the data's captions of the same "
              "motion have, less for captions that are too short: 0 to 100 (Papineni et al. 2002; sacrebleu).",
    "rouge_l": "F1 of the longest common subsequence of words with the nearest caption of the data, 0 to 100 (Lin "
               "2004).",
    "chrf": "F2 of runs of up to 6 characters that the two have in common, 0 to 100 (Popovic 2015; sacrebleu).",
    "denoising_accuracy": "A third of a clip's tokens is lost, and this share of them is put right: lost anywhere, in "
                          "a gap, at the end.",
}


def folded(title: str, content: str) -> str:
    """A part that the reader unfolds, "" without content."""
    return f"<details><summary><h2>{escape(title)}</h2></summary>{content}</details>" if content else ""


def more_on_the_verdict(details: Mapping) -> str:
    notes = [*details["notes"], *details["not_available"]]
    listed = "".join(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in notes)
    return ('<div class="card long">' + "".join(f"<p>{escape(line)}</p>" for line in details["verdict"]) + "</div>"
            + listed)


def _key_figures(table: Table) -> str:
    cards = []
    for name in KEY_FIGURES:
        if is_weak(table, "all") and name in FROM_EMBEDDINGS:
            continue  # not drawn where it is not to be trusted
        marks = [Mark(SHORT[row], splits["all"][name].value, splits["all"][name].low, splits["all"][name].high,
                      value_text(splits["all"][name], name), 0 if row == MODEL else 4)
                 for row, splits in table.items() if splits["all"][name].value is not None]
        if marks and marks[0].name == SHORT[MODEL]:
            title = f"{METRICS[name].title} {ARROWS[METRICS[name].better]}"
            cards.append(f'<div class="card"><h3>{escape(title)}</h3>{dot_plot(title, marks)}</div>')
    names = "; ".join(f"{SHORT[row]}: {TITLES[row]}" for row in (MODEL, *group_rows(table, "text to motion")))
    return (f'<div class="grid3">{"".join(cards)}</div><p class="note">{escape(names)}. Lines are 95 % intervals.</p>'
            if cards else "")


def tables(table: Table, samples: int) -> str:
    titles = {"all": "All captions", "seen": "Captions that were trained (other clips of them)",
              "unseen": "Captions that were never trained"}
    parts = [_key_figures(table)]
    for split in SPLITS[::-1]:
        if any(table[MODEL][split][name].n for name in group_metrics("text to motion")):
            parts.append(table_card(titles[split], _figures(table, "text to motion", split), "figures") + "<br>")
    parts.append('<p class="note">↑ higher is better, ↓ lower, ≈ best where real clips have it. <i>clips</i> counts '
                 "those of the data, however often each was generated (of MModality: captions). Intervals are over "
                 "captions for means over clips; for FID, KID, Diversity and divergences they are "
                 f"{over_what(samples)}. The real clips\u2019 FID, KID and divergences compare a set with itself; the "
                 "column <i>another</i> has those of another set of real clips.</p>")
    return "".join(parts)


def table_card(title: str, lines: str, name: str = "") -> str:
    """A titled table; lines: its rows as HTML. Where it is wider than the screen it scrolls, with the keyboard too."""
    return (f'<div class="card long"><h3>{escape(title)}</h3><div class="wide" tabindex="0" role="region" '
            f'aria-label="{escape(title)}"><table class="{name}">{lines}</table></div></div>')


def _figures(table: Table, group: str, split: str, title: str = "") -> str:
    """HTML table rows: a head whose first cell is the title, and each metric of the group that has a value."""
    others = group_rows(table, group)
    lines = [head(title, others)]
    weak = REAL in table and group == "text to motion" and is_weak(table, split)
    for name in group_metrics(group):
        if all(table[row][split][name].value is None for row in (MODEL, *others)):
            continue
        lines.append(figure_line(table, others, split, name, weak and name in FROM_EMBEDDINGS))
    return "".join(lines)


def head(title: str, others: Sequence[str]) -> str:
    return (f'<tr><th scope="col">{escape(title) or "metric"}</th><th scope="col" class="mine">model</th>'
            + "".join(f'<th scope="col">{escape(name)}</th>'
                      for name in ("95 % interval", *(SHORT[row] for row in others), "clips"))
            + "</tr>")


def figure_line(table: Table, others: Sequence[str], split: str, name: str, doubted: bool = False) -> str:
    """An HTML table row: a metric of the model's clips and of other rows."""
    metric, estimate = TOLD[name], table[MODEL][split][name]
    title = f"{metric.title}{' (not to be trusted)' if doubted else ''}"
    return (
        f'<tr{" class=doubted" if doubted else ""}><th scope="row"><span class="arrow">{ARROWS[metric.better]}'
        f'</span>{escape(title)}</th><td class="mine">{value_text(estimate, name)}</td>'
        f'<td class="soft">{interval_text(estimate, name)}</td>'
        + "".join(f"<td>{value_text(table[row][split][name], name) if row in table else '-'}</td>" for row in others)
        + f"<td>{estimate.n or ''}</td></tr>")


def other_tasks(table: Table, details: Mapping) -> str:
    """Motion to text and lost tokens: metrics, with the stage that answered, and examples of captions."""
    cards = []
    for group, about in (("motion to text", "Captions of motions"), ("lost tokens", "Lost tokens put right")):
        by = " and ".join(dict.fromkeys(details["by"][name] for name in group_metrics(group) if name in details["by"]))
        if not by:
            continue
        body = "".join(_figures(table, group, split, f"{split} captions") for split in SPLITS[::-1]
                       if any(table[MODEL][split][name].n for name in group_metrics(group)))
        names = "; ".join(f"{SHORT[row]}: {TITLES[row]}" for row in group_rows(table, group))
        cards.append(table_card(f"{about}, by {by}", body, "figures") + f'<p class="note">{escape(names)}.</p>')
    entries = details["captions_said"]
    few, size = min(SHOWN_CLIPS, len(entries) // 2) or 1, colours(details)
    if entries:
        cards.append('<h3>Captions of single motions</h3><div class="grid2">'
                     + _captions_card("Nearest to the data's captions", entries[::-1][:few], size)
                     + (_captions_card("Farthest from them", entries[:few], size) if len(entries) > 1 else "")
                     + '</div><p class="note">By chrF; all are in details.json.</p>')
    return "".join(cards)


def _captions_card(title: str, entries: Sequence[Mapping], codebook_size: int) -> str:
    clips = "".join(
        f'<div class="clip"><p><bdi>{escape(entry["said"]) or "(nothing)"}</bdi> '
        f'<span class="soft">({_kind(entry)}chrF {entry["chrf"]:.0f})</span></p>'
        f'<p class="soft">data: <bdi>{escape("; ".join(entry["captions"]))}</bdi></p>'
        f'{strips({"motion": entry["motion"]}, codebook_size)}</div>' for entry in entries)
    return f'<div class="card long"><h3>{title}</h3>{clips}</div>'


def about(table: Table) -> str:
    names = [name for name in ABOUT if any(splits["all"][name].value is not None for splits in table.values())]
    entries = "".join(f"<div><dt>{escape(METRICS[name].title)}</dt><dd>{escape(ABOUT[name])}</dd></div>"
                      for name in names)
    return f'<div class="card long"><dl class="about">{entries}</dl></div>'


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over SMOOTH neighbouring points, as losses of single batches jump."""
    half = SMOOTH // 2
    return [(x, sum(y for _, y in points[max(0, i - half):i + half + 1]) / len(points[max(0, i - half):i + half + 1]))
            for i, (x, _) in enumerate(points)]


def curves(histories: Mapping[str, Mapping]) -> str:
    losses, heldout, names, start = [], [], [], 0
    for colour, (stage, history) in enumerate(histories.items()):
        checks = [check for check in history.get("nll", ()) if "step" in check]
        steps = [step for step, _ in history.get("losses", ())] + [check["step"] for check in checks]
        losses.append(Series(_smoothed([(start + step, loss) for step, loss in history.get("losses", ())]), colour % 6))
        names.append((stage, colour % 6))
        for kind, kind_colour in (("seen", 0), ("unseen", 1)):
            heldout.append(Series([(start + check["step"], check[kind]) for check in checks if kind in check],
                                  kind_colour))
        start += max(steps, default=0)
    loss_chart = chart("training loss", losses, "optimiser steps, all stages", "loss", from_zero=False)
    nll_chart = chart("held-out NLL", heldout, "optimiser steps, all stages", "nats a token", from_zero=False)
    if not loss_chart and not nll_chart:
        return ""
    means = f"means over {SMOOTH} points"
    return ('<div class="grid2">'
            f'<div class="card"><h3>Training loss ({means})</h3>{loss_chart}{legend(names)}</div>'
            f'<div class="card"><h3>NLL of held-out clips</h3>{nll_chart}'
            f'{legend([("seen captions", 0), ("unseen captions", 1)])}</div></div>')


def lengths_and_codes(rows: Sequence[EvaluationRow], clips: Sequence[Sequence[Sequence[int]]],
                       asked_lengths: Sequence[float] | None, codebook_size: int, in_step: int = 1) -> str:
    """in_step: codes of a step, where lengths count steps."""
    real = [float(len(row.codes) // in_step) for row in rows]
    lengths = [(length, float(len(clip) // in_step)) for length, samples in zip(real, clips, strict=True)
               for clip in samples]
    series = [Series(sorted(set(lengths)), 0, "dots")]
    names = [("generated", 0)]
    if asked_lengths is not None:
        series.append(Series(sorted(set(zip(real, asked_lengths, strict=True))), 1, "rings"))
        names.append(("asked for by decoding", 1))
    unit = "tokens" if in_step == 1 else "steps"
    length_chart = chart("lengths", series, f"the real clip, {unit}", unit, diagonal=True)
    counts = [count_ngrams(all_columns(part, in_step), 1) for part in (
        [row.codes for row in rows], [clip for samples in clips for clip in samples])]
    order = sorted(range(codebook_size), key=lambda code: (-counts[0][(code,)], -counts[1][(code,)], code))
    shares = [[100 * count[(code,)] / max(1, count.total()) for code in order] for count in counts]
    used = max((i + 1 for row in shares for i, share in enumerate(row) if share), default=1)
    usage = chart("codebook usage", [Series(_steps(shares[1][:used]), 0, "area"), Series(_steps(shares[0][:used]), 1)],
                  "codes, most used by real clips first", "% of tokens")
    return ('<div class="grid2">'
            f'<div class="card"><h3>Length of each clip against the real one</h3>{length_chart}{legend(names)}</div>'
            f'<div class="card"><h3>How often each code is used</h3>{usage}'
            f'{legend([("real clips", 1), ("generated clips", 0)])}</div></div>')


def _steps(values: Sequence[float]) -> list[tuple[float, float]]:
    """The points of a step curve, one step of width 1 for each value."""
    return [point for i, value in enumerate(values) for point in ((i, value), (i + 1, value))]


def colours(details: Mapping) -> int:
    """How many codes of a strip have to look different: those of the largest codebook."""
    return max(details["streams"]["sizes"]) if "streams" in details else details["codebook_size"]


def strips(clips: Mapping[str, Value], codebook_size: int) -> str:
    """Clips, name -> codes in the dataset's form, one above the other: a block for each token, of a colour for each
    code; a strip for each of several streams."""
    codes = {name if stream == ONE else f"{name}, {stream}": own for name, clip in clips.items()
             for stream, own in shown(clip).items()}
    longest = max(1, 0, *map(len, codes.values()))
    return '<div class="strips">' + "".join(
        f"<span>{escape(name)}</span>{code_strip(clip, longest, codebook_size)}<span>{len(clip)} "
        f"token{'s' * (len(clip) != 1)}</span>" for name, clip in codes.items()) + "</div>"


def _extremes(captions: Sequence[Mapping], codebook_size: int) -> str:
    """The worst and the best captions, each with its worst clip and the real clip nearest to it."""
    def card(title: str, entries: Sequence[Mapping]) -> str:
        clips = "".join(
            f'<div class="clip"><p><bdi>{escape(entry["name"])}</bdi> <span class="soft">({_kind(entry)}distance '
            f'{entry["normalised_edit_distance"]:.2f})</span></p>'
            f'{strips({"generated": entry["clip"], "real": entry["real"]}, codebook_size)}</div>' for entry in entries)
        return f'<div class="card long"><h3>{title}</h3>{clips}</div>'

    few = min(SHOWN_CLIPS, len(captions) // 2) or 1
    return ('<div class="grid2">' + card("Farthest from the real clips", captions[:few])
            + (card("Nearest to the real clips", captions[::-1][:few]) if len(captions) > 1 else "")
            + '</div><p class="note">A block is a token, equal colours are equal codes (they are in '
              "details.json). The clip shown is the farthest one of the caption, beside the real clip nearest to it; "
              "distances are means over the clips of the caption.</p>")


def _kind(entry: Mapping) -> str:
    return f"{entry['kind']}, " if entry.get("kind") else ""


def where_it_fails(details: Mapping) -> str:
    columns = [("n", "clips", 0), ("normalised_edit_distance", "distance", 2), ("r_precision_top1", "top 1", 2),
               ("r_precision_top3", "top 3", 2), ("expected_length", "real length", 0), ("length", "generated", 0),
               ("length_accuracy", "within 10 %", 2), ("novelty", "novelty", 2)]

    def card(title: str, first: str, entries: Sequence[Mapping], kinds: bool = False) -> str:
        if not entries:
            return ""
        present = [column for column in columns if any(entry.get(column[0]) is not None for entry in entries)]
        names = ["split"] * kinds + [name for _, name, _ in present]
        head = "<tr>" + "".join(f'<th scope="col">{name}</th>' for name in (first, *names)) + "</tr>"
        lines = "".join(
            f'<tr><th scope="row" class="text" dir="auto">{escape(str(entry["name"]))}</th>'
            + (f'<td>{escape(str(entry["kind"] or ""))}</td>' if kinds else "")
            + "".join("<td>-</td>" if entry.get(key) is None else f"<td>{entry[key]:.{digits}f}</td>"
                      for key, _, digits in present) + "</tr>" for entry in entries)
        return table_card(title, head + lines) + "<br>"

    captions = details["captions"]
    more = (f'<p class="note">The {SHOWN_CAPTIONS} worst of {len(captions):,}; all are in details.json.</p>'
            if len(captions) > SHOWN_CAPTIONS else "")
    return (_extremes(captions, colours(details))
            + card("By length of the real clip", "length", details["lengths"])
            + card("By participant", "participant", details["participants"])
            + card("By caption, worst first", "caption", captions[:SHOWN_CAPTIONS], kinds=True) + more)


def _streams(details: Mapping) -> str:
    if "streams" not in details:
        return ""
    streams = details["streams"]
    sizes = ", ".join(f"{name} {size:,}" for name, size in zip(streams["names"], streams["sizes"], strict=True))
    return f" in {len(streams['names'])} streams: {sizes}"


def facts(details: Mapping) -> str:
    judge = details["evaluator"]
    pairs = [("data", details["data"]["path"]), ("fingerprint", details["data"]["fingerprint"]),
             ("scored", clips_and_captions(details["data"])),
             ("rows of the data", f"{details['data']['rows']:,}, of which {details['trained_on']:,} trained on"),
             ("codebook", f"{details['codebook_size']:,} codes{_streams(details)}")]
    if judge:
        best = max(judge["history"], key=lambda check: check["reciprocal_rank"])
        pairs.append(("evaluator", f"{judge['config']['dimensions']} dimensions, trained on {judge['clips']:,} clips "
                      f"of {judge['source']}, {best['step']} steps; held-out mean reciprocal rank "
                      f"{best['reciprocal_rank']:.3f}"))
    pairs += [(name, value) for name, value in details["request"].items() if value is not None]
    pairs += [(name, version) for name, version in details["versions"].items()]
    pairs += [(name, value) for name, value in details["settings"].items()]
    entries = "".join(f"<dt>{escape(str(name))}</dt><dd><bdi>{escape(str(value))}</bdi></dd>" for name, value in pairs)
    return f'<div class="card long"><dl class="facts">{entries}</dl></div>'
