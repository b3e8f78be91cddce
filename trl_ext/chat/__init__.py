"""Talking to a model that was trained, and to what it was before.

Files: ``conversation`` keeps what was said and makes token ids of it, ``answer`` generates and streams, ``side`` is one
of the models with its conversation, ``screen`` shows answers, ``session`` reads questions until there are no more.
"""
