"""Reads .npz files of SMPL's family of bodies, as AMASS (Mahmood et al. 2019) has them: SMPL, SMPL-H, SMPL-X.

The body models are not part of this project. Without one, the figure is HumanML3D's 22 joints with a mean skeleton of
our own; with a body model's file it has the model's joints, hands too, and the person's shape.
"""

import logging
from functools import cache
from pathlib import Path

import numpy as np

from motion_llm.arrays import Archive
from motion_llm.motion import humanml3d
from motion_llm.motion.kinematics import forward_kinematics, turned_up
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
OTHER_NAMES = {"global_orient": "root_orient", "body_pose": "pose_body", "transl": "trans",  # the package smplx
               "smpl_poses": "poses", "smpl_trans": "trans"}  # AIST++
MOST_TURN = 4 * np.pi  # radians; a rotation is less than one turn, and AMASS has some of almost two
MOST_FPS = 1e5
RATES = "mocap_framerate", "mocap_frame_rate", "framerate", "fps"  # AMASS's for SMPL-H, for SMPL-X; others'
ROOT, BODY = humanml3d.NAMES[:1], humanml3d.NAMES[1:]
HANDS = tuple(f"{side}_{finger}{joint}" for side in ("left", "right")
              for finger in ("index", "middle", "pinky", "ring", "thumb") for joint in (1, 2, 3))
JAW, EYES = ("jaw",), ("left_eye", "right_eye")
MODELS = {  # joints of each model, in the order of its rotations
    "SMPL": (*ROOT, *BODY, "left_hand", "right_hand"),
    "SMPL-H": (*ROOT, *BODY, *HANDS),
    "SMPL-X": (*ROOT, *BODY, *JAW, *EYES, *HANDS)}
WHOLE = {3 * len(joints): joints for joints in (*MODELS.values(), ROOT + BODY)}  # numbers a frame of `poses`
PARTS = {"root_orient": ROOT, "pose_body": BODY, "pose_hand": HANDS, "pose_jaw": JAW, "pose_eye": EYES}
# Metres, rounded: where a model's pelvis is before `trans` is added. Used where no body model tells it.
PELVIS = {"SMPL-H": (0, -0.24, 0.03), "SMPL-X": (0, -0.35, 0.01)}


def read_amass(path: str | Path, fps: float | None = None, body_model: str | Path | None = None,
               up: str = "z") -> Motion:
    """Reads `poses` (T, 66, 72, 156 or 165), or `root_orient` (T, 3), `pose_body` (T, 63) and further parts: axes times
    angles in radians; `trans` (T, 3), metres; `mocap_framerate` or `mocap_frame_rate`, for which fps stands in.

    body_model: a body model's .npz file; {gender} in its name stands for the motion file's gender, {GENDER} for the
    same in capitals. Without it, hands and shape are left out. up: the axis of the recording that points up. The motion
    has rotations, from the models' T pose. Raises MotionError naming the file; OSError.
    """
    path = Path(path)
    with _Archive(path) as file:
        turns = _turns(file)
        frames = len(turns["pelvis"])
        if (largest := max(float(np.linalg.norm(turn, axis=1).max()) for turn in turns.values())) > MOST_TURN:
            file.fail(f"a rotation by {largest:.3g}, expected axes times angles in radians: are these degrees?")
        trans = file.numbers("trans", (frames, 3))
        rate = next((_rate(file, name) for name in RATES if name in file.names), fps)
        if rate is None:
            file.fail(f"without {' or '.join(RATES[:2])}: the frames a second must be given (--rate of codec.py, "
                      "--fps of view.py)")
        if body_model is None:
            _say_once("%s: without --body_model, the 22 joints of a mean figure; hands and shape are left out",
                      "AMASS, SMPL-X")
            names, parents, rest = humanml3d.NAMES, humanml3d.PARENTS, humanml3d.OFFSETS
            start = PELVIS["SMPL-X" if "jaw" in turns else "SMPL-H"]
        else:
            names, parents, positions = _shaped(file, body_model)
            if not set(turns) <= set(names):
                file.fail(f"rotations of {len(turns)} joints ({_kind(tuple(turns))}), but {body_model} has "
                          f"{len(names)} ({_kind(names)})")
            rest = positions - positions[np.maximum(parents, 0)]
            start = positions[0]
    rotations = np.stack([_matrices(turns.get(name, np.zeros((frames, 3)))) for name in names], 1)
    # Only the world turns: the models' rest pose has y up in every recording. A matrix's columns turn as points do.
    columns, _ = turned_up(np.swapaxes(rotations[:, 0], 1, 2), None, up)
    rotations[:, 0] = np.swapaxes(columns, 1, 2)
    translations = np.broadcast_to(rest, (frames, *rest.shape)).copy()
    translations[:, 0], _ = turned_up(trans + start, None, up)
    joints = forward_kinematics(rotations, translations, parents)
    try:
        return Motion(joints.astype(np.float32), rate, Skeleton(names, parents, rest), rotations.astype(np.float32))
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from None


def _rate(file: "_Archive", name: str) -> float:
    """Frames a second, which some files hold as text."""
    value = file[name]
    if value.dtype.kind in "US" and value.size == 1:
        text = value.flat[0].decode("latin-1") if value.dtype.kind == "S" else str(value.flat[0])
        try:
            rate = float(text)
        except ValueError:
            file.fail(f"{name} is {text[:40]!r}, expected frames a second")
    else:
        rate = float(file.numbers(name).flat[0])
    if not 0 < rate < MOST_FPS:
        file.fail(f"{rate} frames a second: expected more than 0, and less than {MOST_FPS:,.0f} ({name})")
    return rate


class _Archive(Archive):
    """The arrays of an .npz file, as numbers."""

    def __init__(self, path: Path):
        super().__init__(path, MotionError)
        # Other packages' names of the same arrays, where ours are not there.
        self.own_names = {ours: theirs for theirs, ours in OTHER_NAMES.items()
                          if theirs in self.names and ours not in self.names}
        self.names |= set(self.own_names)

    def __getitem__(self, name: str) -> np.ndarray:
        return super().__getitem__(self.own_names.get(name, name))

    def numbers(self, name: str, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
        """Finite numbers, float64. shape: as expected; None in it stands for any size."""
        numbers = self[name]
        fits = shape is None or numbers.ndim == len(shape) and all(
            expected in (None, size) for size, expected in zip(numbers.shape, shape, strict=True))
        if numbers.dtype.kind not in "fiu" or not numbers.size or not fits:
            expected = "numbers" if shape is None else f"numbers {shape}".replace("None", "any")
            self.fail(f"{name} is {numbers.dtype} {numbers.shape}, expected {expected}")
        if not np.isfinite(numbers).all():
            self.fail(f"{name} holds values that are not finite, the first in row "
                      f"{int(np.argwhere(~np.isfinite(numbers))[0].flat[0]) if numbers.ndim else 0}")
        return numbers.astype(float)


def _turns(file: _Archive) -> dict[str, np.ndarray]:
    """Joint -> axes times angles (T, 3), of the joints that the file has rotations of."""
    if "poses" in file.names:
        poses = file.numbers("poses")
        if poses.ndim == 3 and poses.shape[2] == 3:
            poses = poses.reshape(len(poses), -1)
        if poses.ndim != 2:
            file.fail(f"poses {poses.shape}, expected (T, 3 J) or (T, J, 3): axes times angles of J joints")
        if poses.shape[1] not in WHOLE:
            file.fail(f"poses {poses.shape}, expected (T, {', '.join(map(str, sorted(WHOLE)))}): SMPL's, SMPL-H's or "
                      "SMPL-X's rotations")
        return {name: poses[:, 3 * i:3 * i + 3] for i, name in enumerate(WHOLE[poses.shape[1]])}
    missing = [name for name in ("root_orient", "pose_body") if name not in file.names]
    if missing:
        file.fail(f"no poses, and no {' and '.join(missing)}, but {', '.join(sorted(file.names))[:120]}: expected an "
                  "AMASS motion")
    turns, frames = {}, None
    for part, names in PARTS.items():
        if part in file.names:
            numbers = file.numbers(part, (frames, 3 * len(names)))
            frames = len(numbers)
            turns |= {name: numbers[:, 3 * i:3 * i + 3] for i, name in enumerate(names)}
    return turns


def _shaped(file: _Archive, body_model: str | Path) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """Names, parents and rest positions (J, 3) of a body model's joints, in the shape of the file's person."""
    body_path = str(body_model)
    if "{gender}" in body_path or "{GENDER}" in body_path:
        gender = file["gender"].flat[0]
        gender = (gender.decode("ascii", "replace") if isinstance(gender, bytes) else str(gender)).lower()
        if gender not in ("female", "male", "neutral"):
            file.fail(f"gender is {gender[:40]!r}, expected female, male or neutral")
        body_path = body_path.replace("{gender}", gender).replace("{GENDER}", gender.upper())
    with _Archive(Path(body_path)) as model:
        template = model.numbers("v_template", (None, 3))
        shapes = model.numbers("shapedirs", (len(template), 3, None))
        regressor = model.numbers("J_regressor", (None, len(template)))
        parents = model.numbers("kintree_table", (2, len(regressor)))[0].astype(int)
    parents[0] = -1  # in the files it is the largest number that there is
    names = next((joints for joints in MODELS.values() if len(joints) == len(regressor)), None)
    if names is None:
        raise MotionError(f"{body_path}: {len(regressor)} joints, expected those of "
                          f"{', '.join(f'{kind} ({len(joints)})' for kind, joints in MODELS.items())}")
    if "betas" in file.names:
        betas = file.numbers("betas").reshape(-1)
        if file["betas"].ndim > 1 and len(file["betas"]) > 1:
            file.fail(f"betas {file['betas'].shape}, expected one shape for all frames")
        count = min(len(betas), shapes.shape[2])
        if betas[count:].any():
            _say_once("%s has %d shape directions, fewer than the motions' betas: the rest are left out", body_path,
                      count)
        template = template + shapes[:, :, :count] @ betas[:count]
    if not all(0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise MotionError(f"{body_path}: kintree_table {parents[:8]}..., expected a parent before its children")
    return names, tuple(parents.tolist()), regressor @ template


def _matrices(turns: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) of axes times angles (T, 3) in radians (Rodrigues 1840)."""
    angle = np.linalg.norm(turns, axis=1)[:, None, None]
    x, y, z = (turns / np.maximum(angle[:, 0], 1e-12)).T
    cross = np.zeros((len(turns), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= np.swapaxes(cross, 1, 2)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def _kind(names: tuple[str, ...]) -> str:
    return next((kind for kind, joints in MODELS.items() if set(joints) == set(names)), "a part of a model")


@cache
def _say_once(text: str, *values: object) -> None:
    """A folder may have thousands of files, of which all the same is to be said."""
    log.info(text, *values)
