"""The codec of T2M-GPT (Zhang et al. 2023), which MotionGPT uses too, for HumanML3D's motions (Guo et al. 2022).

Reads the checkpoints that its authors published. The checkpoints and the dataset's mean and deviation are not part of
this project.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from motion_llm.motion.codec import CodecError
from motion_llm.motion.kinematics import with_rotations
from motion_llm.motion.skeleton import Motion, Skeleton

FPS, FEATURES = 20.0, 263  # frames a second, numbers of a frame
BODY = slice(4, 4 + 21 * 3)  # positions of all joints but the pelvis, relative to the floor under it and the heading
JOINTS = (  # name, index of the parent, offset from it in metres in a rest pose of our own: x left, y up, z ahead
    ("pelvis", -1, (0, 0, 0)), ("left_hip", 0, (0.06, -0.09, -0.01)), ("right_hip", 0, (-0.06, -0.09, -0.01)),
    ("spine1", 0, (0, 0.11, -0.03)), ("left_knee", 1, (0.04, -0.38, 0)), ("right_knee", 2, (-0.04, -0.38, 0)),
    ("spine2", 3, (0, 0.13, 0)), ("left_ankle", 4, (-0.01, -0.4, -0.04)), ("right_ankle", 5, (0.01, -0.4, -0.04)),
    ("spine3", 6, (0, 0.06, 0.02)), ("left_foot", 7, (0.03, -0.06, 0.12)), ("right_foot", 8, (-0.03, -0.06, 0.12)),
    ("neck", 9, (0, 0.21, -0.03)), ("left_collar", 9, (0.08, 0.12, -0.02)), ("right_collar", 9, (-0.08, 0.12, -0.02)),
    ("head", 12, (0, 0.08, 0.05)), ("left_shoulder", 13, (0.1, 0.03, -0.01)),
    ("right_shoulder", 14, (-0.1, 0.03, -0.01)), ("left_elbow", 16, (0.01, -0.26, -0.02)),
    ("right_elbow", 17, (-0.01, -0.26, -0.02)), ("left_wrist", 18, (0, -0.25, 0)), ("right_wrist", 19, (0, -0.25, 0)))
NAMES, PARENTS = tuple(name for name, _, _ in JOINTS), tuple(parent for _, parent, _ in JOINTS)


def joints_from_features(features: np.ndarray) -> np.ndarray:
    """Joints (T, 22, 3), metres, from features (T, 263): half the angle that the root turns right until the next frame;
    its step (x, z) to the next frame, relative to that frame's heading; the pelvis's height; the positions of the other
    joints, relative to the frame's heading. The remaining features (rotations, velocities, contacts) are not needed."""
    before = np.concatenate([np.zeros_like(features[:1]), features[:-1]])
    angle = -2 * np.cumsum(before[:, 0])  # to the left
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def turned(points: np.ndarray) -> np.ndarray:  # (T, n, 3)
        x, y, z = np.moveaxis(points, -1, 0)
        return np.stack([x * cos + z * sin, y, z * cos - x * sin], -1)

    steps = np.stack([before[:, 1], np.zeros(len(features)), before[:, 2]], -1)[:, None]
    root = np.cumsum(turned(steps), 0)  # (T, 1, 3)
    body = turned(features[:, BODY].reshape(len(features), 21, 3)) + root
    root[:, 0, 1] = features[:, 3]
    return np.concatenate([root, body], 1)


def skeleton_of(joints: np.ndarray) -> Skeleton:
    """The rest pose, with each bone as long as its mean length in joints (T, 22, 3)."""
    offsets = np.array([offset for _, _, offset in JOINTS], dtype=float)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1).mean(0)
    offsets[1:] *= (lengths / np.linalg.norm(offsets[1:], axis=1))[:, None]
    return Skeleton(NAMES, PARENTS, offsets)


class HumanML3DCodec:
    """codes: K, the size of the codebook; window: frames a code. Made by load()."""

    def __init__(self, network, mean: np.ndarray, std: np.ndarray):
        self.network, self.mean, self.std = network.eval(), mean, std
        self.codes, self.window = len(network.quantizer.codebook), network.window

    @staticmethod
    def load(checkpoint: str | Path, mean: str | Path, std: str | Path) -> "HumanML3DCodec":
        """checkpoint: a torch file of the network's parameters; mean, std: .npy files of the 263 numbers that it was
        trained with. Raises CodecError naming the file and what is wrong with it, and OSError."""
        network = _network_of(_read_checkpoint(Path(checkpoint)), Path(checkpoint))
        return HumanML3DCodec(network, read_numbers(Path(mean), 1), read_numbers(Path(std), 1))

    def encode(self, features: np.ndarray) -> list[int]:
        """T // window codes of features (T, 263), in the dataset's own scale. Raises CodecError."""
        import torch

        if features.ndim != 2 or features.shape[1] != FEATURES or len(features) < self.window:
            raise CodecError(f"features {features.shape}: expected (T, {FEATURES}), {self.window} frames or more")
        frames = (features[:len(features) // self.window * self.window] - self.mean) / self.std
        with torch.no_grad():
            latents = self.network.encoder(torch.from_numpy(frames).float().T[None])[0].T  # (T, D)
            return torch.cdist(latents, self.network.quantizer.codebook).argmin(1).tolist()

    def features(self, codes: Sequence[int]) -> np.ndarray:
        """Features (len(codes) * window, 263). Raises CodecError for no codes, or an invalid code."""
        import torch

        if not codes or not all(0 <= code < self.codes for code in codes):
            raise CodecError(f"codes {list(codes)[:20]}: expected one or more from 0 to {self.codes - 1}")
        with torch.no_grad():
            vectors = self.network.quantizer.codebook[torch.tensor(codes)]
            return self.network.decoder(vectors.T[None])[0].T.double().numpy() * self.std + self.mean

    def decode(self, codes: Sequence[int]) -> Motion:
        """The motion, 20 frames a second, with rotations and constant bone lengths. Raises CodecError."""
        joints = joints_from_features(self.features(codes))
        return with_rotations(Motion(joints, FPS, skeleton_of(joints)))


def read_numbers(path: Path, dimensions: int) -> np.ndarray:
    """A .npy file of (263,) numbers or, for 2 dimensions, (T, 263). Raises CodecError naming the file."""
    try:
        numbers = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CodecError(f"{path} is no .npy file of numbers (pickles are not read)") from error
    if not isinstance(numbers, np.ndarray) or numbers.ndim != dimensions or numbers.shape[-1] != FEATURES:
        raise CodecError(f"{path} holds {getattr(numbers, 'shape', 'several arrays')}, expected {FEATURES} numbers"
                         + (" a frame" if dimensions > 1 else ""))
    if numbers.dtype.kind != "f" or not np.isfinite(numbers).all():
        raise CodecError(f"{path} holds values that are not finite numbers")
    return numbers.astype(float)


def _read_checkpoint(path: Path) -> dict:
    """Name -> parameter of a checkpoint. Names begin with encoder, decoder or quantizer; what the authors' models have
    before that is removed."""
    import torch

    try:  # only tensors are read; for anything else torch raises the UnpicklingError of the standard library
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, torch.serialization.pickle.UnpicklingError) as error:
        raise CodecError(f"{path} is no checkpoint of tensors alone: {str(error).splitlines()[0]}") from None
    for name in ("net", "state_dict"):
        content = content.get(name, content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping):
        raise CodecError(f"{path} holds a {type(content).__name__}, expected parameters by name under 'net'")
    parameters = {}
    for name, tensor in content.items():
        words = str(name).split(".")
        for part in ("encoder", "decoder", "quantizer"):
            if part in words[:2]:
                parameters[".".join(words[words.index(part):])] = tensor
    return parameters


def _network_of(parameters: dict, path: Path):
    """A network with these parameters; its sizes are read from their names and shapes."""
    import torch

    from motion_llm.motion.humanml3d_network import Network  # imports torch, which takes seconds

    first, codebook = parameters.get("encoder.model.0.weight"), parameters.get("quantizer.codebook")
    if not torch.is_tensor(first) or first.ndim != 3 or not torch.is_tensor(codebook) or codebook.ndim != 2:
        raise CodecError(f"{path} has no vqvae.encoder.model.0.weight or no vqvae.quantizer.codebook, as expected")
    if first.shape[1] != FEATURES:
        raise CodecError(f"{path} is of {first.shape[1]} features a frame, expected HumanML3D's {FEATURES}")
    halvings = sum(f"encoder.model.{2 + i}.0.weight" in parameters for i in range(8))
    depth = sum(f"encoder.model.2.1.model.{i}.conv1.weight" in parameters for i in range(16))
    network = Network(FEATURES, first.shape[0], len(codebook), codebook.shape[1], halvings, depth)
    expected = network.state_dict()
    for name in sorted(set(expected) | set(parameters)):
        if name not in parameters or name not in expected or parameters[name].shape != expected[name].shape:
            shape = tuple(parameters[name].shape) if name in parameters else "nothing"
            expected_shape = tuple(expected[name].shape) if name in expected else "nothing"
            raise CodecError(f"{path}: {name} is {shape}, expected {expected_shape}")
    network.load_state_dict(parameters)
    return network
