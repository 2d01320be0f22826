"""The bundled sample (data/sample_motion.json), and the figure that it was made of.

Read in this order: stick_figure (a figure that walks, waves and kicks), build (its clips, their captions, their codec).
It may import motion.
"""
