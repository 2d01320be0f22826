"""Exports a tiny random model: `python make_tiny.py folder`, and with a word more one of two streams, in the
environment that has Unsloth. Its codes mean nothing, but a server must keep its answers valid."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import conftest  # noqa: F401, E402  sets the project's path and the tests' environment variables


def main(folder: Path, has_streams: bool) -> None:
    # The project is on the path only after conftest.
    import config
    import data
    import export
    from model import ModelConfig, build
    from motion_llm.dataset.lengths import LengthModel
    from motion_llm.dataset.rows import caption_key
    from motion_llm.streams import Streams

    folder.mkdir(parents=True)
    base, stage = folder / "base", folder / "stage"
    conftest.make_base("llama_served", str(base))
    rows = folder / "rows.json"
    rows.write_text(json.dumps(conftest.tiny_rows()), encoding="utf-8")
    report = data.read_rows(rows, 256)
    lengths = LengthModel.fit(report.rows.chunks, caption_key)
    codebook = Streams(("body", "hands"), (10, 6)) if has_streams else 16
    model = build(ModelConfig(str(base), 256, 4, 8, "float32"), codebook, ["P001", "P002"])
    model.save(stage, {"stage": "tiny", "tasks": ["t2m"], "settings": config.defaults() | {"MAX_SEQ_LEN": 256},
                       "length_model": lengths.to_dict(), "history": {}})
    export.export(stage, folder / "served")


if __name__ == "__main__":
    main(Path(sys.argv[1]), len(sys.argv) > 2)
