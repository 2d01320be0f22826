"""humanml3d.py: checkpoints with the published names and shapes load, features give back the joints."""

import argparse
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from humanml3d import main
from motion_llm.motion.bvh import read_bvh
from motion_llm.motion.checkpoint import Checkpoint
from motion_llm.motion.codec import CodecError
from motion_llm.motion.humanml3d import JOINTS, NAMES, PARENTS, joints_from_features, skeleton_of
from motion_llm.motion.humanml3d_codec import HumanML3DCodec
from motion_llm.motion.kinematics import forward_kinematics, matrices_of


def parameters(width: int = 16, latent: int = 12, codes: int = 20) -> dict[str, torch.Tensor]:
    """Random parameters under the published names: two halvings of time, three residual blocks each."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def conv(name: str, outputs: int, inputs: int, frames: int):
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, frames, generator=generator) / (inputs * frames)**0.5
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 10

    def blocks(name: str):
        for i in range(3):
            conv(f"{name}.model.{i}.conv1", width, width, 3)
            conv(f"{name}.model.{i}.conv2", width, width, 1)

    conv("vqvae.encoder.model.0", width, 263, 3)
    conv("vqvae.decoder.model.0", width, latent, 3)
    for i in (2, 3):
        conv(f"vqvae.encoder.model.{i}.0", width, width, 4)
        blocks(f"vqvae.encoder.model.{i}.1")
        blocks(f"vqvae.decoder.model.{i}.0")
        conv(f"vqvae.decoder.model.{i}.2", width, width, 3)
    conv("vqvae.encoder.model.4", latent, width, 3)
    conv("vqvae.decoder.model.4", width, width, 3)
    conv("vqvae.decoder.model.6", 263, width, 3)
    tensors["vqvae.quantizer.codebook"] = torch.randn(codes, latent, generator=generator)
    return tensors


@pytest.fixture
def files(tmp_path):
    torch.save({"net": parameters()}, tmp_path / "net.pth")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mean.npy", rng.normal(size=263).astype(np.float32))
    np.save(tmp_path / "std.npy", rng.uniform(0.5, 2, 263).astype(np.float32))
    return [tmp_path / name for name in ("net.pth", "mean.npy", "std.npy")]


def test_a_checkpoint_loads_whatever_stands_before_its_names(files, tmp_path):
    codec = HumanML3DCodec.load(*files)
    assert (codec.codes, codec.window) == (20, 4)
    renamed = {f"vae{name.removeprefix('vqvae')}": tensor for name, tensor in parameters().items()}
    torch.save({"state_dict": renamed | {"lm.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    again = HumanML3DCodec.load(tmp_path / "other.ckpt", *files[1:])
    np.testing.assert_array_equal(again.features([1, 2, 3]), codec.features([1, 2, 3]))


class Settings(dict):
    """A class of the program that trained, as omegaconf's are."""


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "harm")


@pytest.mark.parametrize("protocol", [2, 5])
def test_tensors_beside_other_objects_are_read_and_the_objects_are_not_made(files, tmp_path, protocol):
    bomb = Bomb(tmp_path / "harm.txt")
    content = {"epoch": 3, "callbacks": {"best": bomb, "order": Counter(a=1), "seen": {1, 2}, "flat": frozenset((3,))},
               "hyper_parameters": Settings(cfg=argparse.Namespace(stage="lm"), bomb=bomb, paths=[Path("a"), None]),
               "state_dict": {**parameters(), "vqvae.quantizer.bomb": bomb}, "numbers": np.zeros(3),
               "lr": (1e-4, 2**70, b"\0", True)}
    torch.save(content, tmp_path / "light.ckpt", pickle_protocol=protocol)
    codec = HumanML3DCodec.load(tmp_path / "light.ckpt", *files[1:])
    assert codec.features([1, 2, 3]).tolist() == HumanML3DCodec.load(*files).features([1, 2, 3]).tolist()
    assert not (tmp_path / "harm.txt").exists()


def test_a_checkpoint_gives_each_tensor_as_torch_has_it(tmp_path):
    matrix = torch.arange(24.0).reshape(4, 6)
    tensors = {"part": matrix[1:3, ::2], "turned": matrix.T, "nothing": torch.zeros(0, 3), "one": torch.tensor(3),
               "small": matrix.bfloat16() / 3, "half": matrix.half(), "flags": matrix > 3, "bytes": matrix.byte(),
               "parameter": torch.nn.Parameter(matrix.double())}
    torch.save([tensors], tmp_path / "tensors.pt")
    checkpoint = Checkpoint.read(tmp_path / "tensors.pt")
    arrays = checkpoint.arrays(checkpoint.content[0])
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(torch.from_numpy(arrays[name]), tensor.float() if name == "small" else tensor.detach()), name


def test_a_damaged_checkpoint_is_refused_in_one_line(files, tmp_path):
    whole = files[0].read_bytes()
    for name, content in (("half.pth", whole[:len(whole) // 2]), ("empty.pth", b""),
                          ("changed.pth", whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))):
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        file.writestr("a/readme", "no checkpoint")
    with zipfile.ZipFile(tmp_path / "steps.pth", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}(K\x01.")
    with zipfile.ZipFile(tmp_path / "end.pth", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}")
    for name, message in (("half.pth", "or is damaged: File is not a zip file"),
                          ("empty.pth", "or is damaged: File is not a zip file"),
                          ("changed.pth", "or is damaged: Bad CRC-32"), ("other.pth", "without data.pkl"),
                          ("steps.pth", "holds a int"), ("end.pth", "its pickle cannot be followed")):
        with pytest.raises(CodecError, match=re.escape(message)) as caught:
            HumanML3DCodec.load(tmp_path / name, *files[1:])
        text = str(caught.value)
        assert str(tmp_path / name) in text and len(text) <= 400 and text.isprintable(), text


def test_codes_are_the_nearest_of_what_the_encoder_says(files):
    codec = HumanML3DCodec.load(*files)
    features = np.random.default_rng(1).normal(size=(30, 263))
    codes = codec.encode(features)
    assert len(codes) == 7 and len(set(codes)) > 1
    scaled = torch.from_numpy((features[:28] - codec.mean) / codec.std).float()
    latents = encoder_by_hand(parameters(), scaled.T[None])[0].T
    codebook = parameters()["vqvae.quantizer.codebook"]
    assert codes == [int((codebook - latent).square().sum(1).argmin()) for latent in latents]


def encoder_by_hand(tensors: dict, x: torch.Tensor) -> torch.Tensor:
    """The encoder after its paper and its parameters' names."""
    conv = torch.nn.functional.conv1d

    def part(name: str) -> list[torch.Tensor]:
        return [tensors[f"vqvae.encoder.model.{name}.{kind}"] for kind in ("weight", "bias")]

    x = torch.relu(conv(x, *part("0"), padding=1))
    for i in (2, 3):
        x = conv(x, *part(f"{i}.0"), stride=2, padding=1)
        for j, dilation in enumerate((1, 3, 9)):
            inner = conv(torch.relu(x), *part(f"{i}.1.model.{j}.conv1"), padding=dilation, dilation=dilation)
            x = x + conv(torch.relu(inner), *part(f"{i}.1.model.{j}.conv2"))
    return conv(x, *part("4"), padding=1)


def test_the_decoders_blocks_reach_less_and_less_far(files):
    blocks = HumanML3DCodec.load(*files).network.decoder.model[2][0].model
    assert [block.conv1.dilation[0] for block in blocks] == [9, 3, 1]


def test_a_decoded_motion_has_bones_of_one_length_and_can_be_written(files, tmp_path, capsys):
    motion = HumanML3DCodec.load(*files).decode([3, 1, 4, 1, 5])
    assert len(motion) == 20 and motion.fps == 20 and motion.skeleton.names == NAMES
    lengths = np.linalg.norm(motion.joints[:, 1:] - motion.joints[:, PARENTS[1:]], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-9)
    flags = ["--checkpoint", str(files[0]), "--mean", str(files[1]), "--std", str(files[2])]
    assert main(["decode", *flags, "--tokens", "3 1 4 1 5", "--output", str(tmp_path / "clip.bvh")]) == 0
    again = read_bvh(tmp_path / "clip.bvh")
    order = [again.skeleton.names.index(name) for name in NAMES]
    np.testing.assert_allclose(again.joints[:, order], motion.joints, atol=1e-5)
    np.save(tmp_path / "clip.npy", np.zeros((12, 263)))
    capsys.readouterr()
    assert main(["encode", *flags, "--features", str(tmp_path / "clip.npy")]) == 0
    assert len(capsys.readouterr().out.split()) == 3


def features_by_hand(joints: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """The features that joints_of reads, for joints (T, 22, 3) that face `heading` (T,), radians to the left of z."""
    features = np.zeros((len(joints), 263))
    matrices = matrices_of(-np.degrees(heading)[:, None], "Y")
    features[:-1, 0] = -np.diff(heading) / 2
    steps = (matrices[1:] @ np.diff(joints[:, 0], axis=0)[..., None])[..., 0]  # relative to the next heading
    features[:-1, 1:3] = steps[:, [0, 2]]
    features[:, 3] = joints[:, 0, 1]
    local = np.einsum("tij,tnj->tni", matrices, joints[:, 1:] - joints[:, :1] * (1, 0, 1))
    features[:, 4:67] = local.reshape(len(joints), -1)
    return features


def test_features_become_the_joints_that_they_were_made_of():
    rng = np.random.default_rng(0)
    heading = 0.1 * np.arange(50)
    angles = np.cumsum(rng.normal(scale=2, size=(50, 22, 3)), 0)
    angles[:, 0] = np.stack([np.degrees(heading), 0 * heading, 0 * heading], -1)
    translations = np.broadcast_to([offset for _, _, offset in JOINTS], (50, 22, 3)).astype(float).copy()
    translations[:, 0] = np.stack([np.sin(heading), 0.9 + 0.05 * np.sin(3 * heading), np.cos(heading) - 1], -1)
    joints = forward_kinematics(matrices_of(angles, "YXZ"), translations, PARENTS)
    result = joints_from_features(features_by_hand(joints, heading))
    np.testing.assert_allclose(result, joints, atol=1e-9)
    np.testing.assert_allclose(skeleton_of(result).offsets[1:], [offset for _, _, offset in JOINTS[1:]], atol=1e-9)


def test_what_is_no_such_checkpoint_is_refused(files, tmp_path):
    def saved(content) -> str:
        torch.save(content, tmp_path / "bad.pth")
        return str(tmp_path / "bad.pth")

    tensors = parameters()
    kit_ml = tensors | {"vqvae.encoder.model.0.weight": torch.zeros(16, 251, 3)}  # KIT-ML has 251 features
    incomplete = {name: tensor for name, tensor in tensors.items() if "decoder.model.6" not in name}
    (tmp_path / "text.pth").write_text("no checkpoint")
    for path, message in ((saved({"net": kit_ml}), "251 features a frame, expected HumanML3D's 263"),
                          (str(tmp_path / "text.pth"), "is no checkpoint that torch.save wrote")):
        with pytest.raises(CodecError, match=re.escape(path) + ".*" + re.escape(message)):
            HumanML3DCodec.load(path, *files[1:])
    for content, message in (({"net": incomplete}, "decoder.model.6.bias is nothing, expected (263,)"),
                             ({"net": {}}, "has no vqvae.encoder.model.0.weight or no"),
                             ([1], "holds a list, expected parameters by name"),
                             (files[0], "holds a pathlib PosixPath, expected parameters by name")):
        with pytest.raises(CodecError, match=re.escape(message)):
            HumanML3DCodec.load(saved(content), *files[1:])
    np.save(tmp_path / "short.npy", np.zeros(251))
    with pytest.raises(CodecError, match=re.escape("short.npy holds (251,), expected 263 numbers")):
        HumanML3DCodec.load(files[0], tmp_path / "short.npy", files[2])
    codec = HumanML3DCodec.load(*files)
    for call, message in ((lambda: codec.encode(np.zeros((8, 251))), "features (8, 251)"),
                          (lambda: codec.encode(np.zeros((3, 263))), "4 frames or more"),
                          (lambda: codec.decode([]), "expected one or more"),
                          (lambda: codec.decode([20]), "from 0 to 19")):
        with pytest.raises(CodecError, match=re.escape(message)):
            call()


def test_a_checkpoint_of_absurd_sizes_takes_no_memory(files, tmp_path):
    tensors = parameters()
    for name, tensor, message in (
            ("vqvae.encoder.model.0.weight", torch.zeros(1).expand(10**6, 263, 3), "damaged: .*of 1 numbers"),
            ("vqvae.quantizer.codebook", torch.zeros(1).expand(10**8, 12), "damaged: .*of 1 numbers"),
            ("vqvae.encoder.model.0.weight", torch.zeros(60_000, 263, 1), "model.0.bias is .16,., expected .60000"),
            ("vqvae.quantizer.codebook", torch.full((20, 12), float("nan")), "codebook holds values that are not")):
        torch.save({"net": tensors | {name: tensor}}, tmp_path / "lies.pth")
        with pytest.raises(CodecError, match=r"lies\.pth.*" + message):
            HumanML3DCodec.load(tmp_path / "lies.pth", *files[1:])


def test_a_packed_checkpoint_is_refused(files, tmp_path):
    """torch packs none, and a packed one may have any size."""
    torch.save({"net": parameters()}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(
            tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CodecError, match=r"packed\.pth is damaged: .*is packed"):
        HumanML3DCodec.load(tmp_path / "packed.pth", *files[1:])
