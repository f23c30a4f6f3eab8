"""The wizard: ``rosi-edge tui``. It shows what the library does and computes no figure of its own.

``app`` is the application, ``panes`` its seven steps, ``widgets`` what they are made of and ``screens`` what
lies over them. Everything slow runs in a thread (``jobs``); the model runs in a child process of its own.
"""
