"""The service. A regular package, so that no other `serve` on a worker's path can take its place."""
