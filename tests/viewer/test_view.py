"""view.py: the page holds the motion to the millimetre, is small, loads nothing from elsewhere and draws without an
error; invalid input is refused."""

import base64
import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import walker
from conftest import run_script

import view
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.joints_file import read_joints
from motion_llm.motion.kinematics import resampled
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.sample import stick_figure
from motion_llm.viewer import files
from motion_llm.viewer import page as view_page
from motion_llm.viewer import video as view_video
from motion_llm.viewer.figure import Clip, Span

NASTY = '</script><b onclick="x">&amp; "quoted" \u2014 <!-- \\u003c'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def walk(seconds: float = 2.6, fps: float = 20.0) -> Motion:
    """The sample's figure, walking straight ahead."""
    gait = stick_figure.Gait(cycles=seconds / 1.15 + 1, period=1.15, stride=1.1)
    channels = stick_figure.gait_channels(gait, np.random.RandomState(0), 1.0, 1.0)
    motion = Motion(stick_figure.channels_to_joints(channels), stick_figure.FPS, stick_figure.skeleton())
    return cut(resampled(motion, fps), round(seconds * fps))


def cut(motion: Motion, frames: int) -> Motion:
    return Motion(motion.joints[:frames], motion.fps, motion.skeleton)


def clips_in(page: str) -> list[dict]:
    (data,) = re.findall(r'<script type="application/json" id="clips">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def unpacked(text: str, columns: int) -> np.ndarray:
    """Decodes view_page.packed as the page's script does: (T, columns) metres."""
    values, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(-(value + 1) // 2 if value & 1 else value // 2)
            value = shift = 0
    return np.cumsum(np.reshape(values, (-1, columns)), 0) / 1000


# The page


@pytest.mark.parametrize("motion", [walk(), Motion(walk().joints[:1] - [500, 3, 700], 20.0, walk().skeleton),
                                    Motion(walk().joints * [90, 1, -90], 120.0, walk().skeleton)],
                         ids=["walk", "one frame far away", "a long way"])
def test_the_data_in_the_page_is_the_motion_to_the_millimetre(motion):
    (clip,) = clips_in(view_page.page([Clip(motion)]))
    joints = unpacked(clip["joints"], 3 * clip["joint_count"]).reshape(motion.joints.shape)
    assert np.abs(joints - motion.joints).max() <= 0.0005 + 1e-9
    assert clip["fps"] == motion.fps and len(unpacked(clip["target"], 2)) == len(motion)


def test_a_number_of_every_length_comes_back():
    numbers = np.array([[0, 1, -1, 63, -64, 64, -65, 8191, -8192, 8192, 123456789, -987654321]]) / 1000
    assert np.array_equal(unpacked(view_page.packed(numbers), 12), numbers)


@pytest.mark.parametrize("fps", [20, 60])
def test_ten_seconds_of_22_joints_are_less_than_200_kb(fps):
    motion = walk(10, fps)
    assert len(motion) == 10 * fps
    assert len(view_page.page([Clip(motion, "a person walks", "50 tokens, 10.0 s")]).encode()) < 200_000


def test_a_caption_is_text_whatever_it_says():
    page, plain = (view_page.page([Clip(walk(), text, text)]) for text in (NASTY, "plain"))
    assert page.count("</script") == plain.count("</script") and "<b onclick" not in page
    assert clips_in(page)[0]["caption"] == clips_in(page)[0]["note"] == NASTY


def test_several_clips_stand_in_one_page_in_their_order():
    clips = clips_in(view_page.page([Clip(walk(1), "one"), Clip(walk(2), "two"), Clip(walk(1), "three")]))
    assert [clip["caption"] for clip in clips] == ["one", "two", "three"]
    assert len({(clip["reach"], clip["height"]) for clip in clips}) == 1  # of one size: seen from one distance


def test_the_page_has_the_sentences_of_a_scene():
    spans = (Span(0.0, 1.0, "walks"), Span(1.0, 7 / 3, NASTY))
    page = view_page.page([Clip(walk(), spans=spans), Clip(walk(1))])
    assert [clip["spans"] for clip in clips_in(page)] == [[[0.0, 1.0, "walks"], [1.0, 2.3333, NASTY]], []]
    assert page.count("</script") == view_page.page([Clip(walk())]).count("</script")


@pytest.mark.parametrize(("caption", "shown"), [
    ("walks, then sits", ""), ("a story", "a story"), ("walks", "walks"), ("", "")])
def test_a_caption_that_repeats_the_sentences_is_not_shown_beside_them(caption, shown):
    spans = (Span(0.0, 1.0, "walks"), Span(1.0, 2.0, "sits"))
    assert clips_in(view_page.page([Clip(walk(), caption, spans=spans)]))[0]["caption"] == shown
    assert clips_in(view_page.page([Clip(walk(), caption)]))[0]["caption"] == caption


def test_the_page_needs_nothing_from_elsewhere():
    page = view_page.page([Clip(walk(), "a person walks")])
    for address in ("http:", "https:", "//cdn", "src=", "href=", "@import", "url(", "fetch(", "import("):
        assert address not in page


def test_a_notebook_shows_the_page():
    snippet = view_page.NotebookView([Clip(walk(1), NASTY)], height=300)._repr_html_()
    (srcdoc,) = re.findall(r'^<iframe [^>]*height: 300px[^>]* srcdoc="([^"]*)"></iframe>$', snippet)
    assert html.unescape(srcdoc) == view_page.page([Clip(walk(1), NASTY)])


@pytest.mark.parametrize("make", [view_page.page, lambda clips: view_page.NotebookView(clips)._repr_html_(),
                                  lambda clips: list(view_video.frames_of(clips, 20, 64, "dark"))])
def test_no_clips_are_refused(make):
    with pytest.raises(MotionError, match="no clips"):
        make([])


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize("options", ["t=0.5&paused", "theme=dark&yaw=170&pitch=-5&zoom=3&speed=2&t=99&paused"])
def test_a_browser_draws_it_without_an_error(options, tmp_path):
    motion = walk()
    page = view_page.page([Clip(motion, NASTY, "2.6 s"), Clip(walk(1), "two")])
    page = page.replace("</body>", "<script>document.title = clips[0].joints.slice(-3).join(' ')</script></body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    result = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,600", "--virtual-time-budget=500", "--dump-dom",
         f"{(tmp_path / 'page.html').as_uri()}#{options}"], capture_output=True, text=True, timeout=120)
    document = result.stdout
    assert 'data-drawn="2"' in document and "data-error" not in document
    assert f'data-theme="{"dark" if "dark" in options else "light"}"' in document
    (title,) = re.findall("<title>(.*?)</title>", document)
    assert np.allclose([float(v) for v in title.split()], motion.joints[-1, -1], atol=0.0006)
    assert NASTY.split("<b")[1].split("\u2014")[0] not in document.split("<figcaption>")[1].split("</figcaption>")[0]
    assert "&lt;/script&gt;&lt;b onclick" in document


# Joints in files


def saved(path, array) -> str:
    np.save(path, array)
    return str(path)


def test_joints_come_back_from_their_file(tmp_path):
    motion = walk()
    files.write(tmp_path / "a.npy", [Clip(motion)])
    assert np.load(tmp_path / "a.npy").dtype == np.float32
    again = read_joints(tmp_path / "a.npy", 20.0)
    assert np.allclose(again.joints, motion.joints) and again.skeleton.names == motion.skeleton.names
    with pytest.raises(MotionError, match="holds one clip, there are 2"):
        files.write_joints(tmp_path / "b.npy", [Clip(motion), Clip(motion)])


def test_several_clips_in_a_format_of_one_are_numbered_files(tmp_path):
    clips = [Clip(walk(seconds)) for seconds in (1, 2, 3)]
    written = files.write(tmp_path / "walks.bvh", clips)
    assert [path.name for path in written] == ["walks_0.bvh", "walks_1.bvh", "walks_2.bvh"]
    assert [len(read_bvh(path)) for path in written] == [len(clip.motion) for clip in clips]
    assert [path.name for path in files.paths_of("x.npz", 11)][::5] == ["x_00.npz", "x_05.npz", "x_10.npz"]
    assert files.write(tmp_path / "walks.html", clips) == [tmp_path / "walks.html"]
    assert [path.name for path in files.paths_of("walks.png", 2)] == ["walks_0.png", "walks_1.png"]


def test_a_numbered_file_is_not_written_over_one_that_is_read(tmp_path, capsys):
    paths = files.write(tmp_path / "walks.bvh", [Clip(walk(1)), Clip(walk(2))])
    before = [path.read_bytes() for path in paths]
    flags = ["--bvh", str(paths[0]), "--bvh", str(paths[1]), "--output", str(tmp_path / "walks.bvh")]
    assert run_script(view, *flags) == 1
    assert "walks_0.bvh is a file that is read" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before


GOOD = np.zeros((5, 22, 3), np.float32)


@pytest.mark.parametrize(("array", "fps", "message"), [
    (np.zeros((5, 22)), 20, "expected numbers (T, J, 3)"),
    (np.zeros((5, 22, 4)), 20, "numbers (5, 22, 4), expected numbers (T, J, 3)"),
    (np.zeros((0, 22, 3)), 20, "(0, 22, 3)"),
    (np.zeros((5, 22, 3), complex), 20, "complex128"),
    (np.array([[["a"] * 3] * 22]), 20, "expected numbers"),
    (np.zeros((5, 24, 3)), 20, "24 joints, expected the 22 of HumanML3D's skeleton"),
    (np.full((5, 22, 3), np.nan), 20, "joints of frame 0 hold values that are not finite"),
    (GOOD, 0, "0 frames a second"),
])
def test_a_file_without_joints_is_refused(array, fps, message, tmp_path):
    with pytest.raises(MotionError, match=re.escape(message)) as error:
        read_joints(saved(tmp_path / "clip.npy", array), fps)
    assert "clip.npy" in str(error.value)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    objects, text, archive = tmp_path / "objects.npy", tmp_path / "text.npy", tmp_path / "archive.npz"
    np.save(objects, np.array([{"a": 1}], dtype=object))  # can only be read with pickle
    text.write_text("no array")
    np.savez(archive, a=GOOD, b=GOOD)
    for path in (objects, text, archive):
        with pytest.raises(MotionError, match=path.name):
            read_joints(path, 20)


def test_other_skeletons_come_from_json(tmp_path):
    path, joints = tmp_path / "skeleton.json", saved(tmp_path / "clip.npy", np.random.rand(4, 2, 3))
    path.write_text('{"names": ["Hips", "Spine"], "parents": [-1, 0]}')
    assert read_joints(joints, 30, path).skeleton.names == ("Hips", "Spine")
    for text in ("{", "[]", '{"names": ["a", "b"]}', '{"names": ["a", "b"], "parents": [-1]}',
                 '{"names": ["a", "b"], "parents": [-1, "0"]}', '{"names": ["a", "b"], "parents": [0, -1]}',
                 '{"names": ["a", "b"], "parents": [-1, 5]}'):
        path.write_text(text)
        with pytest.raises(MotionError, match="expected"):
            read_joints(joints, 30, path)


# Command line


def test_the_command_writes_a_page(tmp_path, capsys):
    first, second = saved(tmp_path / "first.npy", walk(1).joints), saved(tmp_path / "second.npy", walk(2).joints)
    output = tmp_path / "clips.html"
    assert run_script(view, "--joints", first, "--joints", second, "--caption", "a walk", "--fps", "10",
                      "--output", str(output)) == 0
    assert [(clip["caption"], clip["note"], clip["fps"]) for clip in clips_in(output.read_text(encoding="utf-8"))] == [
        ("a walk", "2.0 s", 10.0), ("second", "4.0 s", 10.0)]
    assert "2 clips" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--output", "clip.avi"], "expected a name that ends with .html, .gif, .mp4, .bvh, .glb, .npz, .npy, .png"),
    (["--output", "clip.html", "--fps", "0"], "--fps 0, expected frames a second"),
    (["--output", "clip.html", "--caption", "a", "--caption", "b"], "2 captions for 1 clips"),
    (["--output", "a.npy/clip.html"], "a.npy"),
    (["--output", "clip.html", "--tokens", " ", "--codec", "codec"], "--tokens is ' ', expected codes"),
])
def test_the_command_says_what_is_wrong(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script(view, "--joints", saved("a.npy", walk(1).joints), *arguments) == 1
    output = capsys.readouterr()
    assert message in output.err and output.out == "" and "Traceback" not in output.err


@pytest.mark.parametrize(("suffix", "missing", "message"), [
    ("gif", "PIL", "pip install pillow"), ("mp4", "PIL", "pip install pillow"), ("png", "PIL", "pip install pillow"),
    ("mp4", "imageio_ffmpeg", "pip install pillow imageio-ffmpeg")])
def test_a_missing_package_is_named(suffix, missing, message, tmp_path, monkeypatch):
    if missing != "PIL":
        pytest.importorskip("PIL")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(view_video.VideoError, match=message):
        files.write(tmp_path / f"clip.{suffix}", [Clip(walk(1))])


# Other programs' files


def bvh(tmp_path, name: str, scale: float = 0.01, **content) -> str:
    write_bvh(tmp_path / f"{name}.bvh", walker.walk(20, **content), scale)
    return str(tmp_path / f"{name}.bvh")


@pytest.mark.parametrize("suffix", [".bvh", ".glb", ".npz", ".npy", ".GLB"])
def test_every_output_is_written(suffix, tmp_path):
    clip = saved(tmp_path / "clip.npy", walk(1).joints)
    output = tmp_path / f"other{suffix}"
    assert run_script(view, "--joints", clip, "--output", str(output)) == 0
    magic = {".bvh": b"HIERARCHY", ".glb": b"glTF", ".npz": b"PK", ".npy": b"\x93NUMPY"}[suffix.lower()]
    assert output.read_bytes().startswith(magic)


def test_a_t_pose_for_other_programs(tmp_path):
    clip = bvh(tmp_path, "clip", arm=30)
    given, posed = tmp_path / "given.bvh", tmp_path / "posed.bvh"
    assert run_script(view, "--bvh", clip, "--rest_pose", "t", "--output", str(posed)) == 0
    assert run_script(view, "--bvh", clip, "--output", str(given)) == 0
    hand = walker.NAMES.index("left_hand")
    assert np.allclose(read_bvh(given).skeleton.offsets[hand], (0, -0.5, 0))
    assert np.allclose(read_bvh(posed).skeleton.offsets[hand], (0.5, 0, 0))
    assert np.abs(read_bvh(given).joints - read_bvh(posed).joints).max() < 1e-6
    assert run_script(view, "--bvh", clip, "--rest_pose", "t", "--output", str(tmp_path / "posed.glb")) == 0
    content = (tmp_path / "posed.glb").read_bytes()
    nodes = json.loads(content[20:20 + int.from_bytes(content[12:16], "little")])["nodes"]
    assert np.allclose(nodes[hand]["translation"], (0.5, 0, 0))


def test_another_figure_moves_instead(tmp_path):
    clip, output = bvh(tmp_path, "clip"), tmp_path / "out.bvh"
    figure = walker.walk(1)
    names = tuple(f"rig:{name.title().replace('_', '')}" for name in walker.NAMES)
    large = Skeleton(names, figure.skeleton.parents, 2 * figure.skeleton.offsets)
    write_bvh(tmp_path / "figure.bvh", Motion(2 * figure.joints, 30, large, figure.rotations))
    command = ["--bvh", clip, "--to", str(tmp_path / "figure.bvh"), "--output", str(output)]
    assert run_script(view, *command) == 0
    again = read_bvh(output)
    assert again.skeleton.names == names
    assert np.abs(again.joints - 2 * read_bvh(clip).joints).max() < 1e-5
    renamed = Skeleton(tuple(f"j{i}" for i in range(11)), large.parents, large.offsets)
    write_bvh(tmp_path / "figure.bvh", Motion(2 * figure.joints, 30, renamed, figure.rotations))
    (tmp_path / "map.json").write_text(json.dumps({name: f"j{i}" for i, name in enumerate(walker.NAMES)}))
    assert run_script(view, *command, "--map", str(tmp_path / "map.json")) == 0
    assert np.abs(read_bvh(output).joints - 2 * read_bvh(clip).joints).max() < 1e-5


@pytest.mark.parametrize(("arguments", "message"), [
    (["--to", "other.bvh", "--output", "x.bvh"], "clip to other.bvh: 0 joints have a counterpart"),
    (["--to", "other.bvh", "--map", "map.json", "--output", "x.bvh"], "the map names 'nose', no joint of the clip"),
    (["--map", "map.json", "--output", "x.bvh"], "--map map.json is for --to"),
    (["--rest_pose", "t", "--output", "x.npy"], "x.npy: --rest_pose t is for .bvh and .glb"),
    (["--bvh", "other.bvh", "--output", "x.glb"], "x.glb: a .glb file holds clips of one figure"),
    (["--output", "x.npz"], "x.npz: an AMASS file holds SMPL's body"),
    (["--bvh", "other.bvh", "--output", "x.npz"], "x_0.npz: an AMASS file holds SMPL's body"),
])
def test_what_other_programs_cannot_have_is_refused(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bvh(tmp_path, "clip")
    numbered = Skeleton(tuple(f"bone{i}" for i in range(11)), walker.PARENTS, walker.OFFSETS)
    write_bvh("other.bvh", Motion(walker.walk(5).joints, 30, numbered))
    (tmp_path / "map.json").write_text('{"nose": "bone1"}')
    assert run_script(view, "--bvh", "clip.bvh", *arguments) == 1
    output = capsys.readouterr()
    assert output.err.startswith("view.py: ") and message in output.err and len(output.err) <= 410
    assert not list(tmp_path.glob("x.*"))


def test_a_t_pose_of_a_figure_without_sides_is_refused_with_the_reason(tmp_path, capsys):
    numbered = Skeleton(tuple(f"bone{i}" for i in range(11)), walker.PARENTS, walker.OFFSETS)
    write_bvh(tmp_path / "clip.bvh", Motion(walker.walk(5).joints, 30, numbered))
    assert run_script(view, "--bvh", str(tmp_path / "clip.bvh"), "--rest_pose", "t", "--output",
                      str(tmp_path / "x.bvh")) == 1
    assert "x.bvh: no T-pose: the figure's limbs cannot be told" in capsys.readouterr().err


@pytest.mark.parametrize(("scale", "warned"), [(1.0, True), (0.01, False), (0.0001, True)])
def test_a_figure_of_an_unlikely_size_is_warned_of(scale, warned, tmp_path, caplog):
    clip = bvh(tmp_path, "clip", scale)  # read as centimetres: 1.4 cm, 1.4 m and 140 m high
    assert run_script(view, "--bvh", clip, "--output", str(tmp_path / "x.npy")) == 0
    assert [bool(re.search("clip.bvh: the figure is about .* m high: is --scale right", record.getMessage()))
            for record in caplog.records if "high" in record.getMessage()] == [True] * warned


def test_files_of_any_kind_are_shown(tmp_path):
    files.write(tmp_path / "a.npz", [Clip(walk(1))])
    assert run_script(view, "--motion", str(tmp_path / "a.npz"), "--motion", bvh(tmp_path, "b"), "--output",
                      str(tmp_path / "x.html")) == 0
    assert [clip["caption"] for clip in clips_in((tmp_path / "x.html").read_text(encoding="utf-8"))] == ["a", "b"]
