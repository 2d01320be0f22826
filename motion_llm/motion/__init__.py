"""Motion of a skeleton: BVH files, the features that codecs quantise, and the codecs.

Read in this order: skeleton (a motion: joints, skeleton, frames a second), kinematics (rotations), bvh (files),
features (what codecs quantise), kmeans and vqvae (the two quantisers), codec (a fitted codec and its folder),
humanml3d and humanml3d_network (the published codec of T2M-GPT and MotionGPT).

codec.py at the top is its command line. It imports nothing of the project but json_files.
"""
