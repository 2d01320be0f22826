"""One stage of training: what it needs in memory, its checkpoints, and the folder of a run.

Read in this order: work_folder (what a run's folder holds), memory (how many positions fit in one pass), stage_trainer
(the Trainer: checkpoints, held-out loss, learning rates), processes (several that train together), baselines (the
held-out table that a run ends with), gallery (its page of clips).

train.py at the top trains a stage with it, train_pipeline.py a whole run. It may import the ten modules that a run
needs, decoding and the wings below.
"""
