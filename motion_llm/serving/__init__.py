"""Decoding with serving engines: what a trained model needs there to give the same answers.

Read in this order: grammar (the allowed ids, for llguidance), end_shift (the soft target of a length, a plugin for
vLLM), client (a client of a server, which goes into every export), vllm_engine (vLLM in the same process),
export_readme.md (the README of an export) and quoting (a model's text in it).

export.py at the top writes the folder. Serving may import templates.py, dataset, network, decoding.request,
command_line and json_files.
"""
