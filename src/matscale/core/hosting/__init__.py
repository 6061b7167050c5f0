"""Discovery, import and calls of plugins; `matscale.core.hosting.host` is the entry point."""
