"""A stick figure that moves: scripts of key poses and gaits to channels such as "right arm 90 degrees ahead", and
channels to joints. build.py makes the sample data with it.

Metres, 20 frames a second, y up, z ahead, x to the left. All random numbers come from the `rng` argument.
"""

from dataclasses import dataclass

import numpy as np

from motion_llm.motion.humanml3d import NAMES, PARENTS
from motion_llm.motion.skeleton import Skeleton

FPS = 20  # frames a second

# Bones, in metres. Offsets are (left, up, ahead) from the parent joint; the right side mirrors the left.
SPINE = {
    "spine1": (0, 0.11, -0.01),
    "spine2": (0, 0.13, 0),
    "spine3": (0, 0.06, 0.01),
    "neck": (0, 0.21, -0.02),
    "head": (0, 0.12, 0.04),
}
BEND = {"spine1": 0.4, "spine2": 0.7, "spine3": 0.9}  # share of the trunk's bend at a joint; 1 at the others
HIP, COLLAR, SHOULDER = (0.07, -0.06, 0.0), (0.07, 0.12, -0.02), (0.11, 0.03, -0.01)
TOE = (0.02, -0.06, 0.14)
THIGH = SHIN = 0.41
UPPER_ARM, FOREARM = 0.28, 0.26
PELVIS_HEIGHT, ANKLE_HEIGHT = 0.94, 0.08

# A pose is a value for each channel: angles in degrees, lengths in metres. go and turn move the whole body.
REST = dict(height=0, ahead=0, sway=0, lean=2, tilt=0, twist=0, go=0, turn=0)
HAND = dict(flex=5, abd=9, reach=0.97)  # relative to its shoulder; reach is a share of the arm's length
FOOT = dict(out=0.10, up=0, fwd=0)  # the ankle, relative to the point of the floor under the body
REST |= {f"{side}_{name}": value for side in "lr" for name, value in (HAND | FOOT).items()}
ANGLES = ("lean", "tilt", "twist", "turn", "l_flex", "r_flex", "l_abd", "r_abd")
SIGNED = ("sway", "tilt", "twist", "turn")  # positive to the left; mirroring a pose changes their sign
SIDES = {"l": ("left_", 1), "r": ("right_", -1)}


# ---- the body: channels -> joints ----


def vectors(*parts):
    """Vectors (T, n) from n components, each (T,) or a number."""
    return np.stack(np.broadcast_arrays(*parts), -1)


def rotation(yaw, pitch=0.0, roll=0.0):
    """Rotation matrices (T, 3, 3) from angles (T,) in radians: turn to the left, lean ahead, lean to the left."""
    (cy, cp, cr), (sy, sp, sr) = (f([yaw, 0 * yaw + pitch, 0 * yaw - roll]) for f in (np.cos, np.sin))
    rows = (
        vectors(cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp),
        vectors(cp * sr, cp * cr, -sp),
        vectors(cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp),
    )
    return np.stack(rows, -2)


def turned(matrices, points):
    """Points (T, 3), or one (3,), rotated by matrices (T, 3, 3)."""
    return np.einsum("tij,tj->ti", matrices, np.broadcast_to(points, (len(matrices), 3)))


def place_limb(start, target, upper, lower, pole):
    """Two-bone limb from `start` (T, 3) to `target` (T, 3), bent toward `pole`: its middle and end joint."""
    direction = target - start
    distance = np.linalg.norm(direction, axis=-1, keepdims=True)
    direction = direction / distance
    distance = np.clip(distance, abs(upper - lower) + 0.05, 0.999 * (upper + lower))
    along = (upper**2 + distance**2 - lower**2) / (2 * distance)  # law of cosines
    bend = pole - (pole * direction).sum(-1, keepdims=True) * direction
    bend /= np.linalg.norm(bend, axis=-1, keepdims=True)
    return start + along * direction + np.sqrt(upper**2 - along**2) * bend, start + distance * direction


def lower_body(ch):
    """Pelvis and legs, {joint: (T, 3)}. The pelvis is lowered where a leg would not reach the floor."""
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
        # In the air the foot is at a right angle to the shin, on the floor it lies flat.
        pitch = np.arctan2(knee[:, 2] - ankle[:, 2], knee[:, 1] - ankle[:, 1])
        pitch *= np.clip(ch[f"{s}_up"] / 0.15, 0, 1)
        toe = ankle + turned(rotation(0 * pitch, pitch), TOE * np.array([sign, 1, 1]))
        joints |= {side + "hip": hip, side + "knee": knee, side + "ankle": ankle, side + "foot": toe}
    return joints


def upper_body(ch, pelvis):
    """Trunk, head and arms, {joint: (T, 3)}, on a pelvis (T, 3). Hands are placed in the chest's frame."""
    joints, parent = {}, pelvis
    for name, offset in SPINE.items():
        share = BEND.get(name, 1.0)
        matrices = rotation(share * ch["twist"], share * ch["lean"], share * ch["tilt"])
        joints[name] = parent = parent + turned(matrices, offset)
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
    """Channels, a dict of (T,) arrays, to joints (T, 22, 3) in metres, with constant bone lengths."""
    ch = {name: np.radians(v) if name in ANGLES else v for name, v in channels.items()}
    joints = lower_body(ch)
    joints |= upper_body(ch, joints["pelvis"])
    joints = np.stack([joints[name] for name in NAMES], 1)
    return to_world(joints, ch["go"], ch["slide"], ch["turn"])


def skeleton():
    """The figure's Skeleton; in the rest pose it stands with hanging arms."""
    rest = {name: np.array([float(value)]) for name, value in (REST | {"slide": 0}).items()}
    joints = channels_to_joints(rest)[0]
    offsets = [joints[i] - joints[parent] if parent >= 0 else joints[i] for i, parent in enumerate(PARENTS)]
    return Skeleton(NAMES, PARENTS, np.array(offsets))


def to_world(joints, ahead, left, turn):
    """Body-frame joints (T, 22, 3), moved by rates (T,): m/s ahead and to the left, rad/s of turning left."""

    def path(rate):  # the rate of frame t applies until frame t + 1
        return np.concatenate([np.zeros_like(rate[:1]), np.cumsum(rate[:-1], 0)]) / FPS

    heading = rotation(path(turn))  # (T, 3, 3)
    position = path(turned(heading, vectors(left, 0, ahead)))
    return np.einsum("tij,tkj->tki", heading, joints) + position[:, None]


# ---- motions: a gait, or a script of key poses ----


@dataclass(frozen=True)
class Gait:
    """Steps. A cycle of two steps goes `stride` metres ahead, and `slide` metres and `spin` degrees to the left."""

    cycles: float
    period: float  # seconds a cycle
    stride: float = 0.0
    slide: float = 0.0
    spin: float = 0.0
    lift: float = 0.12
    stance: float = 0.6  # share of the cycle that a foot is on the floor; below 0.5 it is running
    arm_swing: float = 22.0
    pose: tuple = ()  # constant channels, as (name, value) pairs


@dataclass(frozen=True)
class Script:
    """Wordings of captions, and consecutive parts: each a Gait or key poses [(seconds, pose), ...]."""

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


def pose(**channels):
    """A key pose. The prefix `a_` is the acting (right) side, `b_` the left side, `ab_` both."""
    sides = {"a": "r", "b": "l", "ab": "rl"}
    key = {}
    for name, value in channels.items():
        head, _, tail = name.partition("_")
        key.update({f"{s}_{tail}": value for s in sides[head]} if tail else {name: value})
    return key


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
    """Channels (T,) eased from key to key, from rest or from a first key of 0 seconds, with a little noise."""
    first = keys[0][1] if keys[0][0] == 0 else {}
    times, values = [0.0], []
    for seconds, key in [(0, first), (rng.uniform(0.15, 0.25), first), *keys]:
        times.append(times[-1] + seconds / pace * np.exp(0.05 * rng.standard_normal()))
        scale = amplitude * (1 + 0.05 * rng.standard_normal())
        values.append({k: v + scale * (key.get(k, v) - v) for k, v in REST.items()})
        if len(values) > 1:  # position and heading stay until a key changes them
            values[-1] |= {k: amplitude * key[k] if k in key else values[-2][k] for k in ("go", "turn")}
    times = np.array(times[1:])
    clock = np.arange(int(times[-1] * FPS)) / FPS
    key = np.clip(np.searchsorted(times, clock, "right") - 1, 0, len(times) - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (clock - times[key]) / np.diff(times)[key])
    channels = {}
    for name in REST:
        track = np.array([v[name] for v in values], float)
        channels[name] = track[key] + ease * np.diff(track)[key]
    for name in ("go", "turn"):
        channels[name] = np.diff(channels[name], append=channels[name][-1]) * FPS
    channels["slide"] = 0 * clock
    return channels


def gait_channels(gait, rng, amplitude, pace):
    """Channels (T,) of steady steps. A foot on the floor moves back as fast as the body moves ahead."""
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


def make_clip(script, person, rng):
    """One clip (T, 22, 3) of a Script by a Participant, with random tempo, size and small sway."""
    pace = person.tempo * np.exp(0.05 * rng.standard_normal())
    amplitude = 1 + 0.08 * rng.standard_normal()
    parts = []
    for part in script.parts:
        is_gait = isinstance(part, Gait)
        make, size = (gait_channels, amplitude**0.5 * person.stride) if is_gait else (script_channels, amplitude)
        parts.append(make(part, rng, size, pace))
    channels = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    steps = len(channels["go"])
    seams = np.cumsum([len(p["go"]) for p in parts])[:-1]
    for seam in seams:  # blend the parts over 0.3 s
        a, b = max(seam - 3, 0), min(seam + 3, steps - 1)
        for track in channels.values():
            track[a : b + 1] = np.linspace(track[a], track[b], b - a + 1)

    def drift(size):  # a slow random wave
        return size * np.sin(2 * np.pi * (rng.uniform() + rng.uniform(0.2, 0.4) * np.arange(steps) / FPS))

    channels["lean"] += person.lean + drift(1.7)
    channels["tilt"] += drift(1.1)
    channels["height"] -= person.crouch
    for s in "lr":
        channels[f"{s}_flex"] += drift(4.0)
        channels[f"{s}_abd"] += person.arms + drift(2.5)
    return channels_to_joints(channels)
