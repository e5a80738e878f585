"""How our own parser is made: a small student that learns from a large teacher (`jobs/train_parser.py`)."""
