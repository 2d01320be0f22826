"""The codec of T2M-GPT (Zhang et al. 2023), which MotionGPT uses too, for HumanML3D's features (Guo et al. 2022).

Reads the checkpoints that its authors published. The checkpoints and the dataset's mean and deviation are not part of
this project. humanml3d.py at the top is its command line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from motion_llm.arrays import load_npy
from motion_llm.input_files import check_regular
from motion_llm.motion.checkpoint import Checkpoint, StoredTensor, Stub
from motion_llm.motion.codec import CodecError
from motion_llm.motion.humanml3d import FEATURES, FPS, joints_from_features, skeleton_of
from motion_llm.motion.kinematics import with_rotations
from motion_llm.motion.skeleton import Motion

PARTS = ("encoder", "decoder", "quantizer")  # of the network, with which its parameters' names begin


class HumanML3DCodec:
    """codes: K, the size of the codebook; window: frames a code. Made by load()."""

    def __init__(self, network, mean: np.ndarray, std: np.ndarray):
        self.network, self.mean, self.std = network.eval(), mean, std
        self.codes, self.window = len(network.quantizer.codebook), network.window

    @staticmethod
    def load(checkpoint: str | Path, mean: str | Path, std: str | Path) -> "HumanML3DCodec":
        """checkpoint: a torch file that has the network's parameters; mean, std: .npy files of the 263 numbers that it
        was trained with. Raises CodecError naming the file and what is wrong with it, and OSError."""
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
    numbers = load_npy(path, CodecError)
    if numbers.ndim != dimensions or numbers.shape[-1] != FEATURES:
        raise CodecError(f"{path} holds {numbers.shape}, expected {FEATURES} numbers"
                         + (" a frame" if dimensions > 1 else ""))
    if numbers.dtype.kind != "f" or not np.isfinite(numbers).all():
        raise CodecError(f"{path} holds values that are not finite numbers")
    return numbers.astype(float)


def _read_checkpoint(path: Path) -> dict:
    """Name -> parameter of a checkpoint. Names begin with encoder, decoder or quantizer; what the authors' models have
    before that is removed. Of the rest of the file nothing is loaded, and nothing is run."""
    import torch

    check_regular(path, CodecError)
    checkpoint = Checkpoint.read(path)
    content = checkpoint.content
    for name in ("net", "state_dict"):
        content = content.get(name, content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping):
        kind = content.name if isinstance(content, Stub) else type(content).__name__
        raise CodecError(f"{path} holds a {kind[:100]}, expected parameters by name under 'net' or 'state_dict'")
    tensors = {}
    for name, tensor in content.items():
        words = str(name).split(".")
        for part in PARTS:
            if part in words[:2] and isinstance(tensor, StoredTensor):
                tensors[".".join(words[words.index(part):])] = tensor
    arrays = checkpoint.arrays(tensors)
    if damaged := [name for name, numbers in arrays.items() if not np.isfinite(numbers).all()]:
        raise CodecError(f"{path} is damaged: {damaged[0][:60]} holds values that are not finite")
    return {name: torch.from_numpy(numbers) for name, numbers in arrays.items()}


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
    sizes = FEATURES, first.shape[0], len(codebook), codebook.shape[1], halvings, depth
    with torch.device("meta"):  # shapes alone, as a network of sizes that lie would take all memory
        expected = Network(*sizes).state_dict()
    for name in sorted(set(expected) | set(parameters)):
        if name not in parameters or name not in expected or parameters[name].shape != expected[name].shape:
            shape = tuple(parameters[name].shape) if name in parameters else "nothing"
            expected_shape = tuple(expected[name].shape) if name in expected else "nothing"
            raise CodecError(f"{path}: {name} is {shape}, expected {expected_shape}")
    network = Network(*sizes)
    network.load_state_dict(parameters)
    return network
