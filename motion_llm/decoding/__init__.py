"""From a request to codes.

Read in this order: request (what can be asked, what is answered), jobs (a request as prompt, limits and codes),
constraints (what stops an answer from leaving the codebook or its length), loop (the decode loop).

generate.py at the top is the door to it. It may import model.py, templates.py, dataset and network.
"""
