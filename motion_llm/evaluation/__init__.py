"""How good a model is, how certain that is, and the page that says so.

Read in this order: run (an evaluation from start to end) with request, clips and rows (which clips are scored, which
were trained on), results (scoring and the files), metric_names, stream_clips (clips of several streams taken apart),
table (every metric with its interval; its `set_values` compares the clips with the real ones of the same rows, for FID
too), intervals and set_intervals, evaluator (it judges text and motion), evaluator_folder (where it is kept),
embedding_metrics (the formulas of FID and R-Precision), joint_judge and joint_metrics, by_stream and part_judge
(figures of each stream, and of each part's joints), tasks with caption_metrics and lost_tokens (captions and
denoising), recogniser (which action a clip shows), generated_clips (clips of other models), following (the verdict),
findings (the table in sentences), charts, report_sections, report_blocks and report_page (the page), progress (bars).

evaluate.py at the top is its command line, metrics.py has the metrics of codes. It may import the ten modules and every
wing but training and benchmarks.
"""
