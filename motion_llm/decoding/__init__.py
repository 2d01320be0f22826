"""From a request to codes.

Read in this order: request (requests and results), known_captions (which training caption a sentence in new words is
taken for), jobs (a request as prompt, limits and codes), loop (the decode loop; its `Alphabet` gives scores to the
codes and the end alone), constraints (which keep an answer in its length limits).

generate.py at the top is the public interface. It may import model.py, templates.py, streams, dataset and network.
"""
