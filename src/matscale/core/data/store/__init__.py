"""A packed dataset on disk: shards, manifest, statistics, cached edges."""
