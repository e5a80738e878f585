"""Capricious: re-render portraits at other ages, from one painting to a whole collection.

The data's way through the house is the way through the rooms::

    faces → annotate → data → model → training → render → evaluate → cluster

`jobs/` and `serve/` at the top of the repository are thin entries over them.
"""

__version__ = "0.1.0"
