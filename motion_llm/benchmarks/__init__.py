"""What bench.py measures, a module for each of its commands: add_arguments, run and format_figures.

train, decode, tasks, requests, scenes, data, curve, codec, bases, vllm, wordings, faults; wording_sets has the
captions, their meanings and other words for them that `wordings` holds out, sentences what other people wrote. faults
makes a small run once (fault_stock), copies it for each of its trials (fault_trials), damages something (fault_kinds),
runs a command (fault_commands) in a fork of a process that has imported everything (fault_server) and judges the
answer (fault_judge).

It may import the ten modules and every wing.
"""
