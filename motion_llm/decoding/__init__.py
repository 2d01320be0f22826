"""From a request to codes.

Read in this order: request (requests and results), known_captions (which training caption a sentence in new words is
taken for) with untrained_base (which says what means the same), jobs (a request as prompt, limits and codes), alphabet
(scores for the codes and the end alone), loop (the decode loop), sampling (how a code is drawn from its scores),
constraints (which keep an answer in its length limits), scene (several sentences in a row) and scene_plan (as requests
that go on from each other), timeline (a scene in a file), scoring (which motion fits a caption, and which caption a
motion), answerer (all of it together, from requests to results).

generate.py at the top is the public interface. It may import model.py, templates.py, streams, json_files, dataset and
network.
"""
