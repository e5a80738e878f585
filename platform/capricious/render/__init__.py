"""From one portrait and a model bundle to sweeps, sheets and whole paintings."""
