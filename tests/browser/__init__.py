"""Reports as a reader sees them: opened from disk, in a real browser, without a network."""
