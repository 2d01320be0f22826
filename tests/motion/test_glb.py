"""glb.py: a reader of its own, and forward kinematics, find the joints to a tenth of a millimetre; Khronos's validator
finds nothing wrong."""

import json
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest
from walker import WALKER, walk

from motion_llm.motion.glb import write_glb
from motion_llm.motion.kinematics import forward_kinematics, matrices_of_quaternions, with_rotations
from motion_llm.motion.rest_pose import in_t_pose
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

COMPONENTS = {5126: "<f4", 5121: "u1", 5123: "<u2"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}
VALIDATE = """
const {createRequire} = require('module'), fs = require('fs');
const validator = createRequire(process.argv[2] + '/')('gltf-validator');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[3])))
    .then(report => console.log(JSON.stringify(report.issues)));
"""


def parsed(path) -> tuple[dict, bytes]:
    """The JSON and the binary chunk."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    chunks, place = {}, 12
    while place < length:
        size, kind = struct.unpack("<I4s", content[place:place + 8])
        assert size % 4 == 0
        chunks[kind] = content[place + 8:place + 8 + size]
        place += 8 + size
    return json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]


def numbers(path, index: int) -> np.ndarray:
    scene, binary = parsed(path)
    accessor = scene["accessors"][index]
    start = scene["bufferViews"][accessor["bufferView"]]["byteOffset"]
    width, kind = WIDTHS[accessor["type"]], np.dtype(COMPONENTS[accessor["componentType"]])
    values = np.frombuffer(binary, kind, accessor["count"] * width, start)
    return values.reshape(-1, width)


def played(path, animation: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (T,), joints (T, J, 3) and quaternions (T, J, 4), w first, of an animation."""
    scene, _ = parsed(path)
    joints = scene["skins"][0]["joints"]
    parents = [-1] * len(joints)
    for i, node in enumerate(joints):
        for child in scene["nodes"][node].get("children", []):
            parents[joints.index(child)] = i
    content = scene["animations"][animation]
    times = numbers(path, content["samplers"][0]["input"])[:, 0].astype(float)
    translations = np.array([[scene["nodes"][node]["translation"] for node in joints]] * len(times), float)
    quaternions = np.array([[[1.0, 0, 0, 0]] * len(joints)] * len(times))
    for channel in content["channels"]:
        sampler = content["samplers"][channel["sampler"]]
        assert sampler["interpolation"] == "LINEAR"
        values, joint = numbers(path, sampler["output"]).astype(float), joints.index(channel["target"]["node"])
        if channel["target"]["path"] == "rotation":
            quaternions[:, joint] = values[:, [3, 0, 1, 2]]
        else:
            translations[:, joint] = values
    return times, forward_kinematics(matrices_of_quaternions(quaternions), translations, tuple(parents)), quaternions


def spinning() -> Motion:
    """The walker, whose left arm turns about itself three times and whose right hand slides along its arm."""
    motion = walk(90)
    rotations, arm = motion.rotations.copy(), WALKER.names.index("left_arm")
    angle = np.linspace(0, 6 * np.pi, 90)
    rotations[:, arm] = np.eye(3)
    rotations[:, arm, 0, 0] = rotations[:, arm, 2, 2] = np.cos(angle)
    rotations[:, arm, 0, 2], rotations[:, arm, 2, 0] = np.sin(angle), -np.sin(angle)
    translations = np.broadcast_to(WALKER.offsets, motion.joints.shape).copy()
    translations[:, 1] = motion.joints[:, 1]
    translations[:, WALKER.names.index("right_hand"), 1] += np.linspace(0, 0.2, 90)
    return Motion(forward_kinematics(rotations, translations, WALKER.parents), 30, WALKER, rotations)


@pytest.mark.parametrize("motion", [walk(), spinning(), in_t_pose(spinning()), walk(1), with_rotations(
    Motion(walk().joints, 25, WALKER))], ids=["walk", "spinning", "t pose", "one frame", "from joints"])
def test_the_joints_are_found_again_to_a_tenth_of_a_millimetre(motion, tmp_path):
    write_glb(tmp_path / "clip.glb", [motion], ["clip"])
    times, joints, quaternions = played(tmp_path / "clip.glb")
    assert np.abs(joints - motion.joints).max() < 1e-4
    np.testing.assert_allclose(times, np.arange(len(motion)) / motion.fps, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=-1), 1, atol=1e-6)
    assert (np.einsum("tjq,tjq->tj", quaternions[1:], quaternions[:-1]) > 0).all()  # the shorter way to the next frame


def test_a_motion_without_rotations_gets_them(tmp_path):
    motion = Motion(walk().joints, 30, WALKER)
    write_glb(tmp_path / "clip.glb", [motion], ["clip"])
    assert np.abs(played(tmp_path / "clip.glb")[1] - motion.joints).max() < 1e-4


def test_only_joints_that_leave_their_offset_are_translated(tmp_path):
    write_glb(tmp_path / "clip.glb", [spinning()], ["clip"])
    scene, _ = parsed(tmp_path / "clip.glb")
    moved = [scene["nodes"][channel["target"]["node"]]["name"] for channel in scene["animations"][0]["channels"]
             if channel["target"]["path"] == "translation"]
    assert moved == ["root", "hips", "right_hand"]


def test_the_skin_stands_in_the_rest_pose_and_every_joint_moves_a_part_of_it(tmp_path):
    write_glb(tmp_path / "clip.glb", [walk()], ["clip"])
    scene, _ = parsed(tmp_path / "clip.glb")
    inverse = numbers(tmp_path / "clip.glb", scene["skins"][0]["inverseBindMatrices"]).reshape(-1, 4, 4)
    rest = np.array([(0, 0, 0), (0, 0.9, 0), (0, 1.3, 0), (0.2, 1.3, 0)])  # root, hips, spine, left_arm
    np.testing.assert_allclose(inverse[:4, 3, :3], -rest, atol=1e-6)
    attributes = scene["meshes"][0]["primitives"][0]["attributes"]
    points, normals, bound, weights = (numbers(tmp_path / "clip.glb", attributes[name])
                                       for name in ("POSITION", "NORMAL", "JOINTS_0", "WEIGHTS_0"))
    assert set(bound[:, 0].tolist()) == set(range(1, 11))  # without the root, which is on the floor
    assert (weights == (1, 0, 0, 0)).all()
    left_hand = points[bound[:, 0] == WALKER.names.index("left_hand")]
    np.testing.assert_allclose(left_hand.mean(0), (0.2, 0.8, 0), atol=0.01)
    for part in range(0, len(points), 24):  # faces look outward
        centre = points[part:part + 24].mean(0)
        assert (((points[part:part + 24] - centre) * normals[part:part + 24]).sum(1) > 0).all()
    triangles = points.reshape(-1, 3, 3)
    across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert ((across * normals[::3]).sum(1) > 0).all()  # counter-clockwise


def test_clips_of_one_figure_are_animations_of_their_own_names(tmp_path):
    write_glb(tmp_path / "clip.glb", [walk(20), walk(30, arm=40), walk(10)], ["a walk", "", "a walk"])
    assert [animation["name"] for animation in parsed(tmp_path / "clip.glb")[0]["animations"]] == [
        "a walk 1", "clip", "a walk 2"]
    assert np.abs(played(tmp_path / "clip.glb", 1)[1] - walk(30, arm=40).joints).max() < 1e-4


@pytest.mark.parametrize("change", ["offsets", "names"])
def test_clips_of_several_figures_are_refused(change, tmp_path):
    names = WALKER.names if change == "offsets" else (*WALKER.names[:-1], "toe")
    other = Skeleton(names, WALKER.parents, WALKER.offsets * (1.001 if change == "offsets" else 1))
    motion = walk()
    with pytest.raises(MotionError, match="of one figure.*'tall'.*'a walk'.*write a file for each") as error:
        write_glb(tmp_path / "clip.glb", [motion, Motion(motion.joints, 30, other)], ["a walk", "tall"])
    assert not (tmp_path / "clip.glb").exists() and len(str(error.value)) <= 400


@pytest.mark.parametrize("motions", [[walk(), spinning()], [walk(1)], [Motion(
    np.zeros((2, 300, 3)), 30, Skeleton(tuple(map(str, range(300))), (-1, *range(299)), np.zeros((300, 3))))]],
    ids=["two clips", "one frame", "300 joints in one point"])
def test_the_validator_of_khronos_finds_nothing(motions, tmp_path):
    """The folder of node_modules with gltf-validator comes from GLTF_VALIDATOR or NODE_PATH."""
    folders = [os.environ.get("GLTF_VALIDATOR", ""), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    folder = next((path for path in folders if os.path.isdir(os.path.join(path, "gltf-validator"))), None)
    if folder is None or not shutil.which("node"):
        pytest.skip("no node, or no gltf-validator in GLTF_VALIDATOR or NODE_PATH")
    write_glb(tmp_path / "clip.glb", motions, ["a", 'b "ü"'][:len(motions)])
    (tmp_path / "validate.js").write_text(VALIDATE)
    (tmp_path / "node_modules").symlink_to(folder)
    done = subprocess.run(["node", str(tmp_path / "validate.js"), str(tmp_path), str(tmp_path / "clip.glb")],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    issues = json.loads(done.stdout)
    assert [issues[kind] for kind in ("numErrors", "numWarnings", "numInfos", "numHints")] == [0, 0, 0, 0], issues
