"""Programs, one a file: configuration in, exit code out. The wheel carries them as capricious.jobs."""
