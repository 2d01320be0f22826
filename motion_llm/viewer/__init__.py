"""Pictures, pages and videos of motion.

Read in this order: figure (how a skeleton is drawn), page and page.html (a page to turn and play clips in), raster (a
picture without a screen), video (GIF and MP4), files (clips to files, by the path's suffix), codec_figures (codes to
figures and back).

view.py at the top is its command line. It may import motion.
"""
