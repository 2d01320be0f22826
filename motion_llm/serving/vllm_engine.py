"""Decoding on vLLM in this process, for `MotionGenerator(folder, engine="vllm")`.

The folder is an exported one (export.py); neither Unsloth nor the base model is needed. A request's codes and window
are sent as a grammar, its soft target to the plugin end_shift.py; every answer is checked.
"""

import importlib.util
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.request import LEAST_TEMPERATURE
from motion_llm.network.folder import ModelError, read_motion_config
from motion_llm.serving.grammar import motion_grammar
from templates import MotionTemplate, MotionVocabulary

PLUGIN = "motion_llm.serving.end_shift:EndShift"


def _start_vllm():
    """Import vLLM and return it, without usage reports or access to a hub, and with warnings alone logged, to stderr.
    Environment variables that are set already stay as they are."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError("the package vllm is not installed here: it has an environment of its own, which "
                         "`make .venv-vllm/installed` makes for a CPU (requirements-vllm.txt)")
    for name, value in {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
                        "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING",
                        "VLLM_CPU_KVCACHE_SPACE": "2", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    import vllm

    return vllm


class VllmEngine:
    """An exported model on vLLM. options go to vllm.LLM: dtype, tensor_parallel_size, ...

    Raises ModelError for a folder that is no export, and where vLLM is not installed.
    """

    def __init__(self, folder: str | Path, **options):
        content = read_motion_config(folder)
        if "turns" not in content:
            raise ModelError(f"{folder} is a stage's folder, vLLM needs an exported one: "
                             f"python export.py --model_path {folder} --output served")
        vllm = _start_vllm()
        import torch
        from transformers import AutoTokenizer

        self.folder = Path(folder)
        self.settings = content["settings"]
        self.captions = tuple(content["length_model"]["captions"])  # of the training data, as keys
        self.version = vllm.__version__
        self.vocabulary = MotionVocabulary.from_dict(content["vocabulary"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.template = MotionTemplate(self.tokenizer, self.vocabulary)
        if not torch.cuda.is_available():
            # vLLM 0.32 on a CPU crashes on a request with a seed whose prompt is read in two parts.
            options = {"enable_chunked_prefill": False} | options
        self._vllm = vllm
        self._engine = vllm.LLM(
            model=str(folder), max_model_len=self.settings["MAX_SEQ_LEN"], logits_processors=[PLUGIN],
            structured_outputs_config={"backend": "guidance"}, disable_log_stats=True, **options)

    def decode(self, requests: Sequence, samplings: Sequence, seed: int) -> list[list[int]]:
        """Codes for each request, in their order; vLLM batches them.

        requests: each with prompt_ids (list of ids), limits (LengthLimits) and codes (those allowed; None for all).
        samplings: one for each, with temperature, top_p, top_k and slope, as decoding.request.Sampling. The
        same requests and seed give the same codes. Each request has its own seed, but its codes still depend on the
        other requests, because vLLM's arithmetic depends on the batch.
        """
        if not requests:
            return []
        seeds = random.Random(seed)
        params = [self._params(request, sampling, seeds.getrandbits(63))
                  for request, sampling in zip(requests, samplings, strict=True)]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        outputs = self._engine.generate(prompts, params, use_tqdm=False)
        return [self._codes(output.outputs[0].token_ids, request.limits, request.codes)
                for output, request in zip(outputs, requests, strict=True)]

    def seconds_to_first_tokens(self, requests: Sequence, sampling, seed: int) -> float:
        """Seconds until each of `requests`, all sent at once, has its first token."""
        params = [self._params(request, sampling, seed) for request in requests]
        for param in params:
            param.max_tokens = 1
        started = time.perf_counter()
        self._engine.generate([{"prompt_token_ids": list(request.prompt_ids)} for request in requests], params,
                              use_tqdm=False)
        return time.perf_counter() - started

    def _params(self, request, sampling, seed: int):
        vocabulary, limits = self.vocabulary, request.limits
        greedy = sampling.temperature < LEAST_TEMPERATURE
        shift = {"end_id": vocabulary.end_id, "soft_target": float(limits.soft_target),
                 "end_logit_slope": float(sampling.slope)}
        in_step = vocabulary.streams.count  # of the codes that limits count
        grammar = motion_grammar(vocabulary, limits.min_tokens // in_step, limits.max_tokens // in_step, request.codes)
        sampled = {} if greedy else {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": seed}
        return self._vllm.SamplingParams(
            temperature=0.0 if greedy else sampling.temperature, **sampled, max_tokens=limits.max_tokens + 1,
            stop_token_ids=[vocabulary.end_id], detokenize=False, extra_args=shift if sampling.slope else None,
            structured_outputs=self._vllm.sampling_params.StructuredOutputsParams(grammar=grammar))

    def _codes(self, ids: Sequence[int], limits: LengthLimits, allowed: Sequence[int] | None) -> list[int]:
        ids = list(ids)
        codes = [i - self.vocabulary.first_motion_id for i in ids[:-1]]
        if not (ids and ids[-1] == self.vocabulary.end_id and limits.min_tokens <= len(codes) <= limits.max_tokens
                and self.vocabulary.streams.problem(codes) is None
                and (allowed is None or set(codes) <= set(allowed))):
            raise RuntimeError(f"vLLM broke the limits ({limits}): {ids}")
        return codes

    def close(self) -> None:
        """End vLLM's processes; the engine cannot be used after it."""
        self._engine.llm_engine.engine_core.shutdown()
