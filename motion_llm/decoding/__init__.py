"""From a request to codes.

Read in this order: request (requests and results), jobs (a request as prompt, limits and codes), constraints (which
keep an answer in the codebook and its length limits), loop (the decode loop).

generate.py at the top is the public interface. It may import model.py, templates.py, dataset and network.
"""
