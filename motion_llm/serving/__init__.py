"""The same answers from serving engines: what a trained model needs beside it there.

Read in this order: grammar (what an answer may hold, for llguidance), end_shift (the soft target of a length, a plugin
for vLLM), client (a client of a server, which goes into every export), vllm_engine (vLLM in the same process),
export_readme.md (the README of an export).

export.py at the top writes the folder. It may import templates.py, dataset, network and decoding's requests.
"""
