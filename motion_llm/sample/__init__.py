"""Builds the bundled sample (data/sample_motion.json) from the motions of a stick figure.

Read in this order: stick_figure (a figure that walks, waves and kicks), build (its clips, their captions, their codec).
It may import motion.
"""
