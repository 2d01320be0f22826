"""Write the sample data: stick-figure motions, their captions and the codebook that turns them into tokens.

    python sample_data.py    # data/sample_motion.json and data/sample_codebook.npz, the same bytes every run

Top to bottom: a small kinematic model of a body (joints in metres, 20 frames a second, y up, z ahead, x to
the left), the motions it makes and their captions, a k-means codebook that turns every 4 frames into one of
128 codes (`encode`, `decode`), and the files.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

JSON_PATH = Path(__file__).parent / "data" / "sample_motion.json"
CODEBOOK_PATH = Path(__file__).parent / "data" / "sample_codebook.npz"
FPS = 20  # frames a second
WINDOW = 4  # frames a token, so 5 tokens a second
NUM_CODES = 128
SEED, CODEBOOK_SEED = 7, 4
TAKES, CLIPS_PER_CAPTION = 10, 7  # of 10 takes of a caption, the first 7 whose tokens are new are kept

JOINTS = (  # HumanML3D's 22 joints, in SMPL's order
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot "
    "right_foot neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist"
).split()
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
INDEX = {name: i for i, name in enumerate(JOINTS)}

# Bones, in metres. Offsets are (left, up, ahead) from the parent joint; the right side mirrors the left.
SPINE = {
    "spine1": (0, 0.11, -0.01),
    "spine2": (0, 0.13, 0),
    "spine3": (0, 0.06, 0.01),
    "neck": (0, 0.21, -0.02),
}
SPINE |= {"head": (0, 0.12, 0.04)}
BEND = {"spine1": 0.4, "spine2": 0.7, "spine3": 0.9}  # share of the trunk's bend below a joint; 1 elsewhere
HIP, COLLAR, SHOULDER = (0.07, -0.06, 0.0), (0.07, 0.12, -0.02), (0.11, 0.03, -0.01)
TOE = (0.02, -0.06, 0.14)
THIGH = SHIN = 0.41
UPPER_ARM, FOREARM = 0.28, 0.26
PELVIS_HEIGHT, ANKLE_HEIGHT = 0.94, 0.08

# A pose is a value for each channel: angles in degrees, lengths in metres. go and turn move the whole body.
REST = dict(height=0, ahead=0, sway=0, lean=2, tilt=0, twist=0, go=0, turn=0)
HAND = dict(flex=5, abd=9, reach=0.97)  # seen from its shoulder; reach is a share of the arm's length
FOOT = dict(out=0.10, up=0, fwd=0)  # the ankle, from the point of the floor under the body
REST |= {f"{side}_{name}": value for side in "lr" for name, value in (HAND | FOOT).items()}
ANGLES = ("lean", "tilt", "twist", "turn", "l_flex", "r_flex", "l_abd", "r_abd")
SIGNED = ("sway", "tilt", "twist", "turn")  # positive to the left; a mirrored pose flips them
SIDES = {"l": ("left_", 1), "r": ("right_", -1)}


# ---- the body: channels -> joints ----


def vectors(*parts):
    """Vectors (T, n) from n components, each (T,) or a number."""
    return np.stack(np.broadcast_arrays(*parts), -1)


def rotation(yaw, pitch=0.0, roll=0.0):
    """Rotation matrices (T, 3, 3) from angles (T,) in radians: left turn, forward lean, lean to the left."""
    (cy, cp, cr), (sy, sp, sr) = (f([yaw, 0 * yaw + pitch, 0 * yaw - roll]) for f in (np.cos, np.sin))
    rows = (
        vectors(cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp),
        vectors(cp * sr, cp * cr, -sp),
        vectors(cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp),
    )
    return np.stack(rows, -2)


def turned(matrices, points):
    """Points (T, 3), or one (3,), turned by matrices (T, 3, 3)."""
    return np.einsum("tij,tj->ti", matrices, np.broadcast_to(points, (len(matrices), 3)))


def place_limb(start, target, upper, lower, pole):
    """Two-bone limb from `start` (T, 3) to `target` (T, 3), bent toward `pole`: its middle and end joint."""
    way = target - start
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    way = way / distance
    distance = np.clip(distance, abs(upper - lower) + 0.05, 0.999 * (upper + lower))
    along = (upper**2 + distance**2 - lower**2) / (2 * distance)  # law of cosines
    bend = pole - (pole * way).sum(-1, keepdims=True) * way
    bend /= np.linalg.norm(bend, axis=-1, keepdims=True)
    return start + along * way + np.sqrt(upper**2 - along**2) * bend, start + distance * way


def lower_body(ch):
    """Pelvis and legs, {joint: (T, 3)}. The pelvis comes down where a leg would not reach the floor."""
    height, ankles, hips, joints = PELVIS_HEIGHT + ch["height"], {}, {}, {}
    for s, (_, sign) in SIDES.items():
        ankles[s] = vectors(sign * ch[f"{s}_out"], ANKLE_HEIGHT + ch[f"{s}_up"], ch[f"{s}_fwd"])
        hips[s] = vectors(ch["sway"] + sign * HIP[0], HIP[1], ch["ahead"])
        flat = ((ankles[s] - hips[s])[:, [0, 2]] ** 2).sum(-1)
        reach = np.sqrt(np.maximum((0.995 * (THIGH + SHIN)) ** 2 - flat, 0.01))
        height = np.minimum(height, ankles[s][:, 1] + reach - HIP[1])
    joints["pelvis"] = vectors(ch["sway"], height, ch["ahead"])
    for s, (side, sign) in SIDES.items():
        hip = hips[s] + vectors(0, height, 0)
        knee, ankle = place_limb(hip, ankles[s], THIGH, SHIN, np.array([0.15 * sign, 0.35, 1.0]))
        # In the air the foot stays square to the shin, on the floor it lies flat.
        pitch = np.arctan2(knee[:, 2] - ankle[:, 2], knee[:, 1] - ankle[:, 1])
        pitch *= np.clip(ch[f"{s}_up"] / 0.15, 0, 1)
        toe = ankle + turned(rotation(0 * pitch, pitch), TOE * np.array([sign, 1, 1]))
        joints |= {side + "hip": hip, side + "knee": knee, side + "ankle": ankle, side + "foot": toe}
    return joints


def upper_body(ch, pelvis):
    """Trunk, head and arms, {joint: (T, 3)}, on a pelvis (T, 3). Hands are placed in the chest's frame."""
    joints, below = {}, pelvis
    for name, offset in SPINE.items():
        share = BEND.get(name, 1.0)
        bent = rotation(share * ch["twist"], share * ch["lean"], share * ch["tilt"])
        joints[name] = below = below + turned(bent, offset)
    chest = rotation(ch["twist"], ch["lean"], ch["tilt"])
    for s, (side, sign) in SIDES.items():
        mirror = np.array([sign, 1, 1])
        collar = joints["spine3"] + turned(chest, COLLAR * mirror)
        shoulder = collar + turned(chest, SHOULDER * mirror)
        flex, abd, reach = ch[f"{s}_flex"], ch[f"{s}_abd"], np.clip(ch[f"{s}_reach"], 0.2, 0.99)
        hand = vectors(sign * np.sin(abd), -np.cos(abd) * np.cos(flex), np.cos(abd) * np.sin(flex))
        hand = turned(chest, hand * (UPPER_ARM + FOREARM) * reach[:, None])
        pole = turned(chest, [0.4, -0.5, -0.8] * mirror)
        elbow, wrist = place_limb(shoulder, shoulder + hand, UPPER_ARM, FOREARM, pole)
        joints |= {side + "collar": collar, side + "shoulder": shoulder}
        joints |= {side + "elbow": elbow, side + "wrist": wrist}
    return joints


def channels_to_joints(channels):
    """Channels, a dict of (T,) arrays, to joints (T, 22, 3) in metres. Bone lengths never change."""
    ch = {name: np.radians(v) if name in ANGLES else v for name, v in channels.items()}
    joints = lower_body(ch)
    joints |= upper_body(ch, joints["pelvis"])
    joints = np.stack([joints[name] for name in JOINTS], 1)
    return to_world(joints, ch["go"], ch["slide"], ch["turn"])


def to_world(joints, ahead, left, turn):
    """Body-frame joints (T, 22, 3) moved by rates (T,): m/s ahead and to the left, rad/s of left turn."""

    def path(rate):  # the rate of frame t carries it to frame t + 1
        return np.concatenate([np.zeros_like(rate[:1]), np.cumsum(rate[:-1], 0)]) / FPS

    heading = rotation(path(turn))  # (T, 3, 3)
    way = path(turned(heading, vectors(left, 0, ahead)))
    return np.einsum("tij,tkj->tki", heading, joints) + way[:, None]


# ---- motions: a gait, or a script of key poses ----


@dataclass(frozen=True)
class Gait:
    """Steps. A cycle of two goes `stride` metres ahead, `slide` metres and `spin` degrees to the left."""

    cycles: float
    period: float  # seconds a cycle
    stride: float = 0.0
    slide: float = 0.0
    spin: float = 0.0
    lift: float = 0.12
    stance: float = 0.6  # share of the cycle a foot is on the floor; below 0.5 both leave it: running
    arm_swing: float = 22.0
    pose: tuple = ()  # channels held throughout, as (name, value) pairs


@dataclass(frozen=True)
class Motion:
    """Wordings, and parts played one after another: each a Gait or key poses [(seconds, pose), ...]."""

    wordings: list
    parts: list


@dataclass(frozen=True)
class Participant:
    """How one person moves: tempo and stride as factors, lean and arm angles in degrees, crouch in metres."""

    tempo: float
    stride: float
    lean: float
    arms: float
    crouch: float


PARTICIPANTS = {
    "P001": Participant(1.00, 1.00, 0.0, 0.0, 0.000),
    "P002": Participant(0.89, 0.97, 1.2, -1.0, 0.005),
    "P003": Participant(1.14, 1.04, -0.8, 1.2, 0.000),
    "P004": Participant(0.96, 1.02, 0.5, 0.5, 0.010),
}


def pose(**channels):
    """A key pose. `a_` names the acting (right) side, `b_` the other, `ab_` both."""
    sides = {"a": "r", "b": "l", "ab": "rl"}
    out = {}
    for name, value in channels.items():
        head, _, tail = name.partition("_")
        out.update({f"{s}_{tail}": value for s in sides[head]} if tail else {name: value})
    return out


def mirrored(part):
    """The same part with left and right exchanged."""

    def flip(name, value):
        if name[:2] in ("l_", "r_"):
            return ("r" if name[0] == "l" else "l") + name[1:], value
        return name, -value if name in SIGNED else value

    if isinstance(part, Gait):
        values = vars(part) | {"slide": -part.slide, "spin": -part.spin}
        return Gait(**values | {"pose": tuple(flip(k, v) for k, v in part.pose)})
    return [(seconds, dict(flip(k, v) for k, v in key.items())) for seconds, key in part]


def script_channels(keys, rng, amplitude, pace):
    """Channels (T,) eased from key to key, from rest or from a first key of 0 seconds; a little unevenly."""
    first = keys[0][1] if keys[0][0] == 0 else {}
    times, values = [0.0], []
    for seconds, key in [(0, first), (rng.uniform(0.15, 0.25), first), *keys]:
        times.append(times[-1] + seconds / pace * np.exp(0.05 * rng.standard_normal()))
        scale = amplitude * (1 + 0.05 * rng.standard_normal())
        values.append({k: v + scale * (key.get(k, v) - v) for k, v in REST.items()})
        if len(values) > 1:  # the whole body's way stays where it is until a key moves it
            values[-1] |= {k: amplitude * key[k] if k in key else values[-2][k] for k in ("go", "turn")}
    times = np.array(times[1:])
    clock = np.arange(int(times[-1] * FPS)) / FPS
    key = np.clip(np.searchsorted(times, clock, "right") - 1, 0, len(times) - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (clock - times[key]) / np.diff(times)[key])
    channels = {}
    for name in REST:
        track = np.array([v[name] for v in values], float)
        channels[name] = track[key] + ease * np.diff(track)[key]
    for way in ("go", "turn"):
        channels[way] = np.diff(channels[way], append=channels[way][-1]) * FPS
    channels["slide"] = 0 * clock
    return channels


def gait_channels(gait, rng, amplitude, pace):
    """Channels (T,) of steady stepping. A foot on the floor moves back as fast as the body goes on."""
    period = gait.period / pace
    clock = np.arange(int(gait.cycles * period * FPS)) / FPS
    wobble = 0.015 * np.sin(2 * np.pi * (clock / clock[-1] + rng.uniform()))
    cycle = clock / period + wobble + 0.05 * rng.standard_normal() / period
    channels = {k: np.full(len(clock), float(v)) for k, v in (REST | dict(gait.pose)).items()}
    rates = dict(go=amplitude * gait.stride, slide=amplitude * gait.slide, turn=gait.spin)
    channels |= {k: np.full(len(clock), v / period) for k, v in rates.items()}
    for s, sign, start in (("l", 1, 0.0), ("r", -1, 0.5)):
        phase = (cycle + start) % 1
        swing = np.clip((phase - gait.stance) / (1 - gait.stance), 0, 1)
        on_floor = np.minimum(phase / gait.stance, 1)
        place = np.where(swing > 0, np.cos(np.pi * swing), 2 * on_floor - 1)  # -1 ahead of the body, 1 behind
        back = place / 2 * gait.stance
        angle, out = np.radians(-back * gait.spin), sign * channels[f"{s}_out"]
        channels[f"{s}_out"] = sign * (out * np.cos(angle) - amplitude * back * gait.slide)
        channels[f"{s}_fwd"] = -out * np.sin(angle) - amplitude * back * gait.stride
        heel = 0.07 * np.clip(4 * on_floor - 3, 0, 1) * (1 - swing) * min(1, abs(gait.stride))
        channels[f"{s}_up"] = heel + gait.lift * np.sin(np.pi * swing)
        channels[f"{s}_flex"] -= sign * amplitude * gait.arm_swing * np.cos(2 * np.pi * cycle)
    channels["sway"] += 0.015 * np.sin(2 * np.pi * (cycle - 0.05))
    channels["height"] += (0.03 if gait.stance < 0.5 else 0.0) * np.cos(4 * np.pi * (cycle + 0.1))
    return channels


def make_clip(motion, person, rng):
    """One clip (T, 22, 3) of a motion by a Participant, with this take's own tempo, size and small sway."""
    pace = person.tempo * np.exp(0.05 * rng.standard_normal())
    amplitude = 1 + 0.08 * rng.standard_normal()
    parts = []
    for part in motion.parts:
        walk = isinstance(part, Gait)
        make, size = (gait_channels, amplitude**0.5 * person.stride) if walk else (script_channels, amplitude)
        parts.append(make(part, rng, size, pace))
    channels = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    steps = len(channels["go"])
    seams = np.cumsum([len(p["go"]) for p in parts])[:-1]
    for seam in seams:  # 0.3 s from one part to the next
        a, b = max(seam - 3, 0), min(seam + 3, steps - 1)
        for track in channels.values():
            track[a : b + 1] = np.linspace(track[a], track[b], b - a + 1)

    def drift(size):  # a slow wave of its own
        return size * np.sin(2 * np.pi * (rng.uniform() + rng.uniform(0.2, 0.4) * np.arange(steps) / FPS))

    channels["lean"] += person.lean + drift(1.7)
    channels["tilt"] += drift(1.1)
    channels["height"] -= person.crouch
    for s in "lr":
        channels[f"{s}_flex"] += drift(4.0)
        channels[f"{s}_abd"] += person.arms + drift(2.5)
    return channels_to_joints(channels)


# ---- the motions and their captions ----

WALK = Gait(3.2, 1.15, stride=1.1)
SQUAT = pose(height=-0.42, ahead=-0.16, lean=36, ab_flex=112, ab_out=0.15)
BOW = pose(lean=68, ahead=-0.10, ab_flex=45)
SEAT = pose(height=-0.44, ahead=-0.36, lean=6, ab_flex=38, ab_reach=0.72)
SUBJECTS = ("a person", "someone", "the person")


def hold(key, there, stay, back):
    """Key poses that go to `key` in `there` seconds, stay, and come back."""
    return [(there, key), (stay, key), (back, {})]


def jump(go=0.0, start=0.0):
    """Key poses of one jump from `start` to `start + go`, in metres ahead."""
    crouch = pose(height=-0.22, ahead=-0.06, lean=28, ab_flex=-35)
    air = pose(height=0.28, ab_up=0.26, ab_flex=120, go=start + go * 0.6)
    return [(0.4, crouch), (0.22, air), (0.25, crouch | {"go": start + go}), (0.3, pose(go=start + go))]


def wave(arms):
    """Key poses of a wave; `arms` is "a" or "ab"."""
    out, inward = (pose(**{f"{arms}_abd": abd, f"{arms}_reach": 0.75}) for abd in (105, 172))
    return [(0.5, inward), *3 * [(0.34, out), (0.34, inward)], (0.5, {})]


def dance(beats, seconds):
    """Key poses of a dance: from foot to foot, the arms up on one side and then the other."""
    lift = dict(a_abd=140, b_abd=35, b_flex=50, b_reach=0.7, b_up=0.1)
    step = [(seconds, pose(sway=-0.13, tilt=-14, twist=-20, height=-0.06, **lift))]
    return beats * (step + mirrored(step))


def moving_motions():
    """Wordings, split at "; ", to parts: motions that go somewhere, or step."""
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
    """Wordings to parts: motions on the spot that both sides of the body share."""
    guard = pose(ab_flex=75, ab_abd=-5, ab_reach=0.55)
    punch = guard | pose(a_flex=88, a_abd=-8, a_reach=0.98, twist=25, lean=8)
    [(_, other)] = mirrored([(0, punch)])
    boxing = [(0.4, guard), *3 * [(0.22, punch), (0.22, guard), (0.22, other), (0.22, guard)], (0.3, {})]
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
    """Wordings to parts: motions of one side, {s} in the wordings, given here for the right."""
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
    """Every Motion of the sample, each named by its first wording. No wording is used for two of them."""
    motions = moving_motions() | standing_motions()
    for wordings, parts in sided_motions().items():
        motions[wordings.format(s="right")] = parts
        motions[wordings.format(s="left")] = [mirrored(part) for part in parts]
    return [Motion(wordings.split("; "), parts) for wordings, parts in motions.items()]


# ---- joints <-> codes ----


@dataclass(frozen=True)
class Codebook:
    """`centres` (128, 4, 69) float32: each code's 4 frames of features; `weights` (69,)."""

    centres: np.ndarray
    weights: np.ndarray
    joint_names: tuple


# k-means compares metres with metres a second and radians a second: these weights make them one distance.
WEIGHTS = np.array([0.7, 0.5, 0.4] + 22 * [1.0, 1.0, 1.0], np.float32)
GRID = 1e4  # features are compared as whole tenths of a millimetre, so sums are exact on every machine


def to_features(joints):
    """Joints (T, 22, 3) to features (T, 69).

    The root's rates in the frame of its heading (m/s ahead, m/s to the left, rad/s of left turn), then the
    joints in metres, heading taken out: left of the pelvis, above the floor, ahead of the pelvis.
    """
    across = joints[:, INDEX["left_hip"]] - joints[:, INDEX["right_hip"]]
    heading = np.arctan2(-across[:, 2], across[:, 0])  # (T,)
    back = rotation(-heading)
    local = joints - joints[:, :1] * [1, 0, 1]
    local = np.einsum("tij,tkj->tki", back, local)
    step = turned(back[:-1], np.diff(joints[:, 0], axis=0)) * FPS
    turn = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    rates = np.stack([step[:, 2], step[:, 0], turn * FPS], -1)
    rates = np.concatenate([rates, rates[-1:]])  # the last frame has no next one
    return np.concatenate([rates, local.reshape(len(joints), -1)], -1)


def to_windows(joints, weights):
    """Joints (T, 22, 3) to whole-number rows (T // 4, 276), one a token; frames left over are dropped."""
    rows = np.rint(to_features(joints) * weights * GRID)
    return rows[: len(rows) // WINDOW * WINDOW].reshape(-1, WINDOW * rows.shape[1])


def nearest(rows, centres):
    """Index (N,) of the nearest of `centres` (K, D) for each of `rows` (N, D)."""
    return (((centres**2).sum(1)) - 2 * rows @ centres.T).argmin(1)


def encode(joints, codebook):
    """Codes (T // 4,) of joints (T, 22, 3) in metres at 20 frames a second; ValueError if T < 4."""
    if joints.ndim != 3 or joints.shape[1:] != (len(JOINTS), 3) or len(joints) < WINDOW:
        raise ValueError(
            f"joints have shape {joints.shape}, expected (T, {len(JOINTS)}, 3) with T >= {WINDOW}"
        )
    centres = np.rint(codebook.centres * codebook.weights * GRID).reshape(len(codebook.centres), -1)
    return nearest(to_windows(joints, codebook.weights), centres.astype(float))


def decode(codes, codebook):
    """Joints (4 * T, 22, 3) in metres of codes (T,), starting over the origin and heading along z."""
    features = codebook.centres[np.asarray(codes)].reshape(-1, 69).astype(float)
    local = features[:, 3:].reshape(-1, len(JOINTS), 3)
    return to_world(local, features[:, 0], features[:, 1], features[:, 2])


def fit_codebook(clips, rounds=8):
    """k-means++ seeding and Lloyd's rounds over the windows of all clips (T, 22, 3): a Codebook."""
    rng = np.random.RandomState(CODEBOOK_SEED)
    rows = np.concatenate([to_windows(clip, WEIGHTS) for clip in clips])
    centres = rows[[rng.randint(len(rows))]]
    distance = np.full(len(rows), np.inf)
    while len(centres) < NUM_CODES:
        distance = np.minimum(distance, ((rows - centres[-1]) ** 2).sum(1))
        total = np.cumsum(distance**0.35)  # k-means++ has power 1; less leaves more codes to small motions
        pick = np.searchsorted(total, rng.random_sample() * total[-1], "right")
        centres = np.concatenate([centres, rows[[pick]]])
    for _ in range(rounds):
        codes = nearest(rows, centres)
        for code in range(NUM_CODES):
            if (codes == code).any():
                centres[code] = np.rint(rows[codes == code].sum(0) / (codes == code).sum())
    centres = centres.reshape(NUM_CODES, WINDOW, -1) / GRID / WEIGHTS
    return Codebook(centres.astype(np.float32), WEIGHTS, tuple(JOINTS))


def save_codebook(path, codebook):
    """Write `codebook` as .npz without pickles."""
    names = np.array(codebook.joint_names)
    np.savez(path, centres=codebook.centres, weights=codebook.weights, joint_names=names)


def load_codebook(path):
    """Read the Codebook that `save_codebook` wrote."""
    with np.load(path, allow_pickle=False) as f:
        return Codebook(f["centres"], f["weights"], tuple(f["joint_names"].tolist()))


# ---- clips, rows, files ----


def all_clips():
    """Every clip as (motion name, caption, participant, joints (T, 22, 3)), in the order of the file."""
    rng = np.random.RandomState(SEED)  # the legacy generator: its stream is promised never to change
    people = list(PARTICIPANTS)
    clips, subject = [], 0
    for motion in all_motions():
        for i, wording in enumerate(motion.wordings):
            caption = f"{SUBJECTS[i % len(SUBJECTS)]} {wording}"
            for take in range(TAKES):
                person = people[(subject + take) % len(people)]
                clips.append(
                    (motion.wordings[0], caption, person, make_clip(motion, PARTICIPANTS[person], rng))
                )
            subject += 1
    return clips


def to_rows(clips, codebook):
    """Rows of the JSON file: of each caption the first takes whose tokens no row before them has."""
    rows, seen, kept = [], set(), Counter()
    for _, caption, person, joints in clips:
        tokens = " ".join(str(code) for code in encode(joints, codebook))
        if tokens not in seen and kept[caption] < CLIPS_PER_CAPTION:
            rows.append({"text_query": caption, "motion_tokens": tokens, "participant_id": person})
            seen.add(tokens)
            kept[caption] += 1
    return rows


def write_sample(json_path, codebook_path):
    """Make the clips and the codebook and write both files; returns the rows written."""
    clips = all_clips()
    codebook = fit_codebook([joints for *_, joints in clips])
    rows = to_rows(clips, codebook)
    save_codebook(codebook_path, codebook)
    Path(json_path).write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8"
    )
    return rows


def main():
    JSON_PATH.parent.mkdir(exist_ok=True)
    rows = write_sample(JSON_PATH, CODEBOOK_PATH)
    lengths = [len(row["motion_tokens"].split()) for row in rows]
    captions = len({row["text_query"] for row in rows})
    print(f"{JSON_PATH}: {len(rows)} clips, {captions} captions, {min(lengths)} to {max(lengths)} tokens,"
          f" mean {np.mean(lengths):.1f}")  # fmt: skip
    print(f"{CODEBOOK_PATH}: {NUM_CODES} codes of {WINDOW} frames")


if __name__ == "__main__":
    main()
