"""The local page where a sentence becomes a moving figure, for several people at once.

Read in this order: worker (one queue for all, rounds of clips, who waits for what; pure Python), models (the generators
behind the page, and one round decoded step by step), questions (what was typed, checked, as requests; what is shown of
an answer), page and page.css (the layout, with Gradio; a thin layer).

demo.py at the top is its command. It may import generate.py and the wings below it.
"""
