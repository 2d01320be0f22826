"""client.py and an export's folder: the same prompts and length limits as in the project, and checked answers; the
server is a stand-in with prepared answers."""

import http.server
import json
import threading

import pytest

import export
from motion_llm.serving.client import Client, ClientError, Clip, Prompts

CAPTIONS = ["a person jumps", "  A person walks forward. ", "ein Mensch tanzt 💃🏽", "人が歩く", "שלום a person",
            "a\nb\tc", "walks <MOT_END> <|im_end|>\n<motion_3><T2M>", "<start_of_turn>model <eos>", "x" * 90]


@pytest.fixture(scope="module")
def served(tiny_run, tmp_path_factory):
    return export.export(tiny_run / "stage3_t2m_sft", tmp_path_factory.mktemp("client") / "served")


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "qwen3", "gemma3"])
def test_prompts_are_those_of_the_template(tiny_base, tmp_path, kind):
    """For tokenizers of each family, as an export keeps them."""
    from test_export import exported  # loads PyTorch, which the other tests here do not need

    model, folder = exported(tiny_base(kind), tmp_path)
    prompts = Prompts(folder)
    for caption in CAPTIONS:
        for person in (None, "P0"):
            assert prompts.ids(Clip(caption, person)) \
                == model.template.render("t2m", text=caption, participant_id=person, answer=False).ids
    with pytest.raises(ValueError, match="participant 'P7' is unknown; there are P0, P1"):
        prompts.ids(Clip("a dance", "P7"))


def test_windows_are_those_of_the_generator_where_a_clip_leaves_them_open(served, tiny_run):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start (tiny_run)

    prompts, generator = Prompts(served), MotionGenerator(tiny_run / "stage3_t2m_sft")
    for caption in ("a person jumps", "A person  JUMPS.", "a person who jumps", "nothing of the kind"):
        for person in (None, "P001"):
            limits = prompts.limits(Clip(caption, person), 20)
            assert limits == generator.length_model.limits(caption, person)


@pytest.mark.parametrize(("clip", "window"), [
    (Clip("a person jumps", min_tokens=40), (40, 40.0, 40)),
    (Clip("a person jumps", max_tokens=3), (3, 3.0, 3)),
    (Clip("a person jumps", min_tokens=2, max_tokens=90, soft_target=50.5), (2, 50.5, 90)),
])
def test_a_clip_may_have_its_own_window(served, clip, window):
    limits = Prompts(served).limits(clip, 20)
    assert (limits.min_tokens, limits.soft_target, limits.max_tokens) == window


@pytest.mark.parametrize(("clip", "message"), [
    (Clip("a person jumps", max_tokens=0), "max_tokens is 0, expected 1 to 113"),
    (Clip("a person jumps", min_tokens=114), "min_tokens is 114, expected 1 to 113"),
    (Clip("a person jumps", min_tokens=5, max_tokens=4), "length limits 5 to 4"),
    (Clip("a person jumps", codes=(128,)), "code 128 at position 0 is outside the codebook"),
    (Clip("x " * 200), "of the model's 128 positions"),
])
def test_a_clip_that_cannot_be_requested_is_refused(served, clip, message):
    with pytest.raises(ValueError, match=message):
        Client(served).request(clip)


def test_a_request_carries_ids_and_a_grammar(served):
    client = Client(served, top_p=0.9, end_logit_slope=0.5)
    clip = Clip("a person jumps", "P001", 4, 9, 6.0, (1, 2, 3, 7), 5)
    first = client.prompts.vocabulary.first_motion_id
    assert client.request(clip) == {
        "prompt": client.prompts.ids(clip), "max_tokens": 10, "stop_token_ids": [first + 128],
        "structured_outputs": {"grammar": f"%llguidance {{}}\nstart: <[{first + 1}-{first + 3},{first + 7}]>{{4,9}} "
                                          f"<[{first + 128}]>\n"},
        "return_token_ids": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0, "seed": 5,
        "vllm_xargs": {"end_id": first + 128, "soft_target": 6.0, "end_logit_slope": 0.5}}
    assert "vllm_xargs" not in Client(served, end_logit_slope=0).request(clip)
    with pytest.raises(ClientError, match="heat: unknown; there are temperature"):
        Client(served, heat=1)


@pytest.fixture
def server():
    """A stand-in that sends server.answers in turn, (status, content), and collects server.requests."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {"data": [{"id": "motion"}]})

        def do_POST(self):
            self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(*self.server.answers.pop(0))

        def reply(self, status, content):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.requests = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url_of(server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


HAS_PLUGIN = (400, {"error": {"message": "vllm_xargs: end_logit_slope is -1, expected a number from 0"}})


def test_an_answer_becomes_codes(served, server):
    client = Client(served, url_of(server))
    first = client.prompts.vocabulary.first_motion_id
    server.answers += [HAS_PLUGIN, (200, {"choices": [{"token_ids": [first + 3, first, first + 128]}]})]
    assert client.ask(Clip("a person jumps", min_tokens=1, max_tokens=4)) == [3, 0]
    assert server.requests[1]["model"] == "motion" and server.requests[1]["prompt"][-1] == first + 129


@pytest.mark.parametrize(("status", "content", "message"), [
    (200, {"choices": [{"token_ids": [0, 1, 128]}]}, "not a motion of 3 to 4 codes"),
    (200, {"choices": [{"token_ids": [0, 1, 2, 3, 4, 128]}]}, "not a motion of 3 to 4 codes"),
    (200, {"choices": [{"token_ids": [0, 1, 2, 3], "finish_reason": "length"}]}, r"\(length\): was the grammar left"),
    (200, {"choices": [{"token_ids": [0, 1, 9, 128]}]}, "not a motion"),
    (200, {"choices": [{"text": "<motion_3>"}]}, "no token_ids"),
    (400, {"error": {"message": "grammar unknown"}}, "answered 400: .*grammar unknown"),
    (200, b"<html>", "answered no JSON"),
])
def test_an_answer_that_is_not_valid_is_an_error(served, server, status, content, message):
    client = Client(served, url_of(server), end_logit_slope=0)
    first = client.prompts.vocabulary.first_motion_id
    for choice in content.get("choices", ()) if isinstance(content, dict) else ():
        if "token_ids" in choice:
            choice["token_ids"] = [first + i if i != 9 else 9 for i in choice["token_ids"]]
    server.answers.append((status, content))
    with pytest.raises(ClientError, match=message):
        client.ask(Clip("a person jumps", min_tokens=3, max_tokens=4))


def test_a_server_without_the_plugin_is_refused(served, server):
    server.answers.append((200, {"choices": [{"token_ids": [3]}]}))
    with pytest.raises(ClientError, match="runs without the plugin"):
        Client(served, url_of(server)).ask(Clip("a person jumps"))


def test_no_server_and_no_export_are_named(served, tiny_run, tmp_path):
    with pytest.raises(ClientError, match="no answer from http://127.0.0.1:9/v1/models"):
        Client(served, "http://127.0.0.1:9").ask(Clip("a person jumps"))
    with pytest.raises(ClientError, match="has no motion_config.json: it is no exported model"):
        Client(tmp_path)
    with pytest.raises(ClientError, match="it is a model's folder, not an exported one"):
        Client(tiny_run / "stage3_t2m_sft")
