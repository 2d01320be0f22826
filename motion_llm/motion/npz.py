"""Writes .npz files as AMASS (Mahmood et al. 2019) has them: rotations of SMPL-H's body, z up. amass.py reads them."""

from pathlib import Path

import numpy as np

from motion_llm.motion import humanml3d
from motion_llm.motion.amass import PELVIS
from motion_llm.motion.kinematics import quaternions_of
from motion_llm.motion.names import listed
from motion_llm.motion.retarget import retargeted
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.saving import saving

POSES, BETAS = 156, 16  # numbers of SMPL-H: rotations of 52 joints, of which the 30 of the hands stay 0; shape
Z_UP = np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)])  # from y up


def write_amass(path: str | Path, motion: Motion) -> None:
    """`poses` (T, 156): axes times angles in radians, from SMPL's T pose; `trans` (T, 3) metres, for the mean body:
    travel is scaled by its leg length; `betas` zeros, `gender` neutral. The figure must have HumanML3D's 22 joints, in
    any order, and tips, which such a file does not have. Raises MotionError for another one, OSError."""
    skeleton, ends = motion.skeleton, set(motion.skeleton.ends)
    parents = {name: "" if parent < 0 else skeleton.names[parent]
               for joint, (name, parent) in enumerate(zip(skeleton.names, skeleton.parents, strict=True))
               if joint not in ends}
    expected = {name: "" if parent < 0 else humanml3d.NAMES[parent]
                for name, parent in zip(humanml3d.NAMES, humanml3d.PARENTS, strict=True)}
    if parents != expected:
        wrong = [name for name in expected if parents.get(name) != expected[name]]
        wrong += [name for name in parents if name not in expected]
        raise MotionError(f"{path}: an AMASS file holds SMPL's body, whose 22 joints HumanML3D names (pelvis, left_hip "
                          f"and so on); missing, on another parent or besides them: {listed(wrong)}")
    motion = retargeted(motion, Skeleton(humanml3d.NAMES, humanml3d.PARENTS, humanml3d.OFFSETS))
    rotations = motion.rotations.copy()
    rotations[:, 0] = Z_UP @ rotations[:, 0]
    poses = np.zeros((len(motion), POSES))
    poses[:, :3 * len(humanml3d.NAMES)] = axis_angles_of(rotations).reshape(len(motion), -1)
    rate = np.array(float(motion.fps))
    with saving(path) as temporary, temporary.open("wb") as file:  # numpy would add .npz to a name in capitals
        np.savez(file, poses=poses, trans=motion.joints[:, 0] @ Z_UP.T - PELVIS["SMPL-H"], betas=np.zeros(BETAS),
                 gender=np.array("neutral"), mocap_framerate=rate, mocap_frame_rate=rate)


def axis_angles_of(matrices: np.ndarray) -> np.ndarray:
    """Matrices (..., 3, 3) to axes times angles (..., 3) in radians, 0 to pi."""
    quaternions = quaternions_of(matrices)
    quaternions = np.where(quaternions[..., :1] < 0, -quaternions, quaternions)
    sine = np.linalg.norm(quaternions[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternions[..., :1])
    return quaternions[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2)
