"""The evaluation as one page that opens offline. Its first screen answers "is it good?" for someone who does not know
the field: a word, three sentences, three clips to play beside real ones, one chart. The rest is folded below.

Every text that comes from data is escaped. Printed, the folded parts stay as the reader has left them.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from motion_llm.evaluation import report_sections as sections
from motion_llm.evaluation.charts import Mark, dot_plot
from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.findings import value_text
from motion_llm.evaluation.following import FOLLOWS, HALF, NOT_YET, TOP3, UNKNOWN
from motion_llm.evaluation.metric_names import METRICS, MODEL, NEAREST, RANDOM, REAL, SHUFFLED, Block, Table
from motion_llm.evaluation.report_blocks import block as block_tables
from motion_llm.evaluation.rows import clips_and_captions
from motion_llm.json_files import write_text

TEMPLATE = Path(__file__).parent / "report_page.html"
LOOKS = {FOLLOWS: "good", HALF: "half", NOT_YET: "bad", UNKNOWN: "open"}  # verdict -> class
PLAIN = {MODEL: "this model", REAL: "real clips", NEAREST: "looked-up clip", RANDOM: "any clip",
         SHUFFLED: "wrong captions"}
ASKED = {  # metric -> the chart's title
    TOP3: "How often an automatic judge finds a clip\u2019s caption (3 guesses of {pool})",
    "dtw_joint_error": "How far the joints are from the real clip\u2019s, in mm (less is better)",
    "normalised_edit_distance": "How much differs from the nearest real clip: 0 nothing, 1 all",
}


def write_page(path: Path, table: Table, details: Mapping, rows: Sequence[EvaluationRow],
               clips: Sequence[Sequence[Sequence[int]]], asked_lengths: Sequence[float] | None,
               histories: Mapping[str, Mapping], figures: str | None = None, blocks: Sequence[Block] = ()) -> None:
    """Write the page. clips: for each row its generated ones. asked_lengths: for each row the tokens that decoding
    aimed at. histories: stage folder -> history of its training. figures: the viewer's page of details["examples"],
    None without a codec. blocks: figures by part of the motions."""
    model = details["request"]["model_path"] or details["request"]["generated"]
    samples = details["request"]["samples"]
    fold, in_step = sections.folded, len(details["streams"]["names"]) if "streams" in details else 1
    body = [
        f'<div class="first">{_verdict(details)}{_chart(table, details)}</div>',
        _examples(details["examples"], figures, sections.colours(details)),
        fold("All figures", sections.tables(table, samples)),
        *(fold(f"Figures {block.title}" if block.title.startswith("by ") else block.title.capitalize(),
               block_tables(block)) for block in blocks),
        fold("More on the verdict, and its limits", sections.more_on_the_verdict(details)),
        fold("What the metrics mean", sections.about(table)),
        fold("Where it does badly, and where well", sections.where_it_fails(details)),
        fold("Other tasks", sections.other_tasks(table, details)),
        fold("How it was trained", sections.curves(histories)),
        fold("Lengths and codes", sections.lengths_and_codes(
            rows, clips, asked_lengths, details["codebook_size"], in_step)),
        fold("Data, settings and versions", sections.facts(details))]
    part = f" ({details['data']['part']})" if "part" in details["data"] else ""
    times = "once" if samples == 1 else f"{samples} times"
    subtitle = f"{clips_and_captions(details['data'])} of {details['data']['path']}{part}, each generated {times}."
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Is {model} good?"), subtitle=escape(subtitle), body="\n".join(body))
    write_text(path, page)


def _verdict(details: Mapping) -> str:
    word, parts = details["following"]["word"], details["following"]["parts"]
    about = "Whether it follows its captions" if word == UNKNOWN else "It"
    only_trained = [kind for kind, part in parts.items() if part["word"] != UNKNOWN] == ["seen"] != [*parts]
    whose = "" if word == UNKNOWN else " captions that were trained" if only_trained else " its captions"
    lines = "".join(f"<p>{escape(line)}</p>" for line in details["summary"])
    return (f'<div class="card verdict {LOOKS[word]}"><p class="word"><span class="soft">{about}</span> '
            f'{escape(word)}<span class="soft">{whose}</span></p>{lines}</div>')


def _chart(table: Table, details: Mapping) -> str:
    """The one chart: retrieval of the captions that the verdict is on; where there is no verdict, how far clips are
    from real ones."""
    judged = [kind for kind, part in details["following"]["parts"].items() if part["word"] != UNKNOWN]
    split = judged[0] if len(judged) == 1 else "all"
    names = ([TOP3] if judged else []) + ["dtw_joint_error", "normalised_edit_distance"]
    name = next((name for name in names if table[MODEL][split][name].value is not None), None)
    if name is None:
        return ""
    estimates = {row: table[row][split][name] for row in PLAIN if row in table}
    scale = 100 if name == TOP3 else 1
    marks = [Mark(PLAIN[row], scale * e.value, *(end if end is None else scale * end for end in (e.low, e.high)),
                  f"{100 * e.value:.0f} %" if name == TOP3 else value_text(e, name), 0 if row == MODEL else 4)
             for row, e in estimates.items() if e.value is not None]
    title = ASKED[name].format(pool=details["pool"])
    of = {"seen": ", trained captions", "unseen": ", new captions", "all": ""}[split]
    return (f'<div class="card"><h3>{escape(title + of)}</h3>'
            f'{dot_plot(METRICS[name].title, marks, names=112)}<p class="note">Lines: 95 % intervals. Looked-up: a '
            "training clip of the most similar caption.</p></div>")


def _examples(examples: Sequence[Mapping], figures: str | None, codebook_size: int) -> str:
    """Three clips: moving figures, or strips of their tokens where there is no codec."""
    if figures is not None:
        return (f'<iframe class="figures" title="Clips of the model beside real ones" sandbox="allow-scripts" '
                f'srcdoc="{escape(figures)}"></iframe>')
    cards = "".join(
        f'<div class="card"><h3>{escape(example["label"])}</h3><p><bdi>{escape(example["caption"])}</bdi></p>'
        + sections.strips({"generated": example["clip"], "real": example["real"]}, codebook_size) + "</div>"
        for example in examples)
    return (f'<div class="grid3">{cards}</div><p class="note">Without the codec of the tokens (CODEC_PATH when '
            "training, or --codec) clips cannot be shown as figures: a block is a token, equal colours are equal "
            "tokens.</p>")
