"""The wings behind the ten modules at the top; each has one job, told in its own docstring.

dataset     from a file to checked, split, memory-mapped rows, and what they say about length
network     what the base model's network is made to do
training    one stage: its memory, its checkpoints, the folder of a run
decoding    from a request to codes
serving     the same answers from serving engines
motion      figures that move: BVH files, features, quantisers
viewer      pictures, pages and videos of motion
evaluation  how good a model is, with what certainty, on which page
benchmarks  what bench.py measures
sample      the bundled sample, and the figure that it was made of

Beside them: streams (motions of several token streams as one sequence of codes), and small modules for files.

Which of them may import which is one table in tests/test_imports.py.
"""
