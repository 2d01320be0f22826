"""Motion of a skeleton: files in and out, the features that codecs quantise, and the codecs.

Read in this order: skeleton (a motion: joints, skeleton, frames a second), names (left and right, one figure in two
files), kinematics (rotations), bvh_numbers, bvh_reader and bvh, joints_file, amass, pose_file and files (every format
that is read), glb, npz, rest_pose and retarget (what is written), features (what codecs quantise), kmeans and vqvae
(the two quantisers), clip_files, survey and look_ahead (a folder of motions, what they have in common, and what a codec
of them will be), parts and part_features (which joints a part has, and its features), stream_quantisers (of parts and
of levels), codec_files and codec (a codec's folder, a fitted codec), legs and feet (two-bone inverse kinematics, feet
that do not slide) and finishing (still ends, on the spot, how a loop meets its start), splicing (a part made anew),
captions (a dataset from clips), humanml3d, humanml3d_codec, humanml3d_network and checkpoint (the published codec of
T2M-GPT and MotionGPT).

codec.py and humanml3d.py at the top are its command lines. It imports arrays, digests, input_files, json_files,
saving and streams, and nothing else of the project.
"""
