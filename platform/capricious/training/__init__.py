"""The training step and loop, in one plain process or under Ray Train."""
