"""A real server of vLLM on loopback, used through the client."""

import os
import random
import statistics
import subprocess
import sys
import time

import pytest

from motion_llm.serving.client import Client, ClientError, Clip


def clips_of(client: Client, count: int) -> list[Clip]:
    """With windows of every kind, restricted codes for a third of them, and a seed for half of them."""
    rng, captions = random.Random(0), list(client.prompts.length_model.captions)
    people, clips = [None, *client.prompts.vocabulary.participants], []
    for i in range(count):
        shortest = rng.randint(1, 60)
        codes = tuple(rng.sample(range(client.prompts.vocabulary.codebook_size), 5)) if i % 3 == 0 else None
        clips.append(Clip(captions[i % len(captions)], people[i % len(people)], shortest,
                          shortest + rng.choice([0, 1, 7, 30]), None, codes, i if i % 2 else None))
    return clips


def all_answered(exported, server, capsys, name: str) -> None:
    folder = exported(name)
    client = Client(folder, server(name).url)
    clips = clips_of(client, 200)
    client.ask(clips[0])
    started = time.perf_counter()
    answers = client.ask_all(clips, at_once=200)
    seconds = time.perf_counter() - started
    assert len(answers) == 200
    for clip, codes in zip(clips, answers, strict=True):
        assert clip.min_tokens <= len(codes) <= clip.max_tokens
        assert set(codes) <= set(clip.codes or range(client.prompts.vocabulary.codebook_size))
    tokens = sum(len(codes) + 1 for codes in answers)
    with capsys.disabled():
        print(f"\n{name}: 200 requests at once in {seconds:.1f} s, {200 / seconds:.1f} requests/s, "
              f"{tokens / seconds:.0f} tokens/s")


def test_200_requests_at_once_are_all_answered_validly_inside_their_windows(exported, server, capsys):
    all_answered(exported, server, capsys, "tiny")


def test_lengths_come_nearer_to_the_target_as_the_slope_grows(exported, server):
    folder, url = exported("tiny"), server("tiny").url
    errors = []
    for slope in (0.0, 0.05, 1.0):
        client = Client(folder, url, temperature=1.0, end_logit_slope=slope)
        clips = [Clip("a person jumps", None, 1, 60, 30.0, None, seed) for seed in range(48)]
        errors.append(statistics.mean(abs(len(codes) - 30) for codes in client.ask_all(clips)))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 4


def test_a_request_that_the_plugin_cannot_read_is_refused_by_the_server(exported, server):
    client = Client(exported("tiny"), server("tiny").url)
    content = client.request(Clip("a person jumps")) | {"model": "motion"}
    for arguments, message in [({"end_logit_slope": 1.0}, "end_id is None"),
                               ({"end_logit_slope": "1", "end_id": 3, "soft_target": 2}, "end_logit_slope is '1'"),
                               ({"end_logit_slope": 1e9, "end_id": 3, "soft_target": 2}, "expected at most 1000")]:
        with pytest.raises(ClientError, match=f"answered 400.*{message}"):
            client._send("/v1/completions", content | {"vllm_xargs": arguments})


def test_the_exported_client_runs_by_itself(exported, server, tmp_path):
    """From its own folder, with nothing of this project on the path."""
    folder, url = exported("tiny"), server("tiny").url
    command = [sys.executable, str(folder / "client.py"), "--url", url, "--prompt", "a person jumps",
               "--prompt", "never heard <MOT_END> 💃", "--participant_id", "P001", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                          env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    assert done.returncode == 0, done.stderr
    assert [len(line.split()) > 0 for line in done.stdout.splitlines()] == [True, True]


def greedy(folder, url: str) -> list[list[int]]:
    client = Client(folder, url, temperature=0.0, end_logit_slope=0.5)
    return client.ask_all([Clip(clip.caption, clip.participant_id, clip.min_tokens, clip.max_tokens)
                           for clip in clips_of(client, 24)])


@pytest.fixture(scope="module")
def one_process_answers(exported, server):
    return greedy(exported("tiny"), server("tiny", "--dtype", "float32").url)


@pytest.mark.parametrize("option", ["--tensor-parallel-size", "--data-parallel-size"])
def test_two_processes_give_the_greedy_answers_of_one(exported, server, one_process_answers, option):
    assert greedy(exported("tiny"), server("tiny", "--dtype", "float32", option, "2").url) == one_process_answers


def test_a_server_without_the_plugin_is_refused_and_taken_with_slope_0(exported, server):
    folder, url = exported("tiny"), server("tiny", plugin=False).url
    with pytest.raises(ClientError, match="runs without the plugin"):
        Client(folder, url).ask(Clip("a person jumps"))
    assert Client(folder, url, end_logit_slope=0).ask(Clip("a person jumps", max_tokens=5))


def test_200_requests_at_once_of_the_sample_model(exported, server, capsys):
    all_answered(exported, server, capsys, "sample")
