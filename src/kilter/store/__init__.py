"""Where results live: manifests, objects and their transfer."""
