"""Packed dataset on disk: shards, manifest, statistics, cached edges."""
