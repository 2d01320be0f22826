"""What the codec in a model's folder makes of codes and of motions: figures, joints in space, and codes again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.files import read_motion
from motion_llm.motion.finishing import closing_jerk
from motion_llm.motion.skeleton import Motion, MotionError
from motion_llm.motion.splicing import spliced
from motion_llm.streams import Value
from motion_llm.viewer.figure import Clip


class CodecFigures:
    """codec_folder: in a model's folder. Every method raises MotionError where there is none and for motions that do
    not fit the codec, CodecError for a damaged codec and for codes that it does not have."""

    def __init__(self, codec_folder: Path):
        self.codec_folder = codec_folder
        self._codec: MotionCodec | None = None

    @property
    def codec(self) -> MotionCodec:
        if self._codec is None:
            check_codec(self.codec_folder)
            self._codec = MotionCodec.load(self.codec_folder)
        return self._codec

    def motion(self, motion_tokens: Value) -> Motion:
        """Codes as joints in space: joints (T, J, 3) in metres with y up, rotations, fps and seconds. motion_tokens: in
        the form of a dataset's row, or flat codes."""
        form = isinstance(motion_tokens, str | Mapping) or any(isinstance(step, list | tuple) for step in motion_tokens)
        return self.codec.decode(self.codec.read(motion_tokens) if form else motion_tokens)

    def encode(self, motion: Motion | str | Path, **hints) -> str | dict | list:
        """The codes of a motion, or of a file in any format that is read (docs/files.md), as a dataset's row has them:
        "42 18 91" of one stream. hints: what the file leaves open, as in `read_motion`."""
        motion, name = (motion, "the motion") if isinstance(motion, Motion) else (read_motion(motion, **hints), motion)
        try:
            return self.codec.streams.written(self.codec.encode(motion))
        except MotionError as error:
            raise MotionError(f"{name}, for the codec in {self.codec_folder}: {error}") from None

    def spliced(self, motion: Motion | str | Path, codes: Sequence[int], **hints) -> Motion:
        """A motion, or that of a file, with what flat codes change of its own; the rest is as recorded (splicing.py).
        hints: as in `encode`."""
        return spliced(motion if isinstance(motion, Motion) else read_motion(motion, **hints), codes, self.codec)

    def closing_jerk(self, codes: Sequence[int], start: int) -> float:
        """How roughly a loop of flat codes is closed that goes back to its start from step `start` on, see
        finishing.py."""
        return closing_jerk(self.motion(codes), start * self.codec.window)

    def clip(self, codes: Sequence[int], caption: str = "", note: str = "") -> Clip:
        """Flat codes as a moving figure; its note is `note`, the number of tokens and the seconds."""
        motion = self.motion(codes)
        return Clip(motion, caption, f"{note}{len(codes)} tokens, {motion.seconds:.1f} s")


def check_codec(codec_folder: Path) -> None:
    """Raises MotionError where a model's folder has no codec."""
    if not codec_folder.is_dir():
        raise MotionError(f"{codec_folder.parent} does not know the codec of its tokens: set CODEC_PATH in config.py "
                          "and start the training command again, which then only adds it")
