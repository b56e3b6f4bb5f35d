"""The quiet suite: healthy models that learn, written the way people write them; any warning here is a false alarm."""
