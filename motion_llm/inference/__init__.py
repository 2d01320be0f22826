"""Behind inference.py: its flags, what they ask for, and what is wrong with them.

Read in this order: flags, questions. Neither imports torch, so that `--help` and refusals come at once. For
inference.py alone.
"""
