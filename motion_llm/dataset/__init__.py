"""From a dataset's file to checked, split, memory-mapped rows, and to length limits for the motion of a caption.

Read in this order: reader (a file in chunks), caption_rules, motion_tokens and checks (the rules for a row), rows
(compact columns), report (facts and problems as text), markers (codes that are probably no motion), spellings (names
that are written in several ways), splits (what is held out), prepared (the table on disk), sequence_lengths (what fits
MAX_SEQ_LEN), caption_index (similar captions), length_regression and lengths (how long a motion for a caption should
be). Other projects' data: token_files (their tokens), layouts (their folders).

data.py at the top puts these together. This wing may import templates.py, streams, json_files and digests, and nothing
else of the project.
"""
