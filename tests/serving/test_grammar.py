"""grammar.py: the text of a grammar; llguidance allows under it exactly what the logits processor allows."""

import importlib.util
import random

import pytest

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.serving.grammar import id_ranges, motion_grammar
from motion_llm.streams import Streams
from templates import MotionVocabulary

BYTES = 262  # ids of llguidance's byte tokenizer
VOCABULARY = MotionVocabulary(100, 40)  # ids 100 to 139 are codes, 140 is the end
TWO_STREAMS = MotionVocabulary(100, 40, (), Streams(("body", "hand"), (30, 10)))


def test_a_grammar_names_ranges_of_ids():
    assert motion_grammar(MotionVocabulary(49152, 512), 20, 40) \
        == "%llguidance {}\nstart: <[49152-49663]>{20,40} <[49664]>\n"
    assert motion_grammar(VOCABULARY, 3, 3, codes=(5, 0, 1, 2, 5, 9)) \
        == "%llguidance {}\nstart: <[100-102,105,109]>{3,3} <[140]>\n"
    assert id_ranges([7]) == "7" and id_ranges([8, 7]) == "7-8"


@pytest.mark.parametrize(("window", "codes", "message"), [
    ((0, 4), None, "0 to 4 tokens: expected 1 <= min_tokens <= max_tokens"),
    ((5, 4), None, "5 to 4 tokens"),
    ((1, 4), (), "codes is empty"),
    ((1, 4), (3, 40), "code 40 at position 1 is outside the codebook \\(0 to 39\\)"),
    ((1, 4), (-1,), "code -1 at position 0"),
])
def test_a_window_or_codes_that_allow_nothing_are_refused(window, codes, message):
    with pytest.raises(ValueError, match=message):
        motion_grammar(VOCABULARY, *window, codes)


@pytest.fixture(scope="module")
def processor_class(request):
    """From generate.py, after Unsloth's start where it is installed (the environment of vLLM has none)."""
    if importlib.util.find_spec("unsloth"):
        request.getfixturevalue("unsloth")
    from generate import LengthAwareMotionLogitsProcessor  # imports transformers

    return LengthAwareMotionLogitsProcessor


@pytest.mark.parametrize("codes", [None, (3,), (0, 1, 2, 7, 39), tuple(range(0, 40, 2))])
@pytest.mark.parametrize("window", [(1, 1), (1, 6), (4, 4), (3, 9), (2, 60)])
def test_grammar_and_processor_allow_the_same_set_in_every_state(processor_class, window, codes):
    llguidance = pytest.importorskip("llguidance", reason="llguidance is not installed: `make test-vllm` has it")
    import torch

    tokenizer = llguidance.LLTokenizer("byte")
    assert tokenizer.vocab_size == BYTES
    matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from("grammar", motion_grammar(VOCABULARY, *window,
                                                                                                codes)))
    allowed = None
    if codes is not None:
        allowed = torch.zeros(1, VOCABULARY.codebook_size, dtype=torch.bool)
        allowed[0, list(codes)] = True
    limits = [LengthLimits(window[0], sum(window) / 2, window[1], "")]
    processor = processor_class(VOCABULARY, limits, 3, 0.5, allowed)
    rng, ids = random.Random(0), [0, 0, 0]
    for tokens in range(window[1] + 1):
        assert not matcher.get_error()
        mask = matcher.compute_bitmask()
        by_grammar = {i for i in range(BYTES) if mask[i // 8] >> i % 8 & 1}
        scores = processor(torch.tensor([ids]), torch.randn(1, BYTES))[0]
        by_processor = scores.isfinite().nonzero().flatten().tolist()
        assert by_grammar == set(by_processor), tokens
        if tokens >= window[0]:  # the end, in every state that allows it, ends the answer
            copy = matcher.deep_copy()
            assert copy.consume_token(VOCABULARY.end_id) and copy.is_stopped()
        if tokens < window[1]:
            ids.append(rng.choice(sorted(by_grammar - {VOCABULARY.end_id})))
            assert matcher.consume_token(ids[-1])
    assert by_processor == [VOCABULARY.end_id]


@pytest.mark.parametrize("codes", [None, (0, 7, 29, 30, 39)])
@pytest.mark.parametrize("window", [(1, 1), (2, 4), (3, 3), (1, 20)])
def test_of_two_streams_grammar_and_processor_allow_the_same_set_in_every_state(processor_class, window, codes):
    llguidance = pytest.importorskip("llguidance", reason="llguidance is not installed: `make test-vllm` has it")
    import torch

    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), llguidance.grammar_from(
        "grammar", motion_grammar(TWO_STREAMS, *window, codes)))
    allowed = None
    if codes is not None:
        allowed = torch.zeros(1, TWO_STREAMS.codebook_size, dtype=torch.bool)
        allowed[0, list(codes)] = True
    processor = processor_class(TWO_STREAMS, [LengthLimits(window[0], sum(window) / 2, window[1], "")], 3, 0.5, allowed)
    rng, ids = random.Random(0), [0, 0, 0]
    for place in range(2 * window[1] + 1):
        mask = matcher.compute_bitmask()
        by_grammar = {i for i in range(BYTES) if mask[i // 8] >> i % 8 & 1}
        scores = processor(torch.tensor([ids]), torch.randn(1, BYTES))[0]
        assert by_grammar == set(scores.isfinite().nonzero().flatten().tolist()), place
        assert (TWO_STREAMS.end_id in by_grammar) == (place % 2 == 0 and place >= 2 * window[0])
        if going_on := sorted(by_grammar - {TWO_STREAMS.end_id}):
            ids.append(rng.choice(going_on))
            assert matcher.consume_token(ids[-1])


def test_a_grammar_of_streams_goes_step_by_step():
    assert motion_grammar(TWO_STREAMS, 2, 4) == "%llguidance {}\nstart: (<[100-129]> <[130-139]>){2,4} <[140]>\n"
    with pytest.raises(ValueError, match="codes is empty for hand"):
        motion_grammar(TWO_STREAMS, 2, 4, (3, 4))


@pytest.mark.parametrize("kind", ["grammar", "ebnf"])  # how vLLM and SGLang pass a grammar to llguidance
def test_the_grammar_is_read_as_engines_pass_it(kind):
    llguidance = pytest.importorskip("llguidance", reason="llguidance is not installed: `make test-vllm` has it")
    tokenizer, grammar = llguidance.LLTokenizer("byte"), motion_grammar(VOCABULARY, 2, 4)
    matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from(kind, grammar))
    assert not matcher.get_error() and not matcher.is_error()
    assert matcher.validate_tokens([100, 139, 140]) == 3 and matcher.validate_tokens([100, 140]) == 1
