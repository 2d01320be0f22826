"""What the base model's network is made to do, beside what transformers and PEFT make of it.

Read in this order: folder (the JSON that a model's folder keeps), code_vectors (where the rows of new codes start),
fuse and fused (training with fewer steps and less memory on a CPU), cached (the forward pass for decoding).

model.py at the top is the model. It imports nothing of the project but json_files.
"""
