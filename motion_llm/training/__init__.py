"""Training: what a stage needs in memory and time, its checkpoints, and the folder of a run.

Read in this order: work_folder (what a run's folder holds), going_on (which of its limits may change), stage_folders
(which stages are to be trained, what is saved), memory (how many positions fit in one pass), batch_size (examples an
update), schedule (learning rates, noise, minutes), forecast (whether training is enough), checkpoints (their files),
stage_trainer (the Trainer: updates, held-out loss, saving), processes (several that train together), baselines (the
held-out table that a run ends with), gallery (its page of clips).

train.py at the top trains a stage with it, train_pipeline.py a whole run. It may import the ten modules that a run
needs, decoding and the wings below.
"""
