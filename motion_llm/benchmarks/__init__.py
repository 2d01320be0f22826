"""What bench.py measures, a module for each of its commands: add_arguments, run and format_figures.

train, decode, tasks, requests, data, curve, codec, vllm, wordings; wording_sets has the captions, their meanings and
other words for them that `wordings` holds out.

It may import the ten modules and every wing.
"""
