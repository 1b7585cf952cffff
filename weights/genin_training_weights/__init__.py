"""Data alone: `builtin:teacher`, the statistics of its pictures and the classifier of the built-in world's attributes.

They are apart from genin because a game or an app that draws with a student needs none of them.
"""
