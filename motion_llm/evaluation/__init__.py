"""How good a model is, with what certainty, and the page that says so.

Read in this order: run (an evaluation from start to end), rows (what is scored, against what), table (every metric
with its interval), intervals, evaluator (the judge of text and motion), embedding_metrics (FID, R-Precision),
joint_judge and joint_metrics, tasks with caption_metrics and lost_tokens (captions and denoising), recogniser (which
action a clip shows), generated_clips (clips of other models), findings (what the table says), charts and report_page
(the page).

evaluate.py at the top is its command line, metrics.py has the metrics of codes. It may import the ten modules and every
wing but training and benchmarks.
"""
