"""The networks and their losses; torch only."""
