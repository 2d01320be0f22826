"""Write the sample data: a stick figure's clips, their captions, and the codec that encodes them as tokens.

    python -m motion_llm.sample.build          # data/sample_motion.json, by the codec in data/sample_codec
    python -m motion_llm.sample.build --fit    # fits that codec again first, which takes minutes

In this order: the motions (for stick_figure.py) and their captions; clips; codec, rows and files.
"""

import argparse
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.skeleton import Motion
from motion_llm.sample.stick_figure import FPS, Gait, Participant, Script, make_clip, mirrored, pose, skeleton

DATA = Path(__file__).parents[2] / "data"
JSON_PATH, CODEC_PATH = DATA / "sample_motion.json", DATA / "sample_codec"
NUM_CODES, WINDOW = 128, 4  # 4 frames a token, so 5 tokens a second
WIDTH, STEPS = 64, 8000  # of the codec's network: a small one, trained for many steps
SEED = 7
TAKES, CLIPS_PER_CAPTION = 10, 7  # of 10 takes of a caption, the first 7 with new tokens become rows
PARTICIPANTS = {
    "P001": Participant(1.00, 1.00, 0.0, 0.0, 0.000),
    "P002": Participant(0.89, 0.97, 1.2, -1.0, 0.005),
    "P003": Participant(1.14, 1.04, -0.8, 1.2, 0.000),
    "P004": Participant(0.96, 1.02, 0.5, 0.5, 0.010),
}

# ---- the motions and their captions ----

WALK = Gait(3.2, 1.15, stride=1.1)
SQUAT = pose(height=-0.42, ahead=-0.16, lean=36, ab_flex=112, ab_out=0.15)
BOW = pose(lean=68, ahead=-0.10, ab_flex=45)
SEAT = pose(height=-0.44, ahead=-0.36, lean=6, ab_flex=38, ab_reach=0.72)
SUBJECTS = ("a person", "someone", "the person")


def hold(key, reach, stay, back):
    """Key poses that reach `key` in `reach` seconds, stay for `stay` seconds and go back to rest in `back` seconds."""
    return [(reach, key), (stay, key), (back, {})]


def jump(go=0.0, start=0.0):
    """Key poses of one jump from `start` to `start + go`, in metres ahead."""
    crouch = pose(height=-0.22, ahead=-0.06, lean=28, ab_flex=-35)
    air = pose(height=0.28, ab_up=0.26, ab_flex=120, go=start + go * 0.6)
    return [(0.4, crouch), (0.22, air), (0.25, crouch | {"go": start + go}), (0.3, pose(go=start + go))]


def wave(arms):
    """Key poses of a wave; `arms` is "a" (one arm) or "ab" (both)."""
    out, inward = (pose(**{f"{arms}_abd": abd, f"{arms}_reach": 0.75}) for abd in (105, 172))
    return [(0.5, inward), *3 * [(0.34, out), (0.34, inward)], (0.5, {})]


def dance(beats, seconds):
    """Key poses of a dance: from foot to foot, the arms up on one side and then the other."""
    lift = dict(a_abd=140, b_abd=35, b_flex=50, b_reach=0.7, b_up=0.1)
    step = [(seconds, pose(sway=-0.13, tilt=-14, twist=-20, height=-0.06, **lift))]
    return beats * (step + mirrored(step))


def moving_motions():
    """Wordings, separated by "; ", -> parts, of motions with steps or jumps."""
    bent, spread = (("l_reach", 0.76), ("r_reach", 0.76)), (("l_abd", 70), ("r_abd", 70))
    slow = Gait(2.5, 1.74, stride=0.75, arm_swing=12)
    quick = Gait(3.8, 0.85, stride=1.35, arm_swing=32)
    back = Gait(3.0, 1.2, stride=-0.85, arm_swing=12)
    run = Gait(4.8, 0.70, stride=1.7, lift=0.30, stance=0.38, arm_swing=45, pose=(*bent, ("lean", 12)))
    jog = Gait(4.8, 0.70, lift=0.28, stance=0.42, arm_swing=30, pose=bent)
    march = Gait(3.0, 1.15, lift=0.34, arm_swing=35)
    spin = Gait(3.4, 0.9, spin=110, lift=0.07, arm_swing=3, pose=spread)
    leaps = [*jump(0.8), (0.3, pose(go=0.8)), *jump(0.8, 0.8)]
    return {
        "walks forward; is walking forward; goes straight ahead; walks at a normal pace": [WALK],
        "walks forward slowly; is slowly walking ahead; strolls forward": [slow],
        "walks forward quickly; is walking fast; strides briskly ahead": [quick],
        "walks backward; is walking backwards; takes several steps back": [back],
        "runs forward; is running; runs straight ahead": [run],
        "jogs in place; is running on the spot; jogs without moving ahead": [jog],
        "marches in place; is marching on the spot; steps in place, knees high": [march],
        "spins around on the spot; is spinning with arms out; twirls around": [spin],
        "walks forward and bows; walks ahead, then takes a bow": [WALK, [(0.7, BOW), (0.7, {})]],
        "walks forward and sits down; walks ahead, then takes a seat": [WALK, [(1.0, SEAT), (0.8, SEAT)]],
        "jumps once; is jumping one time; hops up in the air": [[(0.3, {}), *jump(), (0.7, {})]],
        "jumps three times; does three jumps; jumps up and down again and again": [3 * jump()],
        "jumps forward; leaps ahead; hops ahead two times": [leaps],
    }


def standing_motions():
    """Wordings -> parts, of motions on the spot without a left and a right variant."""
    guard = pose(ab_flex=75, ab_abd=-5, ab_reach=0.55)
    punch = guard | pose(a_flex=88, a_abd=-8, a_reach=0.98, twist=25, lean=8)
    [(_, left_punch)] = mirrored([(0, punch)])
    boxing = [(0.4, guard), *3 * [(0.22, punch), (0.22, guard), (0.22, left_punch), (0.22, guard)], (0.3, {})]
    apart, together = (pose(ab_flex=72, ab_abd=abd, ab_reach=0.68) for abd in (22, -26))
    clapping = [(0.4, apart), *5 * [(0.2, together), (0.2, apart)], (0.4, {})]
    star, wide = pose(height=0.08, ab_up=0.05, ab_abd=165, ab_out=0.32), pose(ab_abd=90)
    pick, up = pose(height=-0.40, ahead=-0.12, lean=72, a_flex=75, b_flex=40), pose(ab_flex=168)
    jacks = 4 * [(0.4, star), (0.4, {})]
    rising = [(0, SEAT), (0.8, SEAT), (1.2, {}), (0.7, {})]
    seated = hold(SEAT, 1.1, 0.9, 1.3)
    return {
        "does jumping jacks; is doing star jumps; jumps with arms and legs apart": [jacks],
        "squats once; does a squat; squats down and comes back up": [hold(SQUAT, 0.9, 0.35, 0.9)],
        "squats three times; does three squats; squats again and again": [3 * [(0.75, SQUAT), (0.75, {})]],
        "sits down; is sitting down; takes a seat": [[(0.3, {}), (1.2, SEAT), (1.2, SEAT)]],
        "sits down and stands up; sits and gets up again; takes a seat, then rises": [seated],
        "stands up from a chair; rises from a seat; gets up from sitting": [rising],
        "bows; takes a bow; bends forward at the waist": [hold(BOW, 0.9, 0.6, 0.9)],
        "waves with both hands; is waving both arms; waves both hands overhead": [wave("ab")],
        "raises both arms; lifts both hands up; puts both arms in the air": [hold(up, 0.9, 0.7, 0.9)],
        "stretches both arms out to the sides; makes a T with the arms": [hold(wide, 0.9, 1.0, 0.8)],
        "claps; is clapping; claps the hands together": [clapping],
        "punches with both fists in turn; is boxing; boxes the air": [boxing],
        "picks something up from the floor; bends down to pick something up": [hold(pick, 1.0, 0.4, 1.0)],
        "dances; is dancing; dances from side to side; does a dance": [dance(4, 0.42)],
        "dances quickly; is dancing fast; does a fast dance": [dance(6, 0.30)],
    }


def sided_motions():
    """Wordings, with {s} for the side, -> parts for the right side."""
    out = pose(a_fwd=0.72, a_up=0.55, lean=-10, b_flex=35, a_flex=-20)
    kick = [(0.4, pose(a_fwd=-0.25, a_up=0.12, lean=6)), (0.3, out), (0.45, {})]
    chamber = pose(a_flex=35, a_reach=0.55, twist=-12)
    hit = pose(a_flex=88, a_abd=-8, a_reach=0.98, twist=25, lean=10, b_flex=-10)
    punch = [(0.5, chamber), (0.2, hit), (0.35, hit), (0.4, chamber), (0.6, {})]
    kneel = pose(height=-0.40, a_fwd=-0.38, a_up=0.04, b_fwd=0.32, lean=6)
    bent, sip, up = pose(tilt=-32, sway=0.05), pose(a_flex=100, a_abd=-12, a_reach=0.42), pose(a_flex=168)
    turn = [[(0.3, {})], Gait(2.0, 1.05, spin=-45, lift=0.16, arm_swing=14), [(0.4, {})]]
    circle = Gait(4.0, 1.15, stride=1.0, spin=-90)
    aside = Gait(3.2, 1.0, slide=-0.36, arm_swing=3, pose=(("l_out", 0.16), ("r_out", 0.16)))
    return {
        "turns {s}; is turning to the {s}; turns in place toward the {s}": turn,
        "walks in a circle to the {s}; is walking around in circles to the {s}; circles {s}": [circle],
        "steps sideways to the {s}; is side-stepping {s}; moves to the {s} sideways": [aside],
        "waves with the {s} hand; is waving the {s} hand; says hello with the {s} hand": [wave("a")],
        "raises the {s} arm; lifts the {s} hand up; puts the {s} arm in the air": [hold(up, 0.8, 0.6, 0.8)],
        "kicks with the {s} leg; kicks once with the {s} foot; does a {s} kick": [[*kick, (1.0, {})]],
        "kicks three times with the {s} leg; does three {s} kicks": [3 * kick],
        "punches once with the {s} fist; throws a {s} punch; hits the air with the {s} hand": [punch],
        "kneels down on the {s} knee; goes down on the {s} knee": [[(1.1, kneel), (1.4, kneel)]],
        "leans to the {s}; bends sideways to the {s}; tilts the upper body {s}": [hold(bent, 0.8, 0.7, 0.8)],
        "drinks with the {s} hand; takes a sip, cup in the {s} hand": [hold(sip, 0.8, 1.1, 0.8)],
    }


def all_motions():
    """Every Script of the sample, named by its first wording. No wording belongs to two of them."""
    motions = moving_motions() | standing_motions()
    for wordings, parts in sided_motions().items():
        motions[wordings.format(s="right")] = parts
        motions[wordings.format(s="left")] = [mirrored(part) for part in parts]
    return [Script(wordings.split("; "), parts) for wordings, parts in motions.items()]


# ---- clips, rows, files ----


def all_clips():
    """Every clip as (motion name, caption, participant, Motion), in the order of the file."""
    rng = np.random.RandomState(SEED)  # the legacy generator: numpy guarantees that its stream does not change
    people, figure = list(PARTICIPANTS), skeleton()
    clips, subject = [], 0
    for script in all_motions():
        for i, wording in enumerate(script.wordings):
            caption = f"{SUBJECTS[i % len(SUBJECTS)]} {wording}"
            for take in range(TAKES):
                person = people[(subject + take) % len(people)]
                joints = make_clip(script, PARTICIPANTS[person], rng)
                clips.append((script.wordings[0], caption, person, Motion(joints, FPS, figure)))
            subject += 1
    return clips


def fit_codec(clips):
    """The MotionCodec of the sample, fitted to all its clips."""
    motions = [motion for *_, motion in clips]
    return MotionCodec.fit(motions, NUM_CODES, WINDOW, "vqvae", FPS, width=WIDTH, steps=STEPS)


def to_rows(clips, codec):
    """Rows of the JSON file: of each caption the first takes whose tokens no earlier row has."""
    rows, seen, counts = [], set(), Counter()
    for _, caption, person, motion in clips:
        if counts[caption] == CLIPS_PER_CAPTION:
            continue
        tokens = " ".join(map(str, codec.encode(motion)))
        if tokens not in seen:
            rows.append({"text_query": caption, "motion_tokens": tokens, "participant_id": person})
            seen.add(tokens)
            counts[caption] += 1
    return rows


def write_rows(path, rows):
    """A JSON list with a row on each line."""
    Path(path).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    flags.add_argument("--fit", action="store_true", help="fit the codec again, which takes minutes")
    args = flags.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    clips = all_clips()
    if args.fit:
        fit_codec(clips).save(CODEC_PATH)
    rows = to_rows(clips, MotionCodec.load(CODEC_PATH))
    write_rows(JSON_PATH, rows)
    lengths = [len(row["motion_tokens"].split()) for row in rows]
    captions = len({row["text_query"] for row in rows})
    print(f"{JSON_PATH}: {len(rows)} clips, {captions} captions, {min(lengths)} to {max(lengths)} tokens, "
          f"mean {np.mean(lengths):.1f}")


if __name__ == "__main__":
    main()
