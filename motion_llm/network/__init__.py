"""The base model's network beyond transformers and PEFT: loading it, initial rows, faster training and decoding.

Read in this order: folder (the JSON that a model's folder keeps), arithmetic (the number format that a processor is
fastest with), base (where the base model comes from, how it is loaded), code_vectors (the initial embedding rows of the
codes), fuse and fused (training on a CPU with fewer operations and less memory), cached with cached_layers and graphs
(the forward pass for decoding), known_bases, merged and folder_tokenizer (a trained model read for decoding alone,
without Unsloth and transformers).

model.py at the top is the model. This wing imports arrays, json_files, saving and streams, and nothing else of the
project.
"""
